"""Locks of loads in Redis: one process loads a key, the others wait; a lease that nobody renews passes on.

The lock only saves work. That a holder who was paused overwrites nothing is the log's doing: its fill carries the
version that it knew when it began, and the worker drops it if anything newer touched the key (rule 10).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from models.cache.keys import parse_key
from models.errors import ServiceUnavailable
from streams.cache.connect import redis_errors

_RENEWALS_A_LEASE = 3
_FILLED = b"F"

# A server that lost its data counts tokens from 1 again: the holder's own number tells it from another of that token.
_ACQUIRE = """
local present = redis.call('GET', KEYS[1])
if present and present ~= ARGV[3] then return {0, present, redis.call('PTTL', KEYS[1])} end
local value = 'H' .. redis.call('INCR', KEYS[2]) .. ':' .. ARGV[1]
redis.call('SET', KEYS[1], value, 'PX', ARGV[2])
return {1, value, 0}
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


@dataclass(frozen=True)
class Lease:
    """The lock is the caller's.

    Attributes:
        token: rises with each lease of a partition while the server keeps its data.
        value: what the lock holds meanwhile.
    """

    token: int
    value: bytes


@dataclass(frozen=True)
class Busy:
    """Somebody loads; unless renewed, the lease ends in `left_s` seconds."""

    left_s: float


@dataclass(frozen=True)
class Filled:
    """Somebody loaded a moment ago, and wrote what it found at `version`, which a tier may not have yet.

    Attributes:
        value: give it to `acquire` to load again all the same.
    """

    version: int
    value: bytes


class LoadLocks:
    """One lock a key.

    Args:
        redis: from `connect_redis`; the caller closes it.
        url: for error messages.
        prefix: the run's.
        lease_s: how long a holder that does not renew keeps a lock; one that was filled is remembered as long.
    """

    def __init__(self, redis: Redis, *, url: str, prefix: str, n_partitions: int, lease_s: float) -> None:
        self._redis = redis
        self._url = url
        self._prefix = prefix
        self._n_partitions = n_partitions
        self._lease_s = lease_s
        self._lease_ms = max(1, int(lease_s * 1000))

    async def acquire(self, key: str, over: bytes = b"") -> Lease | Busy | Filled:
        """Take a key's lock if it is free, or holds exactly `over`.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        lock = self._lock(key)
        # Both keys have one hash tag.
        counter = lock[: lock.index(b"}") + 1] + b"@token"
        done, value, left_ms = await self._call(_ACQUIRE, [lock, counter], uuid.uuid4().hex, self._lease_ms, over)
        if done:
            return Lease(int(value[1:].partition(b":")[0]), value)
        if value[:1] == _FILLED:
            return Filled(int(value[1:]), value)
        return Busy(max(0, left_ms) / 1000)

    async def release(self, key: str, lease: Lease, filled: int | None) -> bool:
        """Give the lock up; False: it had passed on before.

        Args:
            filled: version of the fill, for those who wait; None: nothing was written.

        Raises:
            ServiceUnavailable: no answer in time; the lease ends by itself.
        """
        left = b"" if filled is None else b"%s%d" % (_FILLED, filled)
        return bool(await self._call(_RELEASE, [self._lock(key)], lease.value, left, self._lease_ms))

    async def renew(self, key: str, lease: Lease) -> bool:
        """Let the lease begin anew; False: it has passed on.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        return bool(await self._call(_RENEW, [self._lock(key)], lease.value, self._lease_ms))

    @asynccontextmanager
    async def keep(self, key: str, lease: Lease) -> AsyncIterator[None]:
        """Renew a lease three times in its length, until the block ends or it has passed on."""
        over = asyncio.Event()
        task = asyncio.create_task(self._renewals(key, lease, over))
        try:
            yield
        finally:
            over.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renewals(self, key: str, lease: Lease, over: asyncio.Event) -> None:
        """Also ends by `over`: redis-py loses a cancellation that comes just as a command was written, because
        `asyncio.wait_for` of Python 3.11 does. Without it the lease would be renewed, and waited for, for ever.
        """
        is_ours = True
        while is_ours and not over.is_set():
            await asyncio.sleep(self._lease_s / _RENEWALS_A_LEASE)
            with suppress(ServiceUnavailable):  # the next one may come in time
                is_ours = await self.renew(key, lease)

    async def _call(self, script: str, keys: list[bytes], *arguments: Any) -> Any:
        with redis_errors(self._url):
            return await self._redis.eval(script, len(keys), *keys, *arguments)

    def _lock(self, key: str) -> bytes:
        return f"{self._prefix}load:{{p{parse_key(key).partition(self._n_partitions)}}}:{key}".encode()
