"""A short check that no copy lies: ticks and writes flow through a worker while a reader looks at its memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from agents.bench.flow import flowing
from agents.bench.heard import wait_heard, wait_synced
from agents.bench.producer import TickLog, tick_log
from agents.bench.site import BenchSite, forget_run
from agents.bench.worker import check_served
from models.cache.keys import Space, market_key
from models.market.facets import QUOTE, TRADE
from models.perf.ticks import SeededTicks
from streams.client.reader import Entry, MarketCache
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings

_RATE = 20_000.0  # ticks a second
_FRAME_TICKS = 256
_SESSIONS = 50
_POLL_S = 0.01
_WRITTEN_S = 5.0


async def count_violations(site: BenchSite, *, instruments: int, seconds: float, seed: int) -> int:
    """How often a promise was broken; 0 is right. Each of these is one violation:

    a version of a key that went back; an own write that was not read at once; a key that memory and Redis do not agree
    on once the stream rests.

    Raises:
        MarketPrismError: a service failed, or RocksDB and Redis do not hold what was sent.
    """
    settings = site.run_settings("cache")
    await ensure_topics(settings)
    try:
        async with tick_log(settings, SeededTicks(instruments, seed=seed), frame_ticks=_FRAME_TICKS) as log:
            async with WorkerProcess(settings, site.folder / "worker.log"):
                await log.send_opening()
                await wait_served(settings, log.sender.offsets)
                async with MarketCache(settings) as cache:
                    broken = await _while_it_flows(cache, settings, log, seconds)
                    await wait_served(settings, log.sender.offsets)
                    broken += await _at_rest(cache, settings, log)
            await check_served(settings, log.expected())
        return broken
    finally:
        await forget_run(settings)


async def _while_it_flows(cache: MarketCache, settings: Settings, log: TickLog, seconds: float) -> int:
    await wait_synced(cache, Space, settings.kafka.partitions)
    keys, broken, newest = _market_keys(log), 0, dict[str, int]()
    ends, turn = time.monotonic() + seconds, 0
    async with flowing(log, _RATE):
        while time.monotonic() < ends:
            for key, entry in zip(keys, await _read(cache, keys), strict=True):
                version = -1 if entry is None else entry.version
                broken += version < newest.get(key, -1)
                newest[key] = version
            session = f"session:{turn % _SESSIONS}"
            version = await cache.put(session, {"turn": turn})
            mine = await cache.get(session)
            broken += mine is None or mine.version < version
            turn += 1
    return broken


async def _at_rest(cache: MarketCache, settings: Settings, log: TickLog) -> int:
    await wait_heard(cache, log.sender.offsets)
    keys = [*_market_keys(log), *(f"session:{number}" for number in range(_SESSIONS))]
    held = await _read(cache, keys)
    async with MarketCache(settings, follow=False) as bare:
        await _written(bare, held[-_SESSIONS:], keys[-_SESSIONS:])
        stored = await _read(bare, keys)
    return sum(_content(mine) != _content(theirs) for mine, theirs in zip(held, stored, strict=True))


async def _written(bare: MarketCache, mine: Sequence[Entry | None], keys: Sequence[str]) -> None:
    """Until Redis has the last own writes; those that never come differ afterwards."""
    for entry, key in zip(mine, keys, strict=True):
        end = time.monotonic() + _WRITTEN_S
        while time.monotonic() < end:
            stored = await bare.get(key)
            if entry is None or (stored is not None and stored.version >= entry.version):
                break
            await asyncio.sleep(_POLL_S)


async def _read(cache: MarketCache, keys: Sequence[str]) -> list[Entry | None]:
    return await asyncio.gather(*(cache.get(key) for key in keys))


def _content(entry: Entry | None) -> object:
    return None if entry is None else (entry.version, entry.value)


def _market_keys(log: TickLog) -> list[str]:
    return [market_key(i.text, facet) for i in log.source.instruments for facet in (TRADE, QUOTE)]
