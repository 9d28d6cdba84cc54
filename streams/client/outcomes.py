"""Waiting for what becomes of a write that asks: its outcome lies in Redis as soon as the worker has dealt with it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Self

from models.cache.keys import Location
from models.cache.mark import Mark
from models.cache.outcome import Outcome, decode_outcome, outcome_key
from models.cache.write import CacheWrite
from models.errors import OutcomeUnknown, ServiceUnavailable
from streams.cache.connect import connect_redis
from streams.cache.reads import RedisReads
from streams.settings import Settings

_FIRST_WAIT_S = 0.002
_LONGEST_WAIT_S = 0.05


class Outcomes:
    """Reads outcomes and marks in Redis; open it with `async with`.

    Args:
        settings: Redis, prefix, `reader.max_wait_s`.
    """

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.topics.prefix
        self._max_wait_s = settings.reader.max_wait_s
        self._redis = connect_redis(settings.redis)
        self._reads = RedisReads(self._redis, url=settings.redis.url, prefix=self._prefix)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(aclosing(self._redis))
        self._stack.push_async_callback(self._reads.close)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def mark(self, at: Location) -> Mark:
        """The mark of a key's partition. Raises: ServiceUnavailable."""
        mark, _ = await self._reads.read(at)
        return mark

    async def wait(self, at: Location, write: CacheWrite, version: int) -> Outcome:
        """What became of the write that the log has at `version`.

        Raises:
            OutcomeUnknown: no worker came to it in time, Redis does not answer, or has lost it.
        """
        what = f"{write.op} of {write.key}, version {version} in the log"
        place = replace(at, redis_key=outcome_key(self._prefix, at.partition, version))
        end, wait_s = time.monotonic() + self._max_wait_s, _FIRST_WAIT_S
        while True:
            try:
                mark, data = await self._reads.read(place)
            except ServiceUnavailable as exc:
                raise OutcomeUnknown(f"{what}: {exc}") from exc
            if data is not None and (outcome := decode_outcome(data)) is not None:
                return outcome
            if mark.version >= version:
                raise OutcomeUnknown(f"{what}: it was dealt with, but Redis has lost what became of it; read the key")
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise OutcomeUnknown(
                    f"{what}: no worker came to it within {self._max_wait_s} s; it will be dealt with. "
                    "Is a worker running?"
                )
            await asyncio.sleep(min(wait_s, left_s))
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
