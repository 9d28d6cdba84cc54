"""`MarketCache`: reads that know how old they may be, from memory or another tier, kept true by invalidations.

async with MarketCache(settings) as cache:
    entry = await cache.get("md:binance.spot.BTC-USDT:quote")
    version = await cache.put("session:42", {"user": 7}, ttl_ms=60_000)
    async for entry in cache.watch("md:binance.spot.BTC-USDT:trade"):
        ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack
from enum import Enum
from functools import lru_cache, partial
from typing import Any, Final, Self

import msgspec

from models.cache import version as versions
from models.cache.coherence import PartitionView
from models.cache.floors import namespace_field, tag_field
from models.cache.keys import Location, Space, locate
from models.cache.policy import Reason
from models.cache.serialize import Serializer
from models.cache.version import MAX_OFFSET
from models.cache.write import CacheWrite
from models.errors import InvalidKey, MarketPrismError, Recoverable, UnreadableValue
from streams import metrics
from streams.cache.held import Held
from streams.cache.memory import Memory, OnEvict
from streams.cache.memory_tier import MemoryTier
from streams.cache.recent import RECENT_BYTES, RecentRows
from streams.cache.tiered import TieredCache
from streams.cache.tiers import make_tiers
from streams.client.dependent import DependentWrites
from streams.client.listener import Listener
from streams.client.upkeep import Heard, Upkeep
from streams.client.writer import CacheWriter, Written
from streams.clock import Clock, now_ns
from streams.settings import Settings

_RETRY_S = 0.05
_MS = 1_000_000
_PLACES = 65_536  # keys whose place is remembered, so that it is not worked out again for each read of a tier
PLACE_BYTES = 600  # 380 to 580 were measured, for keys of 12 to 110 characters
_RECENT = 4_096  # rows; at 50,000 ticks/s these are named within some 80 ms
_RECENT_RATIO = 0.06  # of the memory tier's bytes
_PLACES_RATIO = 0.1  # of the memory tier's bytes, which they are counted in


class Unknown(Enum):
    """What memory says of a key that it cannot answer for."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN  # looking it up in the class costs a tenth of a hit


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One answer. The garbage collector does not know of it: do not put an entry into its own value.

    Attributes:
        key: as it was asked for.
        version: of the value; the Kafka record that made it.
        source_offset: that record's offset in its partition.
        tier: `memory`, `stream` (an invalidation carried it just now), or the name of a tier (docs/tiers.md).
        age_ms: the answer is proven to be no older than this (clock skew included); None = nothing is proven.
        value: market keys: a dict of decimal strings; generic keys: what was put. It is the caller's own.
        expires_at_ms: end of a generic key's life, UTC ms; None = it has none.
    """

    key: str
    version: int
    source_offset: int
    tier: str
    age_ms: float | None
    value: Any
    expires_at_ms: int | None = None


class MarketCache(DependentWrites):
    """A reader of all keys, and a writer of the generic ones. One event loop, any number of tasks.

    Args:
        settings: Kafka, Redis, prefix, `reader.*`, `clock.max_skew_ms`.
        follow: keep a memory tier that the invalidation topic keeps true. False: every read goes to Redis, nothing is
            kept, and Kafka is needed only for writes: for one look.
        clock: UTC ns.
        heard: called in the event loop with a partition and a record once memory is as the record says; not to block.
        on_evict: called for each entry that leaves the memory tier, with the reason; see `streams.cache.memory`.
        serializer: of generic values; plain msgpack, packed above `reader.compress_above_bytes`, unless it is given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        follow: bool = True,
        clock: Clock = now_ns,
        heard: Heard | None = None,
        on_evict: OnEvict | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        self._settings = settings
        self._serializer = serializer or Serializer(compress_above=settings.reader.compress_above_bytes or None)
        self._clock = clock
        self._n_partitions = n_partitions = settings.kafka.partitions
        self._skew_ns = int(settings.clock.max_skew_ms * _MS)
        self._follow = follow
        ring = max(1, settings.reader.floor_ring // n_partitions)
        self._views = {(space, p): PartitionView(ring) for space in Space for p in range(n_partitions)}
        place = partial(locate, prefix=settings.topics.prefix, n_partitions=n_partitions)
        n_places = min(_PLACES, int(settings.reader.memory_bytes * _PLACES_RATIO) // PLACE_BYTES)
        self._locate = lru_cache(maxsize=n_places)(place)
        n_recent = min(_RECENT, int(settings.reader.memory_bytes * _RECENT_RATIO) // RECENT_BYTES) if follow else 0
        recent = RecentRows(n_recent)
        self._memory = Memory(
            settings.reader.memory_bytes - n_places * PLACE_BYTES - n_recent * RECENT_BYTES,
            policy=settings.reader.policy,
            clock=clock,
            on_evict=on_evict,
            made_room=recent.keep,
        )
        metrics.READERS.add(self._memory)
        self._tiers = TieredCache(
            self._views,
            MemoryTier(self._memory),
            make_tiers(settings, self._views, follow=follow, positions=lambda: self._listener.positions, clock=clock),
            max_wait_s=settings.reader.max_wait_s,
            age_ms=self._age_ms,
            keeps=follow,
            recent=recent,
        )
        self._upkeep = Upkeep(self._views, self._memory, heard, recent=recent)
        self._listener = Listener(settings, self._upkeep, clock, start=self._tiers.resume_at)
        self._writer: CacheWriter | None = None
        self._epochs = [0] * n_partitions
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"MarketCache({self._memory})"

    @property
    def memory(self) -> Memory:
        """The memory tier, to look at: its length, `bytes` and `stats`."""
        return self._memory

    def position(self, space: Space, partition: int) -> int:
        """Every invalidation up to this version was heard; -1 = none yet."""
        return self._views[space, partition].position

    def synced(self, space: Space, partition: int) -> bool:
        """Whether anything was heard of the partition, so that its entries may be kept."""
        return self._views[space, partition].synced

    async def __aenter__(self) -> Self:
        """Raises: ServiceUnavailable when no tier that the worker writes (or, to follow, Kafka) answers."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._tiers)
            if self._follow:
                # It stands at the topic's end (or where it goes on, for what lies on an own disk) before the floors are
                # loaded: a floor set in between is heard, or read.
                await stack.enter_async_context(self._listener)
            await asyncio.gather(*(self._load_floors(p) for p in range(self._n_partitions)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def get(self, key: str, *, max_staleness_s: float | None = None) -> Entry | None:
        """The newest value this reader can prove, None for a miss.

        Args:
            max_staleness_s: the answer must be proven younger than this.

        Raises:
            InvalidKey: see `models.cache.keys.parse_key`.
            TooStale: no tier caught up with what was heard (or with `max_staleness_s`) within `reader.max_wait_s`.
            ServiceUnavailable, CorruptStore: no tier answers.
        """
        entry = self._at_hand(key, max_staleness_s)
        if entry is not UNKNOWN:
            return entry
        max_age_ms = None if max_staleness_s is None else max_staleness_s * 1000
        found = await self._tiers.read(self._locate(key), max_age_ms)
        return self._answer(found.held, found.tier, found.age_ms)

    async def get_many(
        self, keys: Sequence[str], *, max_staleness_s: float | None = None
    ) -> list[Entry | MarketPrismError | None]:
        """As `get` for each key, with one round a tier for all of them.

        Returns:
            One result a key, in their order: the entry, None for a miss, or the error that `get` would have raised. A
            key that fails harms no other.
        """
        results: list[Entry | MarketPrismError | None] = [None] * len(keys)
        asked: dict[int, Location] = {}
        max_age_ms = None if max_staleness_s is None else max_staleness_s * 1000
        for n, key in enumerate(keys):
            entry = self._at_hand(key, max_staleness_s)
            if entry is not UNKNOWN:
                results[n] = entry
                continue
            try:
                asked[n] = self._locate(key)
            except InvalidKey as exc:
                results[n] = exc
        if asked:
            for n, found in zip(asked, await self._tiers.read_many([*asked.values()], max_age_ms), strict=True):
                if isinstance(found, MarketPrismError):
                    results[n] = found
                else:
                    results[n] = self._answer(found.held, found.tier, found.age_ms)
        return results

    async def put(self, key: str, value: Any, *, ttl_ms: int | None = None, tags: Iterable[str] = ()) -> int:
        """Write a generic key; this reader sees it at once.

        Returns:
            The version the key has from now on.

        Raises:
            WriteRefused: key, value, ttl or tags break a bound.
            PublishFailed: Kafka did not acknowledge in time; it may still arrive.
        """
        write = CacheWrite("put", key, self._serializer.encode(value), ttl_ms, tuple(tags))
        (written,) = await self._write(write)
        expires_at_ms = None if ttl_ms is None else written.time_ms + ttl_ms
        self._own_write(self._locate(key), written, packed=write.value, expires_at_ms=expires_at_ms, tags=write.tags)
        return written.version

    async def delete(self, key: str) -> int:
        """Delete a generic key. Returns and raises as `put`."""
        (written,) = await self._write(CacheWrite("delete", key))
        self._own_write(self._locate(key), written)
        return written.version

    async def delete_tag(self, tag: str) -> list[int]:
        """Delete all entries with a tag. Returns one version a partition; raises as `put`."""
        return self._own_group(tag_field(tag), await self._write(CacheWrite("delete_tag", tag=tag)))

    async def clear(self, namespace: str | None = None) -> list[int]:
        """Delete all entries of a namespace, or all generic ones. Returns one version a partition; raises as `put`."""
        return self._own_group(namespace_field(namespace), await self._write(CacheWrite("clear", namespace=namespace)))

    async def watch(self, key: str) -> AsyncGenerator[Entry | None, None]:
        """The entry now, and then each time its version is another: None while there is none. Changes may be conflated.

        It outlives a Redis or a worker that is away for a while.

        Raises:
            InvalidKey: see `models.cache.keys.parse_key`.
        """
        last: int | None = None
        with self._upkeep.watch(self._locate(key)) as changed:
            while True:
                changed.clear()
                try:
                    entry = await self.get(key)
                except Recoverable:
                    await asyncio.sleep(_RETRY_S)
                    changed.set()
                else:
                    version = versions.NOTHING if entry is None else entry.version
                    if version != last and not (entry is None and last is None):
                        yield entry
                    last = version
                await changed.wait()

    async def _load_floors(self, partition: int) -> None:
        as_of = await self._tiers.load_floors(partition)
        self._epochs[partition] = max(self._epochs[partition], versions.epoch_of(as_of))

    async def _write(self, write: CacheWrite) -> list[Written]:
        async with self._opening:
            if self._writer is None:
                self._writer = await self._stack.enter_async_context(CacheWriter(self._settings, epoch=self._epoch))
        return await self._writer.write(write)

    def _epoch(self, partition: int) -> int:
        """What the invalidations say or, before they said anything, the tier's mark."""
        return max(self._epochs[partition], versions.epoch_of(self._views[Space.GENERIC, partition].position))

    def _own_write(
        self,
        at: Location,
        written: Written,
        *,
        packed: bytes = b"",
        expires_at_ms: int | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        """A put says all there is to know of its key as of its version: it may be served before any tier has it."""
        view, version = self._views[Space.GENERIC, written.partition], written.version
        view.floors.note(at.floor, version)
        if self._follow and view.synced and view.floors.floor(at.floor) <= version:
            shown = version if packed else versions.NOTHING
            appended_ns = written.time_ms * _MS
            held = Held(at, view, shown, version, appended_ns, expires_at_ms=expires_at_ms, tags=tags)
            held.take(packed)
            self._memory.put(held)
        else:
            self._memory.drop(at.key.text)  # what is held was right before the write

    def _own_group(self, field: str, written: list[Written]) -> list[int]:
        for partition, version, _ in written:
            self._views[Space.GENERIC, partition].name_group(field, version)
        return [version for _, version, _ in written]

    def _at_hand(self, key: str, max_staleness_s: float | None) -> Entry | Unknown | None:
        """What memory alone can answer, without waiting; `UNKNOWN`: a tier must be asked.

        Written out at length because it is most of a hit: a call of a method costs a tenth of it.
        """
        held = self._memory.get(key)
        if held is None:
            return UNKNOWN
        # Only groups that were heard of after the entry can concern it; most entries are newer than all of them.
        view, as_of = held.view, held.as_of
        if as_of < view.heard_groups.newest and not view.keeps(as_of, held.at.key.namespace, held.tags):
            return UNKNOWN
        now_ns, heard_ns, read_ns, age_ms = self._clock(), view.watermark_ns, held.watermark_ns, None
        watermark_ns = heard_ns if heard_ns > read_ns else read_ns
        if watermark_ns and (age_ns := now_ns - watermark_ns + self._skew_ns) >= 0:
            age_ms = age_ns / _MS
        if max_staleness_s is not None and (age_ms is None or age_ms > max_staleness_s * 1000):
            return UNKNOWN
        version, expires_at_ms = held.version, held.expires_at_ms
        if expires_at_ms is not None and expires_at_ms * _MS <= now_ns:
            self._memory.drop(key, Reason.EXPIRED)
            return None
        value = held.value
        if version < 0 or value is None:
            return self._answer(held, "memory", age_ms)
        if value.__class__ is dict:
            value = value.copy()  # a row's or a book's; its leaves are immutable
        return Entry(key, version, version & MAX_OFFSET, "memory", age_ms, value, expires_at_ms)

    def _answer(self, held: Held, tier: str, age_ms: float | None) -> Entry | None:
        version = held.version
        if version < 0 or (held.expires_at_ms is not None and held.expires_at_ms * _MS <= self._clock()):
            return None
        value = held.value
        if value is None:
            if held.row:
                value = held.shown()
            elif held.packed:
                try:  # anew for each reader, so that it is the reader's own
                    value = self._serializer.decode(held.packed)
                except UnreadableValue as exc:
                    metrics.UNREADABLE.labels(exc.reason).inc()
                    return None
        if value.__class__ is dict and not held.packed:
            value = value.copy()
        return Entry(held.at.key.text, version, version & MAX_OFFSET, tier, age_ms, value, held.expires_at_ms)

    def _age_ms(self, held: Held) -> float | None:
        """Upper bound of the age (rule 11); a watermark from the future proves nothing.

        An entry that the view lets pass holds all that was heard of its key, so what was heard proves it as well.
        """
        heard_ns, read_ns = held.view.watermark_ns, held.watermark_ns
        watermark_ns = heard_ns if heard_ns > read_ns else read_ns
        if not watermark_ns:
            return None
        age_ns = self._clock() - watermark_ns + self._skew_ns
        return age_ns / _MS if age_ns >= 0 else None
