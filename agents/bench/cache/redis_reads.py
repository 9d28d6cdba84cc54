"""A process whose tasks read from Redis alone, as fast as answers come."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from contextlib import aclosing

import msgspec
import numpy as np
import orjson

from agents.bench.child import hear_parent, tell_parent
from agents.cli.output import run
from models.cache.entry import StoredEntry, encode_entry
from models.cache.keys import Space, locate
from models.cache.version import NOTHING
from models.errors import MarketPrismError
from streams.cache.batch import Batch, put
from streams.cache.connect import connect_redis
from streams.cache.redis import PartitionWriter
from streams.client.reader import MarketCache
from streams.settings import Settings, load_settings

_VALUE_CHARS = 100
_WARM_UP_S = 0.5


async def read(settings: Settings, *, keys: int, tasks: int, seconds: float, seed: int) -> None:
    """Fill Redis, read for so long with so many tasks at once, tell how many answers there were and how late.

    Raises:
        MarketPrismError: an answer was not what is stored.
    """
    texts = [f"session:{number}" for number in range(keys)]
    await _fill(settings, texts)
    async with MarketCache(settings, follow=False) as cache:
        order = np.random.default_rng(seed).integers(0, keys, 1 << 16).tolist()
        late_ns: list[int] = []
        ends_ns = time.perf_counter_ns() + int((_WARM_UP_S + seconds) * 1e9)

        async def reader(first: int) -> None:
            at, now_ns = first, time.perf_counter_ns()
            while now_ns < ends_ns:
                number = order[at % len(order)]
                at += 1
                entry = await cache.get(texts[number])
                began_ns, now_ns = now_ns, time.perf_counter_ns()
                late_ns.append(now_ns - began_ns)
                if entry is None or entry.value != _value(texts[number]):
                    raise MarketPrismError(f"{texts[number]} is {entry} in Redis")

        gc.collect()
        gc.freeze()
        readers = [asyncio.create_task(reader(task * 317)) for task in range(tasks)]
        await asyncio.sleep(_WARM_UP_S)
        late_ns.clear()
        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*readers)
        took, used = time.perf_counter() - began, time.process_time() - used
    late_ms = (np.percentile(late_ns, [50, 99]) / 1e6).tolist()
    tell_parent(reads=len(late_ns), seconds=took, cpu_s=used, late_ms=late_ms)
    await hear_parent()


def _value(text: str) -> str:
    return text.ljust(_VALUE_CHARS, ".")


async def _fill(settings: Settings, texts: list[str]) -> None:
    prefix, n = settings.topics.prefix, settings.kafka.partitions
    places = [locate(text, prefix=prefix, n_partitions=n) for text in texts]
    async with aclosing(connect_redis(settings.redis)) as redis:
        writer = PartitionWriter(redis, url=settings.redis.url, prefix=prefix)
        for partition in range(n):
            updates = [
                (at.redis_key, put(encode_entry(1, StoredEntry(None, (), msgspec.msgpack.encode(_value(at.key.text))))))
                for at in places
                if at.partition == partition
            ]
            await writer.apply(Batch(Space.GENERIC, partition, 1, NOTHING, 1, 0, updates=updates))


if __name__ == "__main__":
    run(read(load_settings(), **orjson.loads(sys.argv[1])))
