"""A reader process of a simulation: the real `MarketCache`, asked and told at random, and a record of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from models.cache.history import Answer, Event, Heard, Wrote
from models.cache.invalidation import Invalidation
from models.cache.timeline import fingerprint
from models.cache.version import NOTHING
from models.errors import Recoverable
from streams.client.reader import MarketCache
from streams.client.upkeep import SPACES
from streams.settings import Settings
from tests.coherence.network import Process
from tests.coherence.virtual import VirtualClock

BOUNDS_S = (None, None, None, 0.06, 0.15, 0.5)
TAGS = ("red", "blue")


class SimReader(Process):
    """Attributes:
    cache: of the run under way.
    answers, refused: counts over all runs.
    busy: tasks that read and write.
    """

    def __init__(
        self, name: str, clock: VirtualClock, random: Random, *, settings: Settings, keys: Sequence[str],
        history: list[Event], writes: bool,
    ) -> None:  # fmt: skip
        super().__init__(name, clock, random)
        self.cache: MarketCache | None = None
        self.answers = self.refused = self.busy = 0
        self._settings = settings
        self._keys = keys
        self._history = history
        self._writes = writes
        self._runs_so_far = 0
        self._resting = False
        self._id = ""
        self._n_values = 0

    def start(self) -> None:
        self.busy = 0
        self.failure = None
        self.spawn(self._run())

    async def kill(self) -> None:
        await super().kill()
        self.cache = None

    def rest(self) -> None:
        """Ask and write nothing more of its own accord."""
        self._resting = True

    async def read(self, key: str, bound_s: float | None = None) -> None:
        """One read, and its answer in the history; an answer that cannot be proven is none."""
        assert self.cache is not None
        try:
            entry = await self.cache.get(key, max_staleness_s=bound_s)
        except Recoverable:
            self.refused += 1
            return
        self.answers += 1
        asked_ns = None if bound_s is None else round(bound_s * 1e9)
        at_ns = self.true_clock.ns
        if entry is None:  # a miss tells no age, but one within the bound was proven for it
            self._history.append(Answer(self._id, key, NOTHING, "", at_ns, asked_ns, asked_ns))
            return
        age_ns = None if entry.age_ms is None else round(entry.age_ms * 1e6)
        self._history.append(Answer(self._id, key, entry.version, fingerprint(entry.value), at_ns, age_ns, asked_ns))

    async def _run(self) -> None:
        while True:  # a Redis that is down lets no reader begin; each try is another reader
            self._runs_so_far += 1
            self._id = f"{self.name}.{self._runs_so_far}"
            try:
                async with MarketCache(self._settings, clock=self.now_ns, heard=self._hear) as cache:
                    self.cache = cache
                    await asyncio.gather(*(self._use(cache) for _ in range(2)))
                    await asyncio.Event().wait()  # at rest: it only listens, until it is killed
            except Recoverable:
                await asyncio.sleep(0.05)

    def _hear(self, partition: int, record: Invalidation) -> None:
        self._history.append(Heard(self._id, SPACES[record.source], partition, record.to_version))

    async def _use(self, cache: MarketCache) -> None:
        random = self.random
        self.busy += 1
        while not self._resting:
            await asyncio.sleep(random.choice((0.001, 0.01, 0.03)) * random.random())
            await self.running()
            if self._writes and random.random() < 0.12:
                try:
                    await self._write(cache)
                except Recoverable:
                    self.refused += 1
            else:
                await self.read(random.choice(self._keys), random.choice(BOUNDS_S))
        self.busy -= 1

    async def _write(self, cache: MarketCache) -> None:
        random = self.random
        key = random.choice([key for key in self._keys if not key.startswith("md:")])
        at = cache._locate(key).partition
        match random.choices(
            ("put", "put_until", "put_tagged", "delete", "tag", "clear", "flush"), (8, 2, 4, 3, 2, 1, 0.3)
        )[0]:
            case "put":
                versions = [(at, await cache.put(key, self._value()))]
            case "put_until":
                versions = [(at, await cache.put(key, self._value(), ttl_ms=random.choice((40, 150, 400))))]
            case "put_tagged":
                tags = random.sample(TAGS, random.randint(1, 2))
                versions = [(at, await cache.put(key, self._value(), ttl_ms=60_000, tags=tags))]
            case "delete":
                versions = [(at, await cache.delete(key))]
            case "tag":
                versions = list(enumerate(await cache.delete_tag(random.choice(TAGS))))
            case "clear":
                versions = list(enumerate(await cache.clear(key.partition(":")[0])))
            case _:
                versions = list(enumerate(await cache.clear()))
        self._history += [Wrote(self._id, partition, version) for partition, version in versions]

    def _value(self) -> str:
        self._n_values += 1
        return f"{self._id}-{self._n_values}"
