"""Writes of a `MarketCache` that depend on what the log holds: many at once, increments, put-if-version, fills."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any

from models.cache.coherence import PartitionView
from models.cache.keys import Location, Space
from models.cache.outcome import Outcome
from models.cache.serialize import Serializer
from models.cache.version import NOTHING
from models.cache.write import CacheWrite, check
from models.errors import OutcomeUnknown, PublishFailed, WriteRefused
from streams.cache.memory import Memory
from streams.client.outcomes import Outcomes
from streams.client.upkeep import Upkeep
from streams.client.writer import Written
from streams.settings import Settings

_AT_ONCE = 1_000  # puts under way of one `put_many`


class DependentWrites:
    """Mixed into `MarketCache`, whose parts it works on."""

    _outcomes: Outcomes | None = None

    if TYPE_CHECKING:
        _settings: Settings
        _serializer: Serializer
        _locate: Any
        _views: dict[tuple[Space, int], PartitionView]
        _memory: Memory
        _upkeep: Upkeep
        _stack: AsyncExitStack

        async def _write(self, write: CacheWrite) -> list[Written]: ...

        def _own_write(
            self,
            at: Location,
            written: Written,
            *,
            packed: bytes = b"",
            expires_at_ms: int | None = None,
            tags: tuple[str, ...] = (),
        ) -> None: ...

    async def put_many(
        self, values: Mapping[str, Any], *, ttl_ms: int | None = None, tags: Iterable[str] = ()
    ) -> dict[str, int]:
        """Write many generic keys with one life and the same tags; this reader sees them at once.

        All are checked before the first is sent. They are writes of their own: others may see some before the rest.

        Returns:
            The version of each key from now on, by key.

        Raises:
            WriteRefused: a key, a value, the life or the tags break a bound; nothing was written.
            PublishFailed: some were not acknowledged, the message names them; all others are written.
        """
        shared = tuple(tags)
        writes = [_checked(CacheWrite("put", key, self.encoded(key, v), ttl_ms, shared)) for key, v in values.items()]
        done: dict[str, int] = {}
        failed: dict[str, BaseException] = {}
        left = iter(writes)
        while batch := list(islice(left, _AT_ONCE)):
            for write, sent in zip(
                batch, await asyncio.gather(*map(self._write, batch), return_exceptions=True), strict=True
            ):
                if isinstance(sent, BaseException):
                    failed[write.key] = sent
                else:
                    self._own_put(write, sent[0])
                    done[write.key] = sent[0].version
        if failed:
            first, why = next(iter(failed.items()))
            raise PublishFailed(f"{len(failed)} of {len(writes)} puts failed, {first!r} first: {why}") from why
        return done

    async def incr(self, key: str, by: int = 1, ttl_ms: int | None = None) -> int:
        """Add to the whole number under a generic key; one that is not there counts as 0.

        Args:
            by: added; a signed 64-bit integer, may be negative.
            ttl_ms: life of a key that this call creates; one that is there keeps its own.

        Returns:
            The number right after this very increment: of n increments by 1 of a new key each returns another of 1..n.

        Raises:
            WriteRefused: the key holds something else, the number would leave 64 bits, or key, by or ttl break a bound;
                nothing was added.
            OutcomeUnknown: whether it was, or will be, added is not known; a second call might count twice.
        """
        written, outcome = await self._asked(CacheWrite("incr", key, ttl_ms=ttl_ms, by=by, reply=True))
        self.expect(key, written.version)
        return int(outcome.value)

    async def put_if(
        self, key: str, value: Any, *, version: int | None, ttl_ms: int | None = None, tags: Iterable[str] = ()
    ) -> int | None:
        """Put, if the key still has this version when the log comes to this write.

        Args:
            version: that of the entry which the new value is made from; None: only if there is no entry.

        Returns:
            The key's new version; None if it had another one than asked for, then nothing was written.

        Raises:
            WriteRefused: key, value, version, ttl or tags break a bound.
            OutcomeUnknown: whether it was, or will be, written is not known; read the key.
        """
        base = NOTHING if version is None else version
        write = CacheWrite("put_if", key, self.encoded(key, value), ttl_ms, tuple(tags), base=base, reply=True)
        written, outcome = await self._asked(write)
        if outcome.value is True:
            self._own_put(write, written)
            return written.version
        self.expect(key, written.version)
        return None

    async def fill(
        self, key: str, value: Any, *, base: int, ttl_ms: int | None = None, tags: Iterable[str] = ()
    ) -> int:
        """Write what a loader found, unless anything newer than `base` touches the key, a tag or its namespace.

        Args:
            base: `await known(key)` from before the loader began.

        Returns:
            The write's version. Whether it counted, a read at or above it tells.

        Raises: as `put`.
        """
        return await self.send(CacheWrite("fill", key, self.encoded(key, value), ttl_ms, tuple(tags), base=base))

    async def send(self, write: CacheWrite) -> int:
        """A put, delete or fill whose value is in bytes already. Returns the write's version; raises as `put`."""
        (written,) = await self._write(_checked(write))
        if write.op == "fill":
            self.expect(write.key, written.version)
        else:
            self._own_put(write, written)
        return written.version

    def encoded(self, key: str, value: Any) -> bytes:
        """The bytes that a value has in the cache. Raises: WriteRefused, naming the key."""
        try:
            return self._serializer.encode(value)
        except WriteRefused as exc:
            raise WriteRefused(f"key {key!r}: {exc.detail}") from exc

    def decoded(self, packed: bytes) -> Any:
        """Inverse of `encoded`: a copy that is the caller's own. Raises: UnreadableValue."""
        return self._serializer.decode(packed)

    async def known(self, key: str) -> int:
        """Up to which version this reader knows all writes that touch the key: the base of a fill.

        Raises:
            ServiceUnavailable: nothing was heard yet, and Redis does not answer.
        """
        at = self._locate(key)
        view = self._views[Space.GENERIC, at.partition]
        if view.synced:
            return max(view.position, self.floor(key))
        mark = await (await self._opened()).mark(at)
        return max(mark.version, self.floor(key))

    def floor(self, key: str) -> int:
        """Newest version that may have touched the key, as far as this reader knows; -1 = none."""
        at = self._locate(key)
        return self._views[at.key.space, at.partition].floors.floor(at.floor)

    def expect(self, key: str, version: int) -> None:
        """From now on answer only as of this version or later: somebody wrote the key then."""
        at = self._locate(key)
        self._views[at.key.space, at.partition].floors.note(at.floor, version)
        self._memory.drop(key)

    def changes(self, key: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set whenever the key may have changed; only of a cache that follows."""
        return self._upkeep.watch(self._locate(key))

    async def _opened(self) -> Outcomes:
        if self._outcomes is None:
            self._outcomes = outcomes = Outcomes(self._settings)
            await self._stack.enter_async_context(outcomes)
        return self._outcomes

    def _own_put(self, write: CacheWrite, written: Written) -> None:
        expires_at_ms = None if write.ttl_ms is None else written.time_ms + write.ttl_ms
        at = self._locate(write.key)
        self._own_write(at, written, packed=write.value, expires_at_ms=expires_at_ms, tags=write.tags)

    async def _asked(self, write: CacheWrite) -> tuple[Written, Outcome]:
        """Send a write and wait for what becomes of it."""
        _checked(write)
        try:
            (written,) = await self._write(write)
        except PublishFailed as exc:
            raise OutcomeUnknown(f"{write.op} of {write.key}: {exc}") from exc
        outcome = await (await self._opened()).wait(self._locate(write.key), write, written.version)
        if outcome.refusal:
            raise WriteRefused(outcome.refusal)
        return written, outcome


def _checked(write: CacheWrite) -> CacheWrite:
    """Raises: WriteRefused."""
    check(write)
    return write
