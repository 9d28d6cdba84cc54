"""A reader's own disk: what outlives a process is believed as far as it is proven, and no further."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.cache.coherence import PartitionView
from models.cache.keys import Space, locate
from models.errors import ServiceUnavailable
from streams.cache.disk_tier import DiskTier
from streams.cache.held import Held
from streams.cache.tier import opened
from streams.clock import SettableClock
from streams.settings import Settings
from tests.conftest import WaitUntil

NOW_NS = 1_760_000_000_000_000_000
S = 1_000_000_000
TEXT = "s:1"
SPACE, PARTITION = Space.GENERIC, locate(TEXT, prefix="", n_partitions=4).partition

ABANDONED = """
import asyncio, sys
from tests.unit.test_disk_tier import Process
async def main():
    process = Process(sys.argv[1])
    async with process.open() as tier:
        for n in range(1, 2001):
            tier.keep(process.held(f"s:{n}", n, b"\\xd9\\x64" + b"x" * 100))
            if n == 1000:
                process.view.position = 1000
                await tier.sweep()
        print("kept", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


class Process:
    """A reader's views and its disk tier; a new one in the same folder is the next process."""

    def __init__(self, folder: Path | str, **reader: Any) -> None:
        settings = Settings()
        reader = {"disk_dir": str(folder), **reader}
        self.settings = replace(settings, reader=replace(settings.reader, **reader))
        self.views = {(space, p): PartitionView(64) for space in Space for p in range(4)}
        self.view = self.views[SPACE, PARTITION]
        self.view.synced = True
        self.clock = SettableClock(NOW_NS)
        self.tier = DiskTier(self.settings, self.views, positions=lambda: {PARTITION: 77}, clock=self.clock)

    def open(self) -> Any:
        return opened(self.tier)

    def held(self, text: str, as_of: int, packed: bytes = b"\xa1x", expires_at_ms: int | None = None) -> Held:
        at = locate(text, prefix="", n_partitions=4)
        view = self.views[SPACE, at.partition]
        return Held(at, view, as_of, as_of, packed=packed, expires_at_ms=expires_at_ms)

    async def read(self, text: str = TEXT) -> Held | None:
        """An answer that the reader may use."""
        at = locate(text, prefix="", n_partitions=4)
        view = self.views[SPACE, at.partition]
        held = await self.tier.read(at, view)
        return held if held is not None and view.admits(at.floor, held.as_of) else None


def next_process(folder: Path, from_version: int, *, caught_up: bool = True) -> Process:
    """It begins to hear with a record that announces what came after a version."""
    process = Process(folder)
    process.view.synced = False
    process.view.hear(from_version, from_version)
    if caught_up:
        process.view.watermark_ns = NOW_NS + S
    return process


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """With an entry that was right as of 3, kept by a process that had heard everything up to 10."""
    process = Process(tmp_path)
    async with process.open() as tier:
        tier.keep(process.held(TEXT, 3))
        process.view.hear(3, 10)
    yield tmp_path


async def test_an_entry_outlives_its_process_and_counts_as_of_all_that_was_heard(folder: Path) -> None:
    after = next_process(folder, 10)
    async with after.open():
        held = await after.read()
    assert held is not None
    assert (held.version, held.as_of, held.packed) == (3, 10, b"\xa1x")


async def test_it_is_not_believed_before_all_was_heard_that_happened_meanwhile(folder: Path) -> None:
    after = next_process(folder, 10, caught_up=False)
    async with after.open():
        assert await after.read() is None
        after.view.watermark_ns = NOW_NS + S
        assert await after.read() is not None


async def test_it_is_not_believed_after_something_was_never_heard(folder: Path) -> None:
    after = next_process(folder, 11)
    async with after.open():
        assert await after.read() is None


async def test_it_is_not_believed_once_it_was_named(folder: Path) -> None:
    after = next_process(folder, 10)
    async with after.open():
        after.view.floors.note(TEXT, 11)
        assert await after.read() is None


async def test_what_was_named_while_the_process_lived_is_gone_in_the_next_one(tmp_path: Path) -> None:
    process = Process(tmp_path)
    async with process.open() as tier:
        tier.keep(process.held(TEXT, 3))
        process.view.hear(3, 10)
        process.view.floors.note(TEXT, 10)
        assert len(tier) == 1
    after = next_process(tmp_path, 10)
    async with after.open() as tier:
        assert len(tier) == 0


async def test_what_is_older_than_the_mark_is_not_kept(folder: Path) -> None:
    """It would count as of the mark after a restart, although a change in between was not heard yet."""
    after = next_process(folder, 5)
    async with after.open() as tier:
        tier.keep(after.held("s:1", 7, b"\xa1y"))
        tier.keep(after.held("s:1", 11, b"\xa1z"))
        held = await after.read()
        assert held is not None
        assert (held.as_of, held.packed) == (11, b"\xa1z")
        assert tier._index.marks[SPACE, PARTITION] == 10
        tier.drop("s:1")
        tier.keep(after.held("s:1", 9))
        assert await after.read() is None


async def test_it_says_from_where_the_next_process_has_to_hear(folder: Path) -> None:
    after = next_process(folder, 10)
    async with after.open() as tier:
        assert tier.resume_at() == {PARTITION: 77}
        after.clock.ns += 3600 * S
        assert tier.resume_at() is None


async def test_keys_of_other_partitions_are_thrown_away(folder: Path) -> None:
    after = next_process(folder, 10)
    after.tier._n_partitions = 8
    async with after.open() as tier:
        assert (len(tier), tier.bytes) == (0, 0)


async def test_a_process_that_is_killed_leaves_all_that_it_kept(tmp_path: Path) -> None:
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", ABANDONED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "kept\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    after = next_process(tmp_path, 1000)
    async with after.open() as tier:
        assert len(tier) == 2000
        texts = [
            text
            for text in (f"s:{n}" for n in range(1, 2001))
            if locate(text, prefix="", n_partitions=4).partition == PARTITION
        ]
        as_of = {text: await after.read(text) for text in texts}
    for text, held in as_of.items():
        assert held is not None
        assert held.as_of == max(1000, int(text[2:]))


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.log"])
async def test_a_damaged_store_is_emptied_or_read_and_never_in_the_way(folder: Path, pattern: str) -> None:
    for path in (folder / "live").glob(pattern):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"\xff" * 8)
    after = next_process(folder, 10)
    async with after.open() as tier:
        assert await after.read() is None or len(tier) == 1
        tier.keep(after.held("s:2", 12))
        assert "s:2" in tier._index


async def test_a_folder_that_another_process_has_is_left_alone(folder: Path) -> None:
    first, second = next_process(folder, 10), next_process(folder, 10)
    async with first.open(), second.open():
        with pytest.raises(ServiceUnavailable, match="cannot be opened"):
            await second.read()
        second.tier.keep(second.held("s:2", 12))
        assert await first.read() is not None


async def test_a_store_that_failed_is_opened_again_by_a_probe(folder: Path) -> None:
    after = next_process(folder, 10)
    async with after.open() as tier:
        tier._db.close()
        with pytest.raises(ServiceUnavailable):
            await after.read()
        after.view.watermark_ns = after.clock.ns + S
        await tier.probe()
        assert await after.read() is not None


async def test_a_sweep_gives_back_the_room_of_what_is_expired_or_cannot_be_believed(tmp_path: Path) -> None:
    process = Process(tmp_path)
    async with process.open() as tier:
        tier.keep(process.held("s:1", 20, expires_at_ms=NOW_NS // 1_000_000 + 500))
        tier.keep(process.held("s:2", 20))
        own = process.views[SPACE, locate("s:2", prefix="", n_partitions=4).partition]
        own.synced = True
        own.floors.note("s:2", 21)
        process.clock.ns += S
        await tier.sweep()
        assert (len(tier), tier.bytes) == (0, 0)
        assert tier._db.get(b"cache/%d/s:1" % PARTITION) is None


async def test_entries_of_two_prefixes_lie_apart(tmp_path: Path, stack: AsyncExitStack) -> None:
    live, run = Process(tmp_path), Process(tmp_path)
    topics = replace(run.settings.topics, prefix="run.7.")
    run.tier = DiskTier(replace(run.settings, topics=topics), run.views, clock=run.clock)
    await stack.enter_async_context(live.open())
    await stack.enter_async_context(run.open())
    live.tier.keep(live.held(TEXT, 3))
    assert await live.read() is not None
    assert await run.read() is None


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_its_files_stay_within_the_bound_whatever_is_written(tmp_path: Path, wait_until: WaitUntil) -> None:
    """Four times the bound, with updates: what was overwritten counts too until its file goes."""
    bound = 8 << 20
    process = Process(tmp_path, disk_bytes=bound)
    rng = random.Random(1)
    most = 0
    async with process.open() as tier:

        def kept(held: Held) -> bool:
            before = tier.refused
            tier.keep(held)
            return bool(tier.refused == before)

        for n in range(1, 8_000):
            size = rng.randrange(3000, 5000)
            packed = b"\xc5" + size.to_bytes(2, "big") + rng.randbytes(size)
            held = process.held(f"s:{rng.randrange(3000)}", n, packed)
            await wait_until(lambda held=held: kept(held), 10.0, "room in the buffers")
            if n % 100 == 0:
                most = max(most, size_of(tmp_path))
    assert bound * 0.6 < most <= bound * 1.05


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
