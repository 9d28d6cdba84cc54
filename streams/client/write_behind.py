"""Write-behind: `put` returns at once, the log gets the writes a moment later, many at a time.

async with MarketCache(settings) as cache, WriteBehind(cache) as behind:
    behind.put("session:42", {"page": 7}, ttl_ms=60_000)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Self

from models.cache.write import CacheWrite, check
from models.errors import BufferFull, DeadlineExceeded, MarketPrismError
from streams.client.reader import MarketCache
from streams.log import event

log = logging.getLogger(__name__)

_RETRY_S = 0.5


class WriteBehind:
    """A bounded buffer before a cache. What a process loses when it dies is what is in it: see `Args`.

    Writes of one key reach the log in the order in which they were made; of several that wait, only the newest does.
    Writes of different keys may pass each other. What Kafka does not acknowledge in time is sent again, so it may come
    twice. One event loop; `put` and `delete` do not wait.

    Args:
        cache: an open one.
        max_entries: keys that may wait; more are refused. With `interval_s` the bound of what can be lost: writes of at
            most so many keys, made in the last `interval_s` seconds plus the time that the log takes to acknowledge
            (or, while Kafka is away, since it went).
        max_bytes: of their values.
        flush_entries: so many waiting keys are sent at once, without waiting for the interval.
        interval_s: between two sends.
        close_s: how long `close` tries to get rid of what is waiting.
    """

    def __init__(
        self,
        cache: MarketCache,
        *,
        max_entries: int = 10_000,
        max_bytes: int = 16 << 20,
        flush_entries: int = 500,
        interval_s: float = 0.1,
        close_s: float = 30.0,
    ) -> None:
        self._cache = cache
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._flush_entries, self._interval_s, self._close_s = flush_entries, interval_s, close_s
        self._waiting: dict[str, CacheWrite] = {}
        self._sending: dict[str, CacheWrite] = {}
        self._bytes = 0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._closed = True
        self._why = "no answer"  # why writes were not taken last
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Keys whose newest write the log has not acknowledged."""
        return len(self._waiting.keys() | self._sending.keys())

    def __repr__(self) -> str:
        return f"WriteBehind({len(self)}/{self._max_entries} keys, {self._bytes}/{self._max_bytes} bytes)"

    async def __aenter__(self) -> Self:
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="write-behind")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Raises: DeadlineExceeded when not everything was written within `close_s`; the message says how much."""
        self._closed = True
        self._wake.set()
        task, self._task = self._task, None
        try:
            async with asyncio.timeout(self._close_s):
                if task is not None:
                    await task  # a flush under way is not cut short: what it sent would be sent again
                while len(self):
                    try:
                        await self.flush()
                    except MarketPrismError:
                        await asyncio.sleep(_RETRY_S)
        except TimeoutError as exc:
            first = next(iter(self._sending | self._waiting))
            raise DeadlineExceeded(
                f"{len(self)} writes could not be sent within {self._close_s} s and are lost, {first!r} first: "
                f"{self._why}"
            ) from exc

    def put(self, key: str, value: Any, *, ttl_ms: int | None = None, tags: Iterable[str] = ()) -> None:
        """Write a generic key soon.

        Raises:
            WriteRefused: key, value, ttl or tags break a bound.
            BufferFull: too much is waiting already; the write was not taken.
        """
        self._take(CacheWrite("put", key, self._cache.encoded(key, value), ttl_ms, tuple(tags)))

    def delete(self, key: str) -> None:
        """Delete a generic key soon. Raises as `put`."""
        self._take(CacheWrite("delete", key))

    async def get(self, key: str) -> Any:
        """What was written last: from the buffer, or else the cache's value; None if there is none. Raises as there."""
        if (write := self._waiting.get(key) or self._sending.get(key)) is not None:
            return None if write.op == "delete" else self._cache.decoded(write.value)
        entry = await self._cache.get(key)
        return None if entry is None else entry.value

    async def flush(self) -> None:
        """Send what is waiting; returns when the log has it.

        Raises:
            PublishFailed, ServiceUnavailable: it has not; what failed goes on waiting.
        """
        async with self._turn:
            self._sending, self._waiting = self._waiting, {}
            left = list(self._sending.values())
            try:
                ends = await asyncio.gather(*map(self._cache.send, left), return_exceptions=True)
                failures = [end for end in ends if isinstance(end, BaseException)]
                left = [write for write, end in zip(left, ends, strict=True) if isinstance(end, BaseException)]
            finally:
                self._settle(left)
        if failures:
            self._why = str(failures[0])
            raise failures[0]

    def _settle(self, failed: list[CacheWrite]) -> None:
        """What failed waits again, before all others, unless its key was written anew meanwhile."""
        self._waiting = {write.key: write for write in failed if write.key not in self._waiting} | self._waiting
        self._sending = {}
        self._bytes = sum(len(write.value) for write in self._waiting.values())

    def _take(self, write: CacheWrite) -> None:
        check(write)
        if self._closed:
            raise BufferFull(f"{write.key}: the write-behind buffer is closed")
        old = self._waiting.get(write.key)
        grown = self._bytes + len(write.value) - (len(old.value) if old else 0)
        if (old is None and len(self) >= self._max_entries) or grown > self._max_bytes:
            raise BufferFull(
                f"{write.key}: {len(self)} keys and {self._bytes} bytes wait to be written, at most "
                f"{self._max_entries} and {self._max_bytes} may: write more slowly, or use the cache's `put`"
            )
        self._waiting[write.key] = write
        self._bytes = grown
        if len(self._waiting) >= self._flush_entries:
            self._wake.set()

    async def _run(self) -> None:
        while not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
            except MarketPrismError as exc:
                event(log, "write_behind_delayed", level=logging.WARNING, waiting=len(self), detail=str(exc))
                if not self._closed:
                    await asyncio.sleep(_RETRY_S)
