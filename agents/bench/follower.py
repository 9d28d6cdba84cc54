"""A reader process that holds every instrument and stamps each update once it is in its memory."""

from __future__ import annotations

import asyncio
import gc
import sys

import orjson

from agents.bench.child import hear_parent, tell_parent
from agents.bench.heard import wait_heard, wait_synced
from agents.cli.output import run
from models.cache.invalidation import Invalidation, Source
from models.cache.keys import Space
from models.perf.ticks import SeededTicks
from streams.client.reader import MarketCache
from streams.clock import now_ns
from streams.settings import Settings, load_settings

FACETS = ("trade", "quote")
_A_TURN = 500


async def follow(settings: Settings, *, instruments: int) -> None:
    """Hold all trades and quotes; tell when each record was in memory, and in the end all that memory holds.

    Frames without a due time are the publisher's word to quiet partitions, no ticks.
    """
    numbers = range(settings.kafka.partitions)
    keys = [f"md:{i.text}:{facet}" for i in SeededTicks(instruments).instruments for facet in FACETS]
    seen: list[list[tuple[int, int]]] = [[] for _ in numbers]

    def stamp(partition: int, record: Invalidation) -> None:
        if record.source is Source.FRAMES and len(record.stamps):
            seen[partition].append((now_ns(), int((record.stamps["n_ticks"] * (record.stamps["due_ns"] > 0)).sum())))

    async with MarketCache(settings, heard=stamp) as cache:
        await wait_synced(cache, (Space.MARKET,), len(numbers))
        for at in range(0, len(keys), _A_TURN):
            await asyncio.gather(*(cache.get(key) for key in keys[at : at + _A_TURN]))
        for stamps in seen:
            stamps.clear()
        gc.collect()
        gc.freeze()
        tell_parent(held=len(cache.memory))
        offsets = {int(number): offset for number, offset in (await hear_parent())["offsets"].items()}
        await wait_heard(cache, offsets)
        entries = [await cache.get(key) for key in keys]
        from_memory = sum(entry is not None and entry.tier == "memory" for entry in entries)
        values = {entry.key: entry.value for entry in entries if entry is not None}
        tell_parent(seen=seen, from_memory=from_memory, values=values)
        await hear_parent()


if __name__ == "__main__":
    run(follow(load_settings(), **orjson.loads(sys.argv[1])))
