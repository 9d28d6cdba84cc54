"""What goes wrong in a simulation, drawn from its seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from streams.topics import INVALIDATIONS
from tests.coherence.fake_kafka import FakeKafka, LogFaults
from tests.coherence.fake_redis import RedisServer
from tests.coherence.sim_reader import SimReader
from tests.coherence.sim_worker import SimWorker

_FAULTS_S = 2.0  # of virtual time


class Faults:
    """Attributes:
    serving: the worker that was started last.
    struck: how often each kind struck.
    """

    def __init__(
        self, random: Random, *, kafka: FakeKafka, redis: RedisServer, workers: Sequence[SimWorker],
        readers: Sequence[SimReader], n_partitions: int,
    ) -> None:  # fmt: skip
        self.random = random
        self.clock = kafka.clock
        self.kafka = kafka
        self.redis = redis
        self.workers = workers
        self.readers = readers
        self.n_partitions = n_partitions
        self.serving = workers[0]
        self.struck: Counter[str] = Counter()
        self._snapshot = redis.model.snapshot()

    async def strike_all(self) -> None:
        """Faults one after another, each for a while; several may be on at a time."""
        random = self.random
        self.redis.lossy = random.random() < 0.5
        if random.random() < 0.6:
            shares = [random.choice((0.0, 0.0, 0.05)) for _ in range(4)]
            self.kafka.faults[INVALIDATIONS] = LogFaults(*shares)
        kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._kill_worker, 3),
            (self._freeze_worker, 3),
            (self._restart_redis, 2),
            (self._fail_over_redis, 2),
            (self._stop_redis, 2),
            (self._cut_reader, 3),
            (self._slow_reader, 4),
            (self._lag_reader, 4),
            (self._freeze_reader, 2),
            (self._restart_reader, 2),
            (self._slow_worker, 3),
            (self._cut_retention, 1),
            (self._stall_kafka, 1),
        ]
        functions, weights = [kind for kind, _ in kinds], [weight for _, weight in kinds]
        end_s = self.clock.s + _FAULTS_S
        running: set[asyncio.Task[None]] = set()
        while self.clock.s < end_s:
            await asyncio.sleep(random.uniform(0.02, 0.4))
            self.restart_the_fallen()
            if random.random() < 0.5:
                self._snapshot = self.redis.model.snapshot()
            (fault,) = random.choices(functions, weights)
            self.struck[fault.__name__.removeprefix("_")] += 1
            task = asyncio.ensure_future(fault())
            running.add(task)
        await asyncio.gather(*running)

    def restart_the_fallen(self) -> None:
        self.raise_bugs()
        if not self.serving.alive:
            self.serving = self.random.choice(self.workers)
            if not self.serving.alive:
                self.serving.start()
        for reader in self.readers:
            if not reader.alive:
                reader.start()

    def raise_bugs(self) -> None:
        for process in (*self.workers, *self.readers):
            for bug in process.bugs:
                raise bug

    async def _kill_worker(self) -> None:
        worker = self.serving
        await worker.kill()
        if self.random.random() < 0.2:
            worker.lose_disks()
        await asyncio.sleep(self.random.uniform(0.0, 0.2))
        self._take_over()

    async def _freeze_worker(self) -> None:
        """A zombie: the other one takes over, then this one goes on where it stood."""
        worker = self.serving
        worker.freeze()
        await asyncio.sleep(self.random.uniform(0.05, 0.3))
        if self.random.random() < 0.8:
            self._take_over()
        await asyncio.sleep(self.random.uniform(0.0, 0.5))
        worker.thaw()

    def _take_over(self) -> None:
        free = [worker for worker in self.workers if not worker.alive]
        if free and (not self.serving.alive or self.serving.frozen):
            self.serving = self.random.choice(free)
            self.serving.start()

    async def _restart_redis(self) -> None:
        """It comes back empty."""
        self.redis.up = False
        await asyncio.sleep(self.random.uniform(0.01, 0.3))
        self.redis.model.lose_all()
        self.redis.up = True

    async def _fail_over_redis(self) -> None:
        """A replica that was behind: acknowledged writes are lost."""
        self.redis.model.restore(self._snapshot)

    async def _stop_redis(self) -> None:
        self.redis.up = False
        await asyncio.sleep(self.random.uniform(0.05, 0.6))
        self.redis.up = True

    async def _cut_reader(self) -> None:
        reader = self.random.choice(self.readers)
        reader.cut = True
        await asyncio.sleep(self.random.uniform(0.05, 0.6))
        reader.cut = False

    async def _slow_reader(self) -> None:
        """Its answers from Redis, or its invalidations, come late."""
        reader = self.random.choice(self.readers)
        reader.slow_s = self.random.choice((0.02, 0.1, 0.3))
        await asyncio.sleep(self.random.uniform(0.1, 0.8))
        reader.slow_s = 0.0

    async def _lag_reader(self) -> None:
        """It hears late, and Redis is ahead of what it has heard."""
        reader = self.random.choice(self.readers)
        reader.lag_s = self.random.choice((0.1, 0.3))
        await asyncio.sleep(self.random.uniform(0.2, 0.8))
        reader.lag_s = 0.0

    async def _freeze_reader(self) -> None:
        reader = self.random.choice(self.readers)
        reader.freeze()
        await asyncio.sleep(self.random.uniform(0.05, 0.8))
        reader.thaw()

    async def _restart_reader(self) -> None:
        await self.random.choice(self.readers).kill()

    async def _slow_worker(self) -> None:
        worker = self.serving
        worker.slow_s = self.random.choice((0.02, 0.1))
        await asyncio.sleep(self.random.uniform(0.1, 0.6))
        worker.slow_s = 0.0

    async def _cut_retention(self) -> None:
        """Retention takes invalidations that some have not read yet."""
        for number in range(self.n_partitions):
            log = self.kafka.logs[INVALIDATIONS, number]
            log.first = log.end

    async def _stall_kafka(self) -> None:
        self.kafka.stalled_until_s = self.clock.s + self.random.uniform(0.05, 0.5)
