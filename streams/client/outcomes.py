"""Waiting for what becomes of a write that asks: its outcome lies in Redis as soon as the worker has dealt with it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Self

from models.cache.keys import Location
from models.cache.mark import Mark, unpack_mark
from models.cache.outcome import Outcome, decode_outcome, outcome_key
from models.cache.write import CacheWrite
from models.errors import OutcomeUnknown, ServiceUnavailable
from streams.cache.cluster import connect_cluster
from streams.cache.connect import connect_redis, redis_errors
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
        self._url = settings.redis.url
        cluster = settings.redis.cluster
        self._redis: Any = connect_cluster(settings.redis) if cluster else connect_redis(settings.redis)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._redis.aclose()

    async def mark(self, at: Location) -> Mark:
        """The mark of a key's partition. Raises: ServiceUnavailable."""
        mark, _ = await self._read(at, at.redis_key)
        return mark

    async def wait(self, at: Location, write: CacheWrite, version: int) -> Outcome:
        """What became of the write that the log has at `version`.

        Raises:
            OutcomeUnknown: no worker came to it in time, Redis does not answer, or has lost it.
        """
        what = f"{write.op} of {write.key}, version {version} in the log"
        key = outcome_key(self._prefix, at.partition, version)
        end, wait_s = time.monotonic() + self._max_wait_s, _FIRST_WAIT_S
        while True:
            try:
                mark, data = await self._read(at, key)
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

    async def _read(self, at: Location, key: bytes) -> tuple[Mark, bytes | None]:
        """A value as of its partition's mark: one MGET is atomic."""
        with redis_errors(self._url):
            mark, data = await self._redis.mget([at.mark_key, key])
        return unpack_mark(mark), data
