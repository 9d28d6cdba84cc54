"""`ReadThrough`: from a miss to a value. One load for all who want it, in this process and in all others.

async with MarketCache(settings) as cache, ReadThrough(cache, settings) as loads:
    found = await loads.get_or_load("user:42", fetch_user, LoadPolicy(ttl_ms=60_000))
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext, suppress
from typing import Any, Self

import msgspec

from models.cache.loading import Freshness, LoadPolicy
from models.cache.version import NOTHING
from models.cache.write import CacheWrite, check
from models.errors import CorruptStore, DeadlineExceeded, PublishFailed, Recoverable, ServiceUnavailable, WriteRefused
from streams import metrics
from streams.cache.connect import connect_redis
from streams.cache.flight import Flight, Flights
from streams.cache.lock import Busy, Filled, Lease, LoadLocks
from streams.client.failures import Failures
from streams.client.presence import Presence
from streams.client.reader import Entry, MarketCache
from streams.clock import Clock, now_ns
from streams.log import event
from streams.settings import Settings

log = logging.getLogger(__name__)

Loader = Callable[[], Awaitable[Any] | Any]

_MS = 1_000_000
_FIRST_WAIT_S = 0.01
_LONGEST_WAIT_S = 0.25  # who waits is woken by the invalidation; this is for fills that were dropped, and dead holders
_SMOOTHING = 0.125  # weight of a new load time (as TCP smooths round trips: RFC 6298, section 2)


class Loaded(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        value: the caller's own; None: the loader, or whoever wrote the entry, says that there is nothing.
        stale: its fresh life is over, and a load failed or took too long.
        loaded: it came from a load, not out of the cache.
        version: of the entry; None for what came from a load.
    """

    key: str
    value: Any
    stale: bool = False
    loaded: bool = False
    version: int | None = None


class ReadThrough:
    """Loads what a cache misses, and fills it. One event loop, any number of tasks; open it with `async with`.

    Args:
        cache: an open one. Only one that follows is woken by fills of others; another one polls.
        settings: those of the cache.
        presence: of the keys that `get_or_load` is told must exist.
        lease_s: how long a process that died in a load keeps the others waiting.
        clock: UTC ns.
        draw: random numbers of (0, 1].
    """

    def __init__(
        self,
        cache: MarketCache,
        settings: Settings,
        *,
        presence: Presence | None = None,
        lease_s: float = 10.0,
        clock: Clock = now_ns,
        draw: Callable[[], float] = lambda: 1.0 - random.random(),
    ) -> None:
        self._cache = cache
        self._presence = presence
        self._clock = clock
        self._draw = draw
        self._redis = connect_redis(settings.redis)
        self._locks = LoadLocks(
            self._redis, url=settings.redis.url, prefix=settings.topics.prefix,
            n_partitions=settings.kafka.partitions, lease_s=lease_s,
        )  # fmt: skip
        self._flights: Flights[tuple[bytes, int | None]] = Flights()
        self._failures = Failures()
        self._load_ms: dict[str, float] = {}  # by namespace
        self._nothing = cache.encoded("", None)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(aclosing(self._redis))
        self._stack.push_async_callback(self._flights.close)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Cancels loads that are under way."""
        await self._stack.aclose()

    async def get_or_load(self, key: str, loader: Loader, policy: LoadPolicy, *, exists: str | None = None) -> Loaded:
        """What the cache has, or else what the loader returns, which then is in the cache for everybody.

        Args:
            key: a generic one.
            loader: without arguments, async or not; one that is not runs in a thread. None says: there is nothing.
            policy: the same for all who load this key.
            exists: another key, without which there is nothing to load. Where presence knows that it is absent, the
                answer is None at once: neither a tier nor the loader is asked.

        Raises:
            InvalidKey: see `models.cache.keys.parse_key`.
            WriteRefused: key, tags or what was loaded cannot be written at all (not made of msgpack's types).
            DeadlineExceeded: the soft or the hard timeout has passed, and there is nothing stale to serve.
            ServiceUnavailable: it is closed.
            Exception: whatever the loader raised, to all who waited for it, if there is nothing stale to serve.
        """
        if exists is not None and self._presence is not None and self._presence.is_absent(exists):
            metrics.LOADS.labels("spared").inc()
            return Loaded(key, None)
        entry, freshness = await self._look(key, policy)
        if entry is not None and freshness is not Freshness.STALE:
            if freshness is Freshness.EARLY:
                self._fly(key, loader, policy, seen=entry.version)
            return Loaded(key, entry.value, version=entry.version)
        try:
            packed, version = await self._wait(key, loader, policy)
        except Exception:
            if entry is None or self._is_over(entry):
                raise
            metrics.LOADS.labels("stale").inc()
            return Loaded(key, entry.value, stale=True, version=entry.version)
        return Loaded(key, self._cache.decoded(packed), loaded=version is None, version=version)

    async def _wait(self, key: str, loader: Loader, policy: LoadPolicy) -> tuple[bytes, int | None]:
        self._failures.check(key, self._clock())
        task = self._fly(key, loader, policy)
        await asyncio.wait({task}, timeout=policy.soft_timeout_s)  # leaves the task alone when this waiter is cancelled
        if not task.done():
            metrics.LOADS.labels("given_up").inc()
            raise DeadlineExceeded(f"{key}: its load takes longer than {policy.soft_timeout_s} s; it goes on and fills")
        if task.cancelled():
            raise ServiceUnavailable(f"{key}: its load was cancelled")
        return task.result()

    def _fly(
        self, key: str, loader: Loader, policy: LoadPolicy, *, seen: int | None = None
    ) -> asyncio.Task[tuple[bytes, int | None]]:
        """Join or begin a flight; `seen`: an entry of this version is not good enough, and nobody waits."""

        async def load(flight: Flight[tuple[bytes, int | None]]) -> tuple[bytes, int | None]:
            return await self._load(flight, key, loader, policy, seen)

        return self._flights.join(key, self._cache.floor(key), load)

    async def _load(
        self, flight: Flight[tuple[bytes, int | None]], key: str, loader: Loader, policy: LoadPolicy, seen: int | None
    ) -> tuple[bytes, int | None]:
        """The value in bytes, and the version of the entry if there was one by now; else it was loaded here."""
        check(CacheWrite("fill", key, self._nothing, policy.ttl_ms, policy.tags))
        lease = await self._claim(key, policy, seen)
        if isinstance(lease, Entry):
            return self._cache.encoded(key, lease.value), lease.version
        filled: int | None = None
        try:
            async with self._kept(key, lease):
                flight.base = base = await self._known(key)
                packed = await self._call(key, loader, policy)
                filled = await self._fill(key, packed, base, policy)
        finally:
            if lease is not None:
                with suppress(ServiceUnavailable):
                    await self._locks.release(key, lease, filled)
        return packed, None

    async def _claim(self, key: str, policy: LoadPolicy, seen: int | None) -> Lease | Entry | None:
        """The right to load, or what somebody else has loaded meanwhile; None without a Redis to agree in."""
        over, wait_s = b"", _FIRST_WAIT_S
        try:
            with self._cache.changes(key) as changed:
                async with asyncio.timeout(policy.hard_timeout_s) as limit:
                    while not limit.expired():  # the client may have lost the cancellation: see `LoadLocks`
                        changed.clear()
                        claim = await self._locks.acquire(key, over)
                        if isinstance(claim, Filled):
                            self._cache.expect(key, claim.version)
                        async with self._kept(key, claim):  # a tier may answer later than the lease ends
                            found = await self._found_meanwhile(key, policy, seen, claim)
                        if isinstance(found, Entry):
                            return found
                        if isinstance(claim, Lease):
                            return claim
                        if isinstance(claim, Filled) and found is not Freshness.UNKNOWN:
                            over = claim.value  # the fill was dropped, or its life is over already
                            continue
                        left_s = claim.left_s if isinstance(claim, Busy) else wait_s
                        with suppress(TimeoutError):
                            async with asyncio.timeout(min(wait_s, max(left_s, _FIRST_WAIT_S))):
                                await changed.wait()
                        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                    raise TimeoutError
        except ServiceUnavailable:
            return None
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"{key}: another process has been loading it for more than {policy.hard_timeout_s} s"
            ) from exc

    def _kept(self, key: str, claim: Lease | Busy | Filled | None) -> AbstractAsyncContextManager[None]:
        return self._locks.keep(key, claim) if isinstance(claim, Lease) else nullcontext()

    async def _found_meanwhile(
        self, key: str, policy: LoadPolicy, seen: int | None, claim: Lease | Busy | Filled
    ) -> Entry | Freshness:
        """Also with a lease: between the miss and the lease somebody may have filled. Then the lease is given up."""
        is_needed = False
        try:
            entry, freshness = await self._look(key, policy)
            is_needed = entry is None or freshness is Freshness.STALE or entry.version == seen
            return freshness if entry is None or is_needed else entry
        finally:
            if isinstance(claim, Lease) and not is_needed:
                await self._locks.release(key, claim, None)

    async def _look(self, key: str, policy: LoadPolicy) -> tuple[Entry | None, Freshness]:
        """The entry and what it is good for. Tiers that cannot answer are a miss: a loader can."""
        try:
            entry = await self._cache.get(key)
        except (Recoverable, CorruptStore):
            metrics.LOADS.labels("tiers_silent").inc()
            return None, Freshness.UNKNOWN
        if entry is None:
            return None, Freshness.ABSENT
        return entry, policy.judge(
            expires_at_ms=entry.expires_at_ms,
            absent=entry.value is None,
            now_ms=self._clock() // _MS,
            load_ms=self._load_ms.get(_namespace(key), 0.0),
            draw=self._draw(),
        )

    def _is_over(self, entry: Entry) -> bool:
        """Whether its whole life, stale time included, has ended: a load may take longer than was left of it."""
        return entry.expires_at_ms is not None and entry.expires_at_ms <= self._clock() // _MS

    async def _known(self, key: str) -> int:
        try:
            return await self._cache.known(key)
        except ServiceUnavailable:
            return NOTHING

    async def _call(self, key: str, loader: Loader, policy: LoadPolicy) -> bytes:
        """What the loader returns, in bytes. Raises: whatever it raises; DeadlineExceeded; WriteRefused."""
        began = time.perf_counter()
        limit = asyncio.timeout(policy.hard_timeout_s)
        try:
            async with limit:
                value = await _called(loader)
        except Exception as exc:
            metrics.LOADS.labels("timed_out" if limit.expired() else "failed").inc()
            error: Exception = exc
            if limit.expired():
                error = DeadlineExceeded(f"{key}: its loader did not return within {policy.hard_timeout_s} s")
            if policy.error_ttl_ms:
                self._failures.remember(key, error, self._clock() + policy.error_ttl_ms * _MS)
            if error is exc:
                raise
            raise error from exc
        self._time(key, (time.perf_counter() - began) * 1000)
        metrics.LOADS.labels("absent" if value is None else "loaded").inc()
        return self._cache.encoded(key, value)

    async def _fill(self, key: str, packed: bytes, base: int, policy: LoadPolicy) -> int | None:
        """Version of the fill; None: it is not kept. Whoever waits has the value all the same."""
        life_ms = policy.life_ms(key, self._clock() // _MS, absent=packed == self._nothing)
        if not life_ms:
            return None
        try:
            return await self._cache.send(CacheWrite("fill", key, packed, life_ms, policy.tags, base=base))
        except (PublishFailed, ServiceUnavailable, WriteRefused) as exc:
            metrics.LOADS.labels("not_kept").inc()
            event(log, "load_not_kept", level=logging.WARNING, key=key, detail=str(exc))
            return None

    def _time(self, key: str, load_ms: float) -> None:
        """Load times are much alike within a namespace."""
        name = _namespace(key)
        known = self._load_ms.get(name, load_ms)
        self._load_ms[name] = known + _SMOOTHING * (load_ms - known)


def _namespace(key: str) -> str:
    return key.partition(":")[0]


async def _called(loader: Loader) -> Any:
    if inspect.iscoroutinefunction(loader):
        return await loader()
    found = await asyncio.to_thread(loader)
    return await found if inspect.isawaitable(found) else found
