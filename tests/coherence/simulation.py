"""Whole runs: a log, a Redis, two workers of which one serves, readers; faults drawn from a seed; and what the history
checker says of it.

    outcome = simulate(seed)
    assert not outcome.violations
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest

from models.cache import graves
from models.cache import partition as entries
from models.cache.history import Event, Violation, check, check_at_rest
from models.cache.keys import Space, market_key
from models.cache.timeline import Timelines
from models.cache.version import offset_of
from models.market.facets import TRADE
from models.market.frame import encode
from models.market.instruments import Instrument, partition_of
from models.market.registry import InstrumentRegistry
from models.market.tick import TICK, Action, Flag, Kind
from streams.settings import ClockSettings, KafkaSettings, ReaderSettings, Settings, WorkerSettings
from streams.topics import FRAMES, WRITES
from tests.coherence.copies import changelog_copy, disk_copy, memory_copy, redis_copy
from tests.coherence.fake_kafka import FakeKafka, Sent
from tests.coherence.fake_redis import RedisServer
from tests.coherence.faults import Faults
from tests.coherence.logs import add_trades, add_writes
from tests.coherence.network import SKEW_MS, Process
from tests.coherence.redis_model import RedisModel
from tests.coherence.sim_reader import SimReader
from tests.coherence.sim_worker import Group, SimWorker
from tests.coherence.site import simulated_site
from tests.coherence.virtual import VirtualClock, VirtualLoop, virtual_time

N_PARTITIONS = 2
N_READERS = 3
REST_S = 20.0  # of virtual time: deadline for everything to come to rest
BURIED_AFTER_MS = 30
MAX_OVERTAKEN = 5
INSTRUMENTS = [Instrument("venue", "spot", f"C{i}-USDT", price_exp=-2, size_exp=-2) for i in range(3)]
MARKET_KEYS = [market_key(instrument.text, TRADE) for instrument in INSTRUMENTS]
GENERIC_KEYS = [f"{namespace}:{i}" for namespace in ("session", "api") for i in range(5)]


@dataclass
class Outcome:
    """Attributes:
    faults: how often each kind struck.
    history: all events, in order.
    """

    seed: int
    violations: list[Violation]
    n_answers: int
    n_refused: int
    n_records: int
    faults: Counter[str]
    history: list[Event] = field(repr=False)


class NeverAtRest(Exception):
    """A run whose parts were all healed did not come to rest."""


def simulate(seed: int) -> Outcome:
    """One run.

    Raises:
        NeverAtRest: the log's end was not reached everywhere within `REST_S` of the last fault.
    """
    clock = VirtualClock()
    loop = VirtualLoop(clock)
    try:
        with virtual_time(clock), pytest.MonkeyPatch.context() as patch:
            # Else no run is long enough for entries to leave the disk.
            patch.setattr(entries, "BURIED_AFTER_MS", BURIED_AFTER_MS)
            patch.setattr(graves, "MAX_OVERTAKEN", MAX_OVERTAKEN)
            return loop.run_until_complete(_World(seed, clock).run())
    finally:
        loop.close()


class _World:
    def __init__(self, seed: int, clock: VirtualClock) -> None:
        self.seed = seed
        self.clock = clock
        random = Random(seed)
        self.history: list[Event] = []
        settings = Settings(
            kafka=KafkaSettings(partitions=N_PARTITIONS),
            reader=ReaderSettings(
                max_wait_s=random.choice((0.05, 0.3)),
                floor_ring=random.choice((4, 8, 64)),
                memory_bytes=random.choice((5_000, 1 << 20)),
            ),
            worker=WorkerSettings(invalidation_rows=random.choice((0, 100)), instance_id="simulated"),
            clock=ClockSettings(max_skew_ms=SKEW_MS),
        )
        self.kafka = FakeKafka(clock, Random(random.random()))
        self.redis = RedisServer(RedisModel(lambda: clock.ms))
        self.registry = InstrumentRegistry()
        for instrument in INSTRUMENTS:
            self.registry.add(instrument)
        group = Group()
        self.workers = [
            SimWorker(
                name, Random(random.random()), settings=settings, kafka=self.kafka, redis=self.redis, group=group,
                registry=self.registry,
            )
            for name in ("one", "two")
        ]  # fmt: skip
        self.readers = [
            SimReader(
                f"r{n}", clock, Random(random.random()), settings=settings, keys=MARKET_KEYS + GENERIC_KEYS,
                history=self.history, writes=n < 2,
            )
            for n in range(N_READERS)
        ]  # fmt: skip
        self.market = Process("market", clock, Random(random.random()))
        self.faults = Faults(
            random, kafka=self.kafka, redis=self.redis, workers=self.workers, readers=self.readers,
            n_partitions=N_PARTITIONS,
        )  # fmt: skip
        self._seq = 0

    async def run(self) -> Outcome:
        with simulated_site(self.kafka, self.redis, N_PARTITIONS):
            self.faults.serving.start()
            for reader in self.readers:
                reader.start()
            self.market.spawn(self._trade())
            try:
                await self.faults.strike_all()
                await self._heal()
                violations = await self._at_rest(self._timelines())
            finally:
                for process in (*self.readers, *self.workers, self.market):
                    await process.kill()
            self.faults.raise_bugs()
            for bug in self.market.bugs:
                raise bug
        return Outcome(
            self.seed, violations, sum(r.answers for r in self.readers), sum(r.refused for r in self.readers),
            sum(log_.end for (topic, _), log_ in self.kafka.logs.items() if topic in (FRAMES, WRITES)),
            self.faults.struck + Counter(self.kafka.counts), self.history,
        )  # fmt: skip

    # -- the market

    async def _trade(self) -> None:
        random = self.market.random
        while True:
            await asyncio.sleep(0.02 * random.random())
            instrument = random.choice(INSTRUMENTS)
            ticks = np.zeros(random.randint(1, 3), TICK)
            ticks["kind"], ticks["action"], ticks["flags"] = Kind.TRADE, Action.TRADE, Flag.LAST
            ticks["price"] = ticks["seq"] = np.arange(self._seq + 1, self._seq + 1 + len(ticks))
            ticks["size"] = 100
            ticks["ts_event"] = ticks["ts_recv"] = self.clock.ns
            self._seq += len(ticks)
            nth = self.registry.by_text[instrument.text]
            refs = self.registry.refs[nth : nth + 1]
            partition = partition_of(instrument.text, N_PARTITIONS)
            frame = encode(ticks, refs, source=7 + nth)
            self.kafka.append(FRAMES, partition, [Sent(None, frame)] * random.choice((1, 1, 1, 2)))

    # -- the end

    async def _heal(self) -> None:
        """Nothing is written any more, every fault ends; wait until each part says that it is at the log's end."""
        await self.market.kill()
        for reader in self.readers:
            reader.rest()
        self.redis.up, self.redis.lossy = True, False
        self.kafka.faults.clear()
        for process in (*self.readers, *self.workers):
            process.cut, process.slow_s, process.lag_s = False, 0.0, 0.0
            process.thaw()
        end_s = self.clock.s + REST_S
        while not self._is_at_rest():
            await asyncio.sleep(0.05)
            self.faults.restart_the_fallen()
            if self.clock.s > end_s:
                raise NeverAtRest(f"seed {self.seed}: {self._standing()}")

    def _standing(self) -> str:
        failures = {p.name: p.failure for p in (*self.workers, *self.readers)}
        return f"applied {[self.faults.serving.applied(space) for space in Space]}, failures {failures}"

    def _is_at_rest(self) -> bool:
        """The only worker has applied, written and made durable all there is; every reader has heard of it."""
        owned = self.faults.serving.ownership.partitions if self.faults.serving.ownership else {}
        if (
            sum(worker.alive for worker in self.workers) != 1
            or len(owned) < N_PARTITIONS
            or not self.faults.serving.alive
        ):
            return False
        if any(reader.busy for reader in self.readers):
            return False
        ends = {
            (space, number): self.kafka.logs[topic, number].end
            for space, topic in ((Space.MARKET, FRAMES), (Space.GENERIC, WRITES))
            for number in range(N_PARTITIONS)
        }
        for (space, number), end in ends.items():
            partition = owned[number]
            applied = partition.applied(space)
            if (offset_of(applied) + 1 if applied >= 0 else 0) != end or partition.redis_behind:
                return False
            if partition.tier[space] != applied or partition.announced[space] != applied:
                return False
            if any(r.cache is None or r.cache.position(space, number) < applied for r in self.readers):
                return False
        return all(
            self.faults.serving.group.committed.get((topic, number), 0) == end
            for (space, number), end in ends.items()
            for topic in ((FRAMES if space is Space.MARKET else WRITES),)
        )

    def _timelines(self) -> Timelines:
        log = Timelines()
        by_hash = {instrument.hash: instrument for instrument in INSTRUMENTS}
        for number in range(N_PARTITIONS):
            add_trades(log, number, self.kafka.logs[FRAMES, number].records, by_hash.__getitem__)
            add_writes(log, number, self.kafka.logs[WRITES, number].records)
        return log

    async def _at_rest(self, log: Timelines) -> list[Violation]:
        """All copies against the log, and then what each reader says of every key."""
        await asyncio.sleep(0.5)  # what has a life of less than that is gone everywhere
        at_ms = self.clock.ms
        copies = {
            "redis": redis_copy(self.redis.model.live()),
            "disk": disk_copy(self.faults.serving.disks, at_ms),
            "changelog": changelog_copy(self.kafka, N_PARTITIONS, at_ms),
        }
        violations = [v for name, copy in copies.items() for v in check_at_rest(log, name, copy, at_ms=at_ms)]
        for reader in self.readers:
            assert reader.cache is not None
            held = memory_copy(reader.cache.memory, at_ms)
            violations += check_at_rest(log, f"memory of {reader.name}", held, at_ms=at_ms, whole=False)
            for key in MARKET_KEYS + GENERIC_KEYS:
                await reader.read(key)
        return violations + check(log, self.history, skew_ms=SKEW_MS)
