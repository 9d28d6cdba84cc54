"""A run: days replayed through a worker of their own while a reader listens; then every copy is compared."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.cache.keys import Space, stem
from models.cache.version import offset_of
from models.market import facets
from models.market.digest import digest
from models.market.final import finals
from streams.cache.connect import connect_redis, redis_errors
from streams.cache.rocks import read_partition
from streams.client.events import Changed, Gap
from streams.client.invalidations import InvalidationConsumer
from streams.clock import now_ns
from streams.days.day import Day
from streams.days.replay import Replay, ReplayReport
from streams.days.served import redis_differences, wait_served
from streams.kafka.admin import ensure_topics
from streams.kafka.deadletter import DeadLetters
from streams.services.worker import WorkerProcess
from streams.settings import Settings

_SCAN_COUNT = 1000


@dataclass
class Heard:
    """What a reader heard of a run.

    Attributes:
        keys: (instrument hash, facet bits) named, summed over records.
        n_keys: facets named, counted each time.
        gaps: gaps of the invalidations.
        falls: records whose version did not rise within their partition; 0 unless a rule is broken.
        latency_ns: per source frame, from the instant its last tick was due until this reader heard of it.
        weights: ticks of each of those frames.
    """

    records: int = 0
    n_keys: int = 0
    gaps: int = 0
    falls: int = 0
    latency_ns: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    keys: dict[int, int] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)
    more: asyncio.Condition = field(default_factory=asyncio.Condition)

    def percentiles_ms(self, *q: float) -> list[float]:
        """Latency at these percentiles over ticks, in ms; nan where nothing was heard."""
        if not self.latency_ns:
            return [float("nan")] * len(q)
        latency, weights = np.array(self.latency_ns), np.array(self.weights)
        order = np.argsort(latency)
        reached = np.cumsum(weights[order])
        at = np.searchsorted(reached, np.array(q) / 100 * reached[-1])
        return [round(float(ms), 3) for ms in latency[order][np.minimum(at, len(order) - 1)] / 1e6]

    def take(self, event: Changed, heard_ns: int) -> None:
        record = event.record
        self.records += 1
        self.falls += record.to_version <= self.newest.get(event.partition, -1)
        self.newest[event.partition] = record.to_version
        self.n_keys += int(np.bitwise_count(record.changes["facets"]).sum())
        for hash_, bits in record.changes.tolist():
            self.keys[hash_] = self.keys.get(hash_, 0) | bits
        for due_ns, n_ticks in record.stamps.tolist():
            if due_ns:
                self.latency_ns.append(heard_ns - due_ns)
                self.weights.append(n_ticks)


@dataclass(frozen=True)
class RunReport:
    """A replay and what became of it.

    Attributes:
        replay: what was sent; its digest is the day's own.
        heard: what a reader heard.
        served_digest: of what RocksDB holds.
        digest_ok: the served digest is the day's.
        redis_differences: keys that Redis holds otherwise than RocksDB.
        keys_rocksdb, keys_redis: market keys in each.
        dead_letters: records refused.
    """

    replay: ReplayReport
    heard: Heard
    served_digest: str
    redis_differences: list[str]
    keys_rocksdb: int
    keys_redis: int
    dead_letters: int

    @property
    def digest_ok(self) -> bool:
        return self.served_digest == self.replay.digest

    @property
    def ok(self) -> bool:
        """Every copy agrees with the day and nothing was missed."""
        return self.digest_ok and not (self.redis_differences or self.heard.gaps or self.heard.falls)


async def run_days(days: Sequence[Day], settings: Settings, log: Path, **options: Any) -> RunReport:
    """Replay days through a worker of their own; `options` are those of `Replay`, `log` is the worker's.

    Raises:
        ServiceUnavailable, DeadlineExceeded: a service or the worker does not answer.
        as `Replay.run`.
    """
    replay = Replay(days, settings, **options)
    run = replay.settings
    await ensure_topics(run)
    async with WorkerProcess(run, log), _listening(run) as heard:
        report = await replay.run()
        await wait_served(run, report.offsets)
        await _heard_all(heard, report.offsets)
        partitions = [read_partition(run, number).market for number in range(run.kafka.partitions)]
        ends = [final for market in partitions for final in finals(market)]
        rows = sum(int((m.rows.rows[:, :, facets.N_ROWS] > 0).sum()) for m in partitions)
        books = sum(m.books.header(slot).n_rows > 0 for m in partitions for slot in range(len(m.slots)))
        count, _ = await DeadLetters(run).waiting(max_n=1)
        return RunReport(
            replay=report,
            heard=heard,
            served_digest=digest(ends),
            redis_differences=await redis_differences(run, ends),
            keys_rocksdb=rows + books,
            keys_redis=await _count_redis(run),
            dead_letters=count,
        )


@contextlib.asynccontextmanager
async def _listening(settings: Settings) -> AsyncIterator[Heard]:
    heard = Heard()

    async def listen() -> None:
        async for event in consumer:
            if isinstance(event, Changed):
                async with heard.more:
                    heard.take(event, now_ns())
                    heard.more.notify_all()
            elif isinstance(event, Gap):
                heard.gaps += 1

    async with InvalidationConsumer(settings, start="earliest") as consumer:
        task = asyncio.create_task(listen())
        try:
            yield heard
        finally:
            consumer.stop()
            await asyncio.wait_for(task, 10)


async def _heard_all(heard: Heard, offsets: dict[int, int], deadline_s: float = 30.0) -> None:
    """Wait for the announcement of each partition's last frame; Redis had it before."""
    async with asyncio.timeout(deadline_s), heard.more:
        await heard.more.wait_for(lambda: all(offset_of(heard.newest.get(n, 0)) >= o for n, o in offsets.items()))


async def _count_redis(settings: Settings) -> int:
    """Market keys of this prefix, marks left out."""
    redis = connect_redis(settings.redis)
    try:
        count = 0
        with redis_errors(settings.redis.url):
            for number in range(settings.kafka.partitions):
                pattern = stem(settings.topics.prefix, Space.MARKET, number) + "*"
                async for key in redis.scan_iter(match=pattern, count=_SCAN_COUNT):
                    count += not bytes(key).endswith(b"@mark")
        return count
    finally:
        await redis.aclose()
