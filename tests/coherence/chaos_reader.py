"""A reader as a process: it reads and writes at random and writes down every answer, until its parent tells it to stop.

python -m tests.coherence.chaos_reader '{"name": "r1", "seed": 1, "keys": [...], "file": "r1.history"}'
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import orjson

from agents.bench.child import hear_parent, tell_parent
from models.cache.history import Answer, Event, Heard, Wrote
from models.cache.invalidation import Invalidation
from models.cache.keys import Space
from models.cache.timeline import fingerprint
from models.cache.version import NOTHING
from models.errors import Recoverable
from streams.client.reader import MarketCache
from streams.client.upkeep import SPACES
from streams.clock import now_ns
from streams.settings import Settings, load_settings
from tests.coherence.copies import memory_copy

_BOUNDS_S = (None, None, None, 0.15, 0.5, 2.0)
_TAGS = ("red", "blue")
_FLUSHED_EVENTS = 200


class Reader:
    """One `MarketCache` and the history of what it said.

    What a kill takes with it is the end of the file: a prefix of a history is one.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.name: str = spec["name"]
        self.random = Random(spec["seed"])
        self.keys: list[str] = spec["keys"]
        self._file = Path(spec["file"]).open("ab", buffering=1 << 16)  # noqa: SIM115 - until `close`
        self._encoder = msgspec.json.Encoder()
        self._n_events = self._n_values = 0
        self._told_ns = 0  # what the clock said last

    def clock(self) -> int:
        self._told_ns = now_ns()
        return self._told_ns

    def note(self, event: Event) -> None:
        self._file.write(self._encoder.encode(event) + b"\n")
        self._n_events += 1
        if self._n_events % _FLUSHED_EVENTS == 0:
            self._file.flush()

    def heard(self, partition: int, record: Invalidation) -> None:
        self.note(Heard(self.name, SPACES[record.source], partition, record.to_version))

    async def hear_up_to(self, cache: MarketCache, ends: dict[str, list[int]]) -> None:
        """Until every partition's invalidations were heard up to these versions, by space."""
        missing = [(Space(space), number, end) for space, ends_ in ends.items() for number, end in enumerate(ends_)]
        while missing := [m for m in missing if cache.position(m[0], m[1]) < m[2]]:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)

    def close(self) -> None:
        self._file.close()

    async def read(self, cache: MarketCache, key: str, bound_s: float | None = None) -> None:
        try:
            entry = await cache.get(key, max_staleness_s=bound_s)
        except Recoverable:
            await asyncio.sleep(0.01)
            return
        at_ns = self._told_ns  # an age counts from what the clock said for it; a freeze may lie between that and here
        asked_ns = None if bound_s is None else round(bound_s * 1e9)
        if entry is None:
            self.note(Answer(self.name, key, NOTHING, "", now_ns(), asked_ns, asked_ns))
        else:
            age_ns = None if entry.age_ms is None else round(entry.age_ms * 1e6)
            self.note(Answer(self.name, key, entry.version, fingerprint(entry.value), at_ns, age_ns, asked_ns))

    async def write(self, cache: MarketCache) -> None:
        random = self.random
        key = random.choice([key for key in self.keys if not key.startswith("md:")])
        what = random.choices(("put", "put_until", "put_tagged", "delete", "tag", "clear"), (8, 2, 4, 3, 1, 0.5))[0]
        self._n_values += 1
        value = f"{self.name}-{self._n_values}"
        at = cache._locate(key).partition
        try:
            match what:
                case "put":
                    versions = [(at, await cache.put(key, value))]
                case "put_until":
                    versions = [(at, await cache.put(key, value, ttl_ms=random.randint(500, 3_000)))]
                case "put_tagged":
                    tags = random.sample(_TAGS, random.randint(1, 2))
                    versions = [(at, await cache.put(key, value, ttl_ms=3_600_000, tags=tags))]
                case "delete":
                    versions = [(at, await cache.delete(key))]
                case "tag":
                    versions = list(enumerate(await cache.delete_tag(random.choice(_TAGS))))
                case _:
                    versions = list(enumerate(await cache.clear(key.partition(":")[0])))
        except Recoverable:
            return
        for partition, version in versions:
            self.note(Wrote(self.name, partition, version))

    async def work(self, cache: MarketCache) -> None:
        while True:
            await asyncio.sleep(0.004 * self.random.random())
            if self.random.random() < 0.03:
                await self.write(cache)
            else:
                await self.read(cache, self.random.choice(self.keys), self.random.choice(_BOUNDS_S))


@contextlib.asynccontextmanager
async def opened(spec: dict[str, Any], settings: Settings) -> AsyncIterator[tuple[Reader, MarketCache]]:
    """A cache, and the history of it alone: one that could not be opened, because a service was away, is another."""
    for attempt in itertools.count(1):
        reader = Reader(spec | {"name": f"{spec['name']}.{attempt}"})
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(reader.close)
            try:
                cache = await stack.enter_async_context(MarketCache(settings, clock=reader.clock, heard=reader.heard))
            except Recoverable:
                await asyncio.sleep(0.1)
                continue
            yield reader, cache
            return


async def main(spec: dict[str, Any], settings: Settings) -> None:
    """Work until told to stop; then hear up to the logs' ends, read every key, and tell what memory holds."""
    async with opened(spec, settings) as (reader, cache):
        working = asyncio.create_task(reader.work(cache))
        tell_parent(ready=True)
        await hear_parent()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working  # what ended it before is an error of its own
        tell_parent(stopped=True)
        ends = (await hear_parent())["ends"]
        await reader.hear_up_to(cache, ends)
        for key in reader.keys:
            await reader.read(cache, key)
        held = memory_copy(cache.memory, now_ns() // 1_000_000)
    tell_parent(memory=held)


if __name__ == "__main__":
    asyncio.run(main(orjson.loads(sys.argv[1]), load_settings()))
