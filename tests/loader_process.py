"""A process that loads one key many times at once: `python -m tests.loader_process KEY N_CALLS N_PROCESSES`.

It says `ready`, waits for a line, and prints one JSON object. What is loaded, and how often, is counted in Redis.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import aclosing

from models.cache.loading import LoadPolicy
from models.errors import DeadlineExceeded
from streams.cache.connect import connect_redis
from streams.client.read_through import ReadThrough
from streams.client.reader import MarketCache
from streams.settings import load_settings

_DEADLINE_S = 60.0


async def main(key: str, n_calls: int, n_processes: int) -> None:
    settings = load_settings()
    came, loaded = (f"{settings.topics.prefix}{what}:{key}" for what in ("came", "loaded"))
    async with (
        aclosing(connect_redis(settings.redis)) as redis,
        MarketCache(settings) as cache,
        ReadThrough(cache, settings) as loads,
    ):

        async def load() -> int:
            """Slow enough for all processes to have missed the key."""
            number = int(await redis.incr(loaded))
            end = time.monotonic() + _DEADLINE_S
            while int(await redis.get(came) or 0) < n_processes:
                if time.monotonic() > end:
                    raise DeadlineExceeded("the other processes did not come")
                await asyncio.sleep(0.01)
            return number

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        calls = [asyncio.create_task(loads.get_or_load(key, load, LoadPolicy(ttl_ms=60_000))) for _ in range(n_calls)]
        await asyncio.sleep(0)  # all of them have begun
        await redis.incr(came)
        found = await asyncio.gather(*calls)
    print(json.dumps({"values": sorted({one.value for one in found}), "loaded": sum(one.loaded for one in found)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
