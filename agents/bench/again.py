"""How long nobody serves: from an instant on until ticks that were published after it are visible everywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, cast

import aiohttp

from models.cache.keys import Space, mark_key
from models.cache.mark import unpack_mark
from models.cache.version import offset_of
from models.errors import DeadlineExceeded
from streams.cache.connect import connect_redis, redis_errors
from streams.kafka.offsets import last_offsets
from streams.settings import Settings

DEADLINE_S = 120.0
_POLL_S = 0.01
_ANSWER_S = 1.0


async def seconds_until_served(settings: Settings, since: float) -> float:
    """Seconds from `since` (time.monotonic) until the next frame of every partition is visible in Redis.

    The next frame is the first one behind the log's end at the time of the call, so it was published after it.

    Raises:
        DeadlineExceeded: that did not happen within `DEADLINE_S`.
        ServiceUnavailable: Kafka or Redis does not answer.
    """
    ends = await last_offsets(settings)
    keys = [mark_key(settings.topics.prefix, Space.MARKET, number) for number in ends]
    async with aclosing(connect_redis(settings.redis)) as redis:
        with redis_errors(settings.redis.url):
            while True:
                marks = [unpack_mark(data) for data in cast(list[bytes | None], await redis.mget(keys))]
                if all(m.version >= 0 and offset_of(m.version) > ends[n] for n, m in zip(ends, marks, strict=True)):
                    return time.monotonic() - since
                if time.monotonic() - since > DEADLINE_S:
                    raise DeadlineExceeded(f"nobody served all partitions again within {DEADLINE_S:g} s")
                await asyncio.sleep(_POLL_S)


async def health(settings: Settings) -> Mapping[str, Any]:
    """What the worker with these settings says of itself; empty if it does not answer."""
    url = f"http://127.0.0.1:{settings.worker.port}/health"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session,
            session.get(url) as answer,
        ):
            report: Mapping[str, Any] = await answer.json()
            return report
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return {}
