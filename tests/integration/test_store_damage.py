"""RocksDB's files are cut, flipped, emptied and lost: each damage is found when they are opened, none is believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import rocksdict

from models.errors import CorruptStore
from models.market import pages
from models.market.pages import with_token
from streams.cache.rocks import store_path
from streams.days.replay import Replay
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.disk import close, open_checked, scan
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.workers import GOLDEN, ask, sample_day

N_BARRIERS = 30


def open_store(path: Path) -> rocksdict.Rdict:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(1 << 18)
    return rocksdict.Rdict(str(path), options)


Content = dict[bytes, bytes]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Content]]:
    """Files of a store whose process was killed, with tables and a log, and what it held after each of its barriers."""
    folder = tmp_path_factory.mktemp("store")
    random = Random(1)
    content: Content = {}
    states = [dict(content)]
    db = open_store(folder / "live.db")
    for barrier in range(N_BARRIERS):
        batch = rocksdict.WriteBatch(raw_mode=True)
        for _ in range(40):
            key, value = b"R%04d" % random.randrange(400), random.randbytes(1000)
            batch.put(key, value)
            content[key] = value
        content[b"offset"] = b"%d" % barrier
        batch.put(b"offset", content[b"offset"])
        db.write(batch)
        states.append(dict(content))
    while True:
        try:
            shutil.copytree(folder / "live.db", folder / "crashed.db")
            break
        except shutil.Error:  # RocksDB removed a file meanwhile that it no longer needs
            shutil.rmtree(folder / "crashed.db")
    db.close()
    return folder / "crashed.db", states


def cut(data: bytes, random: Random) -> bytes | None:
    return data[: random.randrange(len(data))] if data else None


def flipped(data: bytes, random: Random) -> bytes | None:
    changed = bytearray(data)
    if changed:
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def emptied(data: bytes, random: Random) -> bytes | None:
    return b""


def lost(data: bytes, random: Random) -> bytes | None:
    return None


Damage = Callable[[bytes, Random], bytes | None]
DAMAGES: list[Damage] = [cut, flipped, emptied, lost]
FILES = {"table": "*.sst", "log": "*.log", "MANIFEST": "MANIFEST*", "CURRENT": "CURRENT"}


def damage(folder: Path, pattern: str, how: Damage, random: Random) -> Path:
    """Damage one of the files; which one."""
    file = random.choice(sorted(folder.glob(pattern)))
    data = how(file.read_bytes(), random)
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    return file


@pytest.mark.parametrize("how", DAMAGES, ids=lambda how: how.__name__)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_store_is_refused_or_holds_what_it_held_after_some_barrier(
    crashed: tuple[Path, list[Content]], tmp_path: Path, file: str, how: Damage
) -> None:
    source, states = crashed
    refused = 0
    for seed in range(12):
        folder = tmp_path / f"{seed}.db"
        shutil.copytree(source, folder)
        damage(folder, FILES[file], how, Random(seed))
        try:
            db = open_checked(folder, open_store)
        except CorruptStore:
            refused += 1
            continue
        held = dict(scan(db))
        close(db)
        assert held in states, f"seed {seed}: neither an older state nor refused"
    # A log may leave an older state, some tables are needed no more, and a MANIFEST may end with an idle word.
    every = file == "CURRENT" or (file == "MANIFEST" and how is not cut)
    assert refused == 12 if every else refused > 0 or file == "log"


def test_a_store_that_nobody_damaged_opens_after_a_crash_and_after_a_close(
    crashed: tuple[Path, list[Content]], tmp_path: Path
) -> None:
    source, states = crashed
    shutil.copytree(source, tmp_path / "pages.db")
    for _ in range(3):
        db = open_checked(tmp_path / "pages.db", open_store)
        assert dict(scan(db)) == states[-1]
        close(db)


# -- a worker ----------------------------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_a_worker_rebuilds_what_is_damaged_and_serves_the_day(settings: Settings, tmp_path: Path) -> None:
    """One partition's table is flipped, one's MANIFEST cut, one's CURRENT lost, and one's pages are no pages."""
    random = Random(5)
    settings = replace(settings, publisher=replace(settings.publisher, frame_ticks=64))
    log = tmp_path / "log"
    async with WorkerProcess(settings, log) as worker:
        report = await Replay([sample_day()], settings, live=True).run()
        await wait_served(settings, report.offsets, 60)
        await worker.stop()
        folders = [store_path(settings, number) for number in range(settings.kafka.partitions)]
        for folder in folders[:3]:
            with_table(folder)
        damage(folders[0], FILES["table"], flipped, random)
        manifest = damage(folders[1], FILES["MANIFEST"], emptied, random)
        damage(folders[2], FILES["CURRENT"], lost, random)
        no_page = open_store(folders[3])
        no_page.put(pages.CONTROL, with_token(10**6, b"\xc1 is no msgpack"))
        no_page.close()
        await worker.start()
        await wait_served(settings, report.offsets, 60)
        assert served_digest(settings) == GOLDEN["digest"]
        assert await redis_differences(settings, disk_finals(settings)) == []
        assert json.loads((await ask(settings, "/health"))[1])["status"] == "healthy"
        text = log.read_text()
        assert text.count("store_damaged") == 4 and "worker_failed" not in text
        for folder in folders:
            assert folder.with_name(folder.name + ".damaged").is_dir(), "it is kept for people"
        assert manifest.name in {file.name for file in folders[1].with_name(folders[1].name + ".damaged").iterdir()}
        await worker.stop()
        await worker.start()
        assert log.read_text().count("store_damaged") == 4, "what was rebuilt is sound"


def with_table(folder: Path) -> None:
    """Move what the log has into a table."""
    db = open_store(folder)
    db.flush()
    db.close()
