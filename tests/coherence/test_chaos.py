"""The real thing for minutes: Kafka, Redis, two workers, readers in processes of their own; kills, freezes, restarts.

`MARKETPRISM_TEST_CHAOS_S` seconds (600), seed `MARKETPRISM_TEST_CHAOS_SEED`; the history checker has the last word.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from agents.bench.child import ChildProcess
from models.cache.history import Event, check, check_at_rest
from models.cache.keys import Space, market_key
from models.cache.timeline import Timelines
from models.errors import DeadlineExceeded, ServiceSetupError, ServiceUnavailable
from models.market.facets import TRADE
from models.market.instruments import parse
from streams.cache.connect import connect_redis
from streams.client.publisher import TickPublisher
from streams.kafka.admin import ensure_topics
from streams.kafka.changelog import read_changelog
from streams.kafka.offsets import last_offsets
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import FRAMES, WRITES
from tests.coherence.copies import Copy, disk_copy, redis_copy
from tests.coherence.logs import add_trades, add_writes
from tests.coherence.sim_worker import Disk
from tests.conftest import WaitUntil
from tests.sites import OwnRedis
from tests.topics import records
from tests.workers import changelog_of, is_gone, marks, metric, share

pytestmark = [pytest.mark.integration, pytest.mark.soak, pytest.mark.timeout(3_600)]

SECONDS = float(os.environ.get("MARKETPRISM_TEST_CHAOS_S", "600"))
SEED = int(os.environ.get("MARKETPRISM_TEST_CHAOS_SEED", "1"))
DEADLINE_S = 120.0
INSTRUMENTS = [f"venue.spot.C{n}-USDT" for n in range(12)]
MARKET_KEYS = [market_key(text, TRADE) for text in INSTRUMENTS]
GENERIC_KEYS = [f"{namespace}:{n}" for namespace in ("session", "api") for n in range(15)]
N_READERS = 3
TRADES_PER_S = 150
SHORT_LIFE_S = 3.0  # of what readers put for seconds


class Workers:
    """Two workers of one group; those that ended, by a kill or because they were fenced, are started again."""

    def __init__(self, settings: list[Settings], folder: Path) -> None:
        self.processes = [WorkerProcess(s, folder / f"worker{n}.log") for n, s in enumerate(settings)]
        self._starting: list[asyncio.Task[Any] | None] = [None, None]

    async def keep(self) -> None:
        while True:
            for nth, worker in enumerate(self.processes):
                starting = self._starting[nth]
                if (starting is None or starting.done()) and (worker._process is None or is_gone(worker.pid)):
                    self._starting[nth] = asyncio.create_task(self._start(worker))
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        for starting in self._starting:
            if starting is not None:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.processes))

    async def _start(self, worker: WorkerProcess) -> None:
        with contextlib.suppress(ServiceUnavailable, DeadlineExceeded):  # killed or fenced while it started
            await worker.start()


class Readers:
    """Readers in processes of their own; one that was killed is followed by another of the next name."""

    def __init__(self, settings: Settings, folder: Path, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._folder = folder
        self._stack = stack
        self._names = itertools.count(1)
        self.running: list[tuple[str, ChildProcess]] = []

    async def add(self) -> None:
        number = next(self._names)
        file = self._folder / f"r{number}.history"
        spec = {
            "name": f"r{number}",
            "seed": SEED * 1_000 + number,
            "keys": MARKET_KEYS + GENERIC_KEYS,
            "file": str(file),
        }
        child = ChildProcess("tests.coherence.chaos_reader", self._settings, spec, self._folder / "readers.log")
        await self._stack.enter_async_context(child)
        self.running.append((f"r{number}", child))

    async def tell(self, until: str, **what: object) -> dict[str, Any]:
        """Tell each reader something, and wait for the answer of this name; by reader."""
        answers = {}
        for name, child in self.running:
            child.tell(**what)
            while until not in (told := await child.hear(DEADLINE_S)):
                pass  # that it is ready
            answers[name] = told[until]
        return answers

    def history(self) -> list[Event]:
        """Each reader's events in order; a file that a kill cut off ends before its last newline."""
        decoder = msgspec.json.Decoder(Event)
        return [
            decoder.decode(line)
            for file in sorted(self._folder.glob("*.history"))
            for line in file.read_bytes().split(b"\n")[:-1]
        ]


class Chaos:
    """Faults one after another, drawn from a seed."""

    def __init__(self, redis: OwnRedis, workers: Workers, readers: Readers, random: Random) -> None:
        self.struck: Counter[str] = Counter()
        self._redis = redis
        self._workers = workers
        self._readers = readers
        self._random = random

    async def strike(self, seconds: float) -> None:
        faults: list[Callable[[], Awaitable[None]]] = [
            self._kill_worker, self._kill_worker, self._freeze_worker, self._restart_redis, self._freeze_redis,
            self._flush_redis, self._freeze_reader, self._freeze_reader, self._kill_reader,
        ]  # fmt: skip
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            fault = self._random.choice(faults)
            self.struck[fault.__name__.removeprefix("_")] += 1
            await fault()
            await asyncio.sleep(self._random.uniform(0.5, 4.0))

    async def _kill_worker(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._random.choice(self._workers.processes).pid, signal.SIGKILL)

    async def _freeze_worker(self) -> None:
        """Longer than its session: the other one takes over, and a zombie wakes."""
        await self._frozen(self._random.choice(self._workers.processes).pid, self._random.uniform(1.0, 5.0))

    async def _freeze_reader(self) -> None:
        _, child = self._random.choice(self._readers.running)
        await self._frozen(child.pid, self._random.uniform(0.2, 3.0))

    async def _kill_reader(self) -> None:
        at = self._random.randrange(len(self._readers.running))
        name, child = self._readers.running.pop(at)
        assert not is_gone(child.pid), f"{name} ended on its own: readers.log says why"
        os.kill(child.pid, signal.SIGKILL)
        await self._readers.add()

    async def _restart_redis(self) -> None:
        """It comes back empty."""
        self._redis.stop()
        await asyncio.sleep(self._random.uniform(0.1, 3.0))
        await asyncio.to_thread(self._redis.start)

    async def _freeze_redis(self) -> None:
        self._redis.freeze(True)
        await asyncio.sleep(self._random.uniform(0.2, 3.0))
        self._redis.freeze(False)

    async def _flush_redis(self) -> None:
        settings = replace(self._workers.processes[0].settings.redis, timeout_s=30.0)
        async with aclosing(connect_redis(settings)) as redis:
            await redis.flushall()

    async def _frozen(self, pid: int, seconds: float) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def trading(settings: Settings) -> AsyncIterator[None]:
    """Trades whose price counts, until the block ends and all are acknowledged."""

    async def trade(publisher: TickPublisher) -> None:
        random = Random(SEED)
        for price in itertools.count(1):
            await publisher.trade(random.choice(INSTRUMENTS), price=price, size=1, ts_event_ns=time.time_ns())
            await asyncio.sleep(1 / TRADES_PER_S)

    async with TickPublisher(settings) as publisher:
        task = asyncio.create_task(trade(publisher))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_no_copy_lies_while_everything_breaks(settings: Settings, tmp_path: Path, wait_until: WaitUntil) -> None:
    try:
        redis = OwnRedis(tmp_path / "redis")
    except ServiceSetupError as exc:
        pytest.skip(f"needs a Redis that a test may stop: {exc}")
    redis.start()
    worker = replace(settings.worker, session_timeout_s=2.0, commit_interval_s=0.5)
    one = replace(settings, redis=replace(settings.redis, url=redis.url, timeout_s=0.3), worker=worker)
    two = replace(one, worker=replace(worker, data_dir=str(tmp_path / "two"), port=free_ports(1)[0]))
    calm = replace(one, redis=replace(one.redis, timeout_s=30.0))  # the test's own: it has time
    await ensure_topics(one)
    workers = Workers([one, two], tmp_path)
    try:
        async with AsyncExitStack() as stack:
            keeping = asyncio.create_task(workers.keep())

            async def all_served() -> bool:
                shares = [await share(s) for s in (one, two)]
                return len(shares[0] | shares[1]) == one.kafka.partitions

            await wait_until(all_served, DEADLINE_S, "workers that serve")
            readers = Readers(one, tmp_path, stack)
            for _ in range(N_READERS):
                await readers.add()
            chaos = Chaos(redis, workers, readers, Random(SEED))
            async with trading(one):
                await chaos.strike(SECONDS)
            print(f"struck {dict(chaos.struck)}")
            keeping.cancel()
            await readers.tell("stopped", stop=True)
            await workers.stop()
            await workers.processes[0].start()
            await at_rest(calm, wait_until)
            memories = await rest(readers, calm)
            n_audited = await metric(one, "marketprism_audit_violations_total")
        await workers.stop()  # a last barrier
        history = readers.history()
        log, at_ms = await log_of(one), time.time_ns() // 1_000_000
        violations = check(log, history, skew_ms=one.clock.max_skew_ms)
        copies = {"redis": await in_redis(calm), "changelog": await in_changelog(one, at_ms)}
        for name, copy in copies.items():
            violations += check_at_rest(log, name, copy, at_ms=at_ms)
        for name, held in memories.items():
            violations += check_at_rest(log, f"memory of {name}", held, at_ms=at_ms, whole=False)
        kinds = Counter(type(event).__name__ for event in history)
        print(f"{dict(kinds)} of {len({e.reader for e in history})} readers, {len(violations)} violations")
        assert violations == []
        assert n_audited == 0
        assert kinds["Answer"] > 10 * SECONDS
    finally:
        await workers.stop()
        redis.stop()


async def log_of(settings: Settings) -> Timelines:
    log = Timelines()
    by_hash = {instrument.hash: instrument for instrument in map(parse, INSTRUMENTS)}
    for topic in (FRAMES, WRITES):
        found: dict[int, list[Any]] = defaultdict(list)
        for record in await records(settings, topic, settings.kafka.partitions):
            found[record.partition].append(record)
        for number, theirs in found.items():
            if topic == WRITES:
                add_writes(log, number, theirs)
            else:
                add_trades(log, number, theirs, by_hash.__getitem__)
    return log


async def ends_of(settings: Settings) -> dict[Space, list[int]]:
    """Version of the last record, by space and partition; -1 = none."""
    topics = {Space.MARKET: FRAMES, Space.GENERIC: WRITES}
    offsets = {space: await last_offsets(settings, topic) for space, topic in topics.items()}
    return {space: [found[number] for number in sorted(found)] for space, found in offsets.items()}


async def at_rest(settings: Settings, wait_until: WaitUntil) -> None:
    """Redis has everything, and what was put for seconds only has expired."""
    ends = await ends_of(settings)

    async def all_marked() -> bool:
        return {space: [mark.version for mark in await marks(settings, space)] for space in Space} == ends

    await wait_until(all_marked, DEADLINE_S, "every mark at its log's end")
    soon_s = time.time() + SHORT_LIFE_S + 2.0
    await wait_until(lambda: time.time() > soon_s, DEADLINE_S, "the end of what lives for seconds")


async def rest(readers: Readers, settings: Settings) -> dict[str, Copy]:
    """Let all readers hear everything; what their memories hold then, by name."""
    ends = {space.value: versions for space, versions in (await ends_of(settings)).items()}
    told = await readers.tell("memory", ends=ends)
    return {name: {key: (version, value) for key, (version, value) in held.items()} for name, held in told.items()}


async def in_redis(settings: Settings) -> Copy:
    prefix = settings.topics.prefix.encode()
    values: dict[bytes, object] = {}
    async with aclosing(connect_redis(settings.redis)) as redis:
        async for key in redis.scan_iter(match=prefix + b"*", count=1000):
            is_hash = await redis.type(key) == b"hash"
            values[key.removeprefix(prefix)] = await (redis.hgetall(key) if is_hash else redis.get(key))
    return redis_copy(values)


async def in_changelog(settings: Settings, at_ms: int) -> Copy:
    """What a worker without a disk would recover."""
    name = await changelog_of(settings)
    disks = {number: Disk() for number in range(settings.kafka.partitions)}
    for number, disk in disks.items():
        async for found in read_changelog(settings.kafka, name, number, start=0):
            disk.apply(found)
    return disk_copy(disks, at_ms)
