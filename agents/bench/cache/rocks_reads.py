"""A process that reads the RocksDB of a live worker on its machine, through the tier `rocksdb` alone, one by one."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from agents.bench.child import hear_parent, tell_parent
from agents.cli.output import run
from models.cache.coherence import PartitionView
from models.cache.keys import Space, locate, market_key
from models.cache.version import NOTHING
from models.errors import DeadlineExceeded, MarketPrismError
from models.market.facets import QUOTE
from models.perf.ticks import SeededTicks
from streams.cache.held import Held
from streams.cache.rocks_tier import RocksTier
from streams.cache.tier import Asked, opened
from streams.settings import Settings, load_settings

_READS_A_TURN = 256  # then the loop has a turn, in which the tier follows the worker
_WHOLE_S = 60.0
_POLL_S = 0.05


async def read(settings: Settings, *, keys: int, seconds: float, seed: int) -> None:
    """Read random ones of so many keys of each kind for so long; tell how long a read took and what it cost.

    The worker's barriers go on meanwhile: the tier follows them, and what they changed is read anew.

    Raises:
        MarketPrismError: a key has no value in the store.
    """
    views = {
        (space, number): _believing(settings) for space in Space for number in range(settings.kafka.partitions)
    }  # fmt: skip
    told: dict[str, dict[str, float]] = {}
    async with opened(RocksTier(settings)) as tier:
        for kind, texts in keys_of(SeededTicks(keys, seed=seed)).items():
            places = [
                locate(text, prefix=settings.topics.prefix, n_partitions=settings.kafka.partitions) for text in texts
            ]
            asked = [(at, views[at.key.space, at.partition]) for at in places]
            await _wait_whole(tier, asked)
            order = np.random.default_rng(seed).integers(0, len(asked), 1 << 16).tolist()
            told[kind] = await _time(tier, [asked[number] for number in order], seconds)
    tell_parent(**told)
    await hear_parent()


def keys_of(source: SeededTicks) -> dict[str, list[str]]:
    """By kind: the quotes of all instruments, and as many entries."""
    return {
        "row": [market_key(instrument.text, QUOTE) for instrument in source.instruments],
        "entry": [f"session:{number}" for number in range(len(source.instruments))],
    }


def _believing(settings: Settings) -> PartitionView:
    """The view of a reader that has heard of the partition and of no change in it."""
    view = PartitionView(settings.reader.floor_ring)
    view.hear(NOTHING, NOTHING)
    return view


async def _wait_whole(tier: RocksTier, asked: Sequence[Asked]) -> None:
    """Until a barrier has brought every key. Raises: DeadlineExceeded."""
    end = time.monotonic() + _WHOLE_S
    while missing := [at.key.text for at, view in asked if not _there(await tier.read(at, view))]:
        if time.monotonic() > end:
            raise DeadlineExceeded(
                f"{missing[0]} and {len(missing) - 1} more were not in RocksDB within {_WHOLE_S:g} s"
            )
        await asyncio.sleep(_POLL_S)


def _there(held: Held | None) -> bool:
    return held is not None and held.version != NOTHING


async def _time(tier: RocksTier, asked: Sequence[Asked], seconds: float) -> dict[str, Any]:
    took_ns: list[int] = []
    clock, tell, look, n = time.perf_counter_ns, took_ns.append, tier.read, len(asked)
    gc.collect()
    gc.freeze()
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        start = len(took_ns) % n
        for at, view in asked[start : start + _READS_A_TURN]:
            began_ns = clock()
            held = await look(at, view)
            tell(clock() - began_ns)
            if not _there(held):
                raise MarketPrismError(f"{at.key.text} has gone from RocksDB")
        await asyncio.sleep(0)
    used = time.process_time() - used
    p50, p99 = np.percentile(took_ns, [50, 99]).tolist()
    return {"p50_ns": p50, "p99_ns": p99, "cpu_ns": used / len(took_ns) * 1e9}


if __name__ == "__main__":
    run(read(load_settings(), **orjson.loads(sys.argv[1])))
