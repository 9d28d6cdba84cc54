"""A worker is frozen over a rebalance and woken: what it then believes changes no copy, and its disk stays honest."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from models.cache.keys import parse_key
from models.market import pages
from streams.client.publisher import TickPublisher
from streams.client.reader import MarketCache
from streams.days.replay import Pause, Replay
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.admin import ensure_topics
from streams.kafka.changelog import read_changelog
from streams.kafka.clients import start_producer, stop_client
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.workers import GOLDEN, ask, changelog_of, is_gone, marks, on_disk, reached, sample_day, share, wipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DEADLINE_S = 60.0
SPEED = 150


class Watched:
    """A reader that follows the stream and is asked for every key again and again, and which versions it gave."""

    def __init__(self, cache: MarketCache, keys: list[str]) -> None:
        self.versions: dict[str, list[int]] = defaultdict(list)
        self._cache = cache
        self._keys = keys

    async def look(self) -> None:
        for key in self._keys:
            entry = await self._cache.get(key)
            seen = self.versions[key]
            if entry is not None and (not seen or seen[-1] != entry.version):
                seen.append(entry.version)

    async def keep_looking(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(0)


async def test_a_zombie_changes_neither_readers_nor_redis_nor_the_changelog_nor_its_own_disk(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    day = sample_day()
    worker = replace(settings.worker, session_timeout_s=2.0, commit_interval_s=0.5)
    one = replace(settings, worker=worker, publisher=replace(settings.publisher, frame_ticks=64))
    # The second one commits seldom: it is frozen with work that it has not made durable, and tries to when it wakes.
    rare = replace(worker, data_dir=str(tmp_path / "two"), port=free_ports(1)[0], commit_interval_s=2.0)
    two = replace(one, worker=rare)
    fresh = replace(one, worker=replace(worker, data_dir=str(tmp_path / "fresh")))
    keys = [f"md:{i.text}:{facet}" for i in day.instruments for facet in ("trade", "quote", "book")]

    async def is_the_day(run: Settings) -> None:
        assert served_digest(run) == GOLDEN["digest"]
        assert await redis_differences(run, disk_finals(run)) == []

    await ensure_topics(one)
    async with (
        MarketCache(one) as cache,
        WorkerProcess(one, tmp_path / "one.log") as first,
        WorkerProcess(two, tmp_path / "two.log") as second,
    ):

        async def share_of_the_second() -> set[int]:
            mine, its = await share(one), await share(two)
            return its if mine and len(mine | its) == one.kafka.partitions else set()

        its = await wait_until(share_of_the_second, DEADLINE_S, "a share for each")
        zombie = psutil.Process(second.pid)
        watched = Watched(cache, keys)
        watching = asyncio.create_task(watched.keep_looking())

        async def freeze(_: Pause) -> None:
            async def has_unsaved_work() -> bool:
                seen, saved = await marks(two), on_disk(two)
                return any(seen[number].version > saved[number] for number in its)

            await wait_until(has_unsaved_work, DEADLINE_S, "work that only its memory and Redis have")
            zombie.suspend()

        report = await Replay([day], one, live=True, speed=SPEED, pause_at=[day.rows // 3], on_pause=freeze).run()
        await wait_until(reached([one], report.offsets), DEADLINE_S, "everything on the first one's disk")
        tokens = [mark.token for mark in await marks(one)]
        zombie.resume()

        async def noticed() -> bool:
            """It gave up, or it joined again and every partition got a new owner."""
            if is_gone(second.pid):
                return True
            return all(now.token > then for now, then in zip(await marks(one), tokens, strict=True))

        await wait_until(noticed, DEADLINE_S, "the end of the belief that it owns partitions")
        await is_the_day(one)
        watching.cancel()
        await watched.look()
        for key, versions in watched.versions.items():
            assert versions == sorted(versions), f"a reader's {key} went back"
        async with MarketCache(one, follow=False) as other:
            for key in keys:
                entry = await other.get(key)
                assert (entry and entry.version) == (watched.versions[key][-1] if watched.versions[key] else None), key
        await second.stop()
        await first.stop()
    for name, run in (("its own disk", two), ("the changelog", fresh)):
        async with WorkerProcess(run, tmp_path / f"{name}.log"):
            await wait_served(run, report.offsets, DEADLINE_S)
            await is_the_day(run)


async def test_an_idle_owner_writes_over_what_a_zombie_wrote_above_its_pages(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Compaction would keep the zombie's control page alone, and a recovery that passes over it would find none."""
    log = tmp_path / "log"
    async with WorkerProcess(settings, log) as worker:
        await worker.stop()
        await worker.start()  # the first owner's token was 0
        async with TickPublisher(settings) as publisher:
            await publisher.trade("x.spot.A-USD", price="1", size="1", ts_event_ns=10**18)
        await wait_until(lambda: max(on_disk(settings).values()) == 0, DEADLINE_S, "the trade on disk")
        (number,) = [number for number, offset in on_disk(settings).items() if offset == 0]
        changelog = await changelog_of(settings)
        producer = await start_producer(settings.kafka)
        try:
            zombies = pages.with_token(0, b"what it held")
            late = await producer.send_and_wait(changelog, zombies, key=pages.CONTROL, partition=number)
        finally:
            await stop_client(producer)

        async def control_above() -> bool:
            async for records in read_changelog(settings.kafka, changelog, number, start=late.offset + 1):
                if any(record.key == pages.CONTROL for record in records):
                    return True
            return False

        await wait_until(control_above, DEADLINE_S, "the owner's control page above the zombie's")
        # A flush that was under way leaves one too, before it is known that the zombie's lies between.
        await wait_until(lambda: "pages_written_again" in log.read_text(), DEADLINE_S, "all pages written once more")
        assert (await ask(settings, "/health"))[0] == 200


async def test_a_zombies_deletion_is_passed_over_by_a_recovery(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        await worker.stop()
        await worker.start()  # the first owner's token was 0
        async with MarketCache(settings, follow=False) as cache:
            version = await cache.put("kept:a", "the owner's")

        async def in_the_changelog() -> bool:
            """The entry, and after it the control page that ends the flush."""
            keys = [r.key async for rs in read_changelog(settings.kafka, changelog, number, start=0) for r in rs]
            entry = pages.ENTRY + b"kept:a"
            return entry in keys and pages.CONTROL in keys[keys.index(entry) :]

        changelog, number = await changelog_of(settings), parse_key("kept:a").partition(settings.kafka.partitions)
        await wait_until(in_the_changelog, DEADLINE_S, "the entry in the changelog")
        await worker.kill()
        producer = await start_producer(settings.kafka)
        try:
            key, headers = pages.ENTRY + b"kept:a", pages.deletion_headers(0)
            await producer.send_and_wait(changelog, None, key=key, partition=number, headers=headers)
        finally:
            await stop_client(producer)
        wipe(settings)
        await worker.start()
        async with MarketCache(settings, follow=False) as cache:
            entry = await cache.get("kept:a")
            assert entry is not None and (entry.version, entry.value) == (version, "the owner's")
