"""`MarketCache`: reads that know how old they may be, from memory or Redis, kept true by the invalidation topic.

async with MarketCache(settings) as cache:
    entry = await cache.get("md:binance.spot.BTC-USDT:quote")
    version = await cache.put("session:42", {"user": 7}, ttl_ms=60_000)
    async for entry in cache.watch("md:binance.spot.BTC-USDT:trade"):
        ...
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack
from functools import lru_cache
from typing import Any, Self

import msgspec

from models.cache import version as versions
from models.cache.coherence import PartitionView
from models.cache.floors import namespace_field, tag_field
from models.cache.keys import Key, Space, parse_key
from models.cache.mark import Mark
from models.cache.write import CacheWrite, encode_value
from models.errors import Recoverable, TooStale
from models.market.facets import BOOK
from streams.cache.connect import connect_redis
from streams.cache.held import Held, held_book, held_value
from streams.cache.memory import Memory
from streams.cache.reads import RedisReads
from streams.client.listener import Listener
from streams.client.writer import CacheWriter, Written
from streams.clock import Clock, now_ns
from streams.settings import Settings

_FIRST_WAIT_S = 0.002
_LONGEST_WAIT_S = 0.05
_MS = 1_000_000

_parse = lru_cache(maxsize=65_536)(parse_key)


class Entry(msgspec.Struct, frozen=True):
    """One answer.

    Attributes:
        key: as it was asked for.
        version: of the value; the Kafka record that made it.
        source_offset: that record's offset in its partition.
        tier: `memory` or `redis`.
        age_ms: the answer is proven to be no older than this (clock skew included); None = nothing is proven.
        value: market keys: a dict of decimal strings; generic keys: what was put. It is the caller's own.
    """

    key: str
    version: int
    source_offset: int
    tier: str
    age_ms: float | None
    value: Any


class MarketCache:
    """A reader of all keys, and a writer of the generic ones. One event loop, any number of tasks.

    Args:
        settings: Kafka, Redis, prefix, `reader.*`, `clock.max_skew_ms`.
        follow: keep a memory tier that the invalidation topic keeps true. False: every read goes to Redis, nothing is
            kept, and Kafka is needed only for writes: for one look.
        clock: UTC ns.
    """

    def __init__(self, settings: Settings, *, follow: bool = True, clock: Clock = now_ns) -> None:
        self._settings = settings
        self._clock = clock
        self._n_partitions = settings.kafka.partitions
        self._max_wait_s = settings.reader.max_wait_s
        self._skew_ns = int(settings.clock.max_skew_ms * _MS)
        self._follow = follow
        ring = max(1, settings.reader.floor_ring // self._n_partitions)
        self._views = {(space, p): PartitionView(ring) for space in Space for p in range(self._n_partitions)}
        self._memory = Memory(settings.reader.memory_bytes)
        self._redis = connect_redis(settings.redis)
        self._reads = RedisReads(self._redis, url=settings.redis.url, prefix=settings.topics.prefix)
        self._listener = Listener(settings, self._views, self._memory, clock)
        self._writer: CacheWriter | None = None
        self._epochs = [0] * self._n_partitions
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"MarketCache({self._memory})"

    @property
    def memory(self) -> Memory:
        """The memory tier, to look at."""
        return self._memory

    def position(self, space: Space, partition: int) -> int:
        """Every invalidation up to this version was heard; -1 = none yet."""
        return self._views[space, partition].position

    def synced(self, space: Space, partition: int) -> bool:
        """Whether anything was heard of the partition, so that its entries may be kept."""
        return self._views[space, partition].synced

    async def __aenter__(self) -> Self:
        """Raises: ServiceUnavailable when Redis (or, to follow, Kafka) does not answer."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._redis.aclose)
            stack.push_async_callback(self._reads.close)
            if self._follow:
                # It stands at the topic's end before the floors are loaded: a floor set in between is heard, or read.
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
            ServiceUnavailable: Redis does not answer.
        """
        held = self._memory.get(key)
        if held is not None:
            view = self._views[held.key.space, held.partition]
            if held.key.space is Space.MARKET or view.keeps(held.as_of, held.key.namespace, held.tags):
                age_ms = self._age_ms(view, held)
                if max_staleness_s is None or (age_ms is not None and age_ms <= max_staleness_s * 1000):
                    held.used = True
                    return self._answer(held, "memory", age_ms)
        return await self._read(_parse(key), max_staleness_s)

    async def put(self, key: str, value: Any, *, ttl_ms: int | None = None, tags: Iterable[str] = ()) -> int:
        """Write a generic key; this reader sees it at once.

        Returns:
            The version the key has from now on.

        Raises:
            WriteRefused: key, value, ttl or tags break a bound.
            PublishFailed: Kafka did not acknowledge in time; it may still arrive.
        """
        write = CacheWrite("put", key, encode_value(value), ttl_ms, tuple(tags))
        (written,) = await self._write(write)
        expires_at_ms = None if ttl_ms is None else written.time_ms + ttl_ms
        self._own_write(_parse(key), written, packed=write.value, expires_at_ms=expires_at_ms, tags=write.tags)
        return written.version

    async def delete(self, key: str) -> int:
        """Delete a generic key. Returns and raises as `put`."""
        (written,) = await self._write(CacheWrite("delete", key))
        self._own_write(_parse(key), written)
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
        parsed = _parse(key)
        last: int | None = None
        with self._listener.watch(parsed, self._partition(parsed)) as changed:
            while True:
                changed.clear()
                try:
                    entry = await self.get(key)
                except Recoverable:
                    await asyncio.sleep(_LONGEST_WAIT_S)
                    changed.set()
                else:
                    version = versions.NOTHING if entry is None else entry.version
                    if version != last and not (entry is None and last is None):
                        yield entry
                    last = version
                await changed.wait()

    def _partition(self, key: Key) -> int:
        return key.partition(self._n_partitions)

    async def _read(self, key: Key, max_staleness_s: float | None) -> Entry | None:
        partition = self._partition(key)
        view = self._views[key.space, partition]
        end, wait_s = time.monotonic() + self._max_wait_s, _FIRST_WAIT_S
        while True:
            held, mark = await self._look(key, partition, view)
            if held is not None:
                age_ms = self._age_ms(view, held)
                if max_staleness_s is None or (age_ms is not None and age_ms <= max_staleness_s * 1000):
                    return self._answer(held, "redis", age_ms)
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise self._too_stale(key, partition, view, mark, max_staleness_s)
            await asyncio.sleep(min(wait_s, left_s))
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _look(self, key: Key, partition: int, view: PartitionView) -> tuple[Held | None, Mark]:
        """One look at Redis; no answer while its mark is below the floor. What may be kept is kept."""
        if key.facet == BOOK:
            mark, fields = await self._reads.read_book(key, partition)
            held = held_book(key, partition, mark=mark, fields=fields)
        else:
            mark, data = await self._reads.read(key, partition)
            if mark.floors > view.groups_version:
                await self._load_floors(partition)
                return None, mark
            held = held_value(key, partition, mark=mark, data=data, groups=view.groups)
        # No await from here on: what is heard later finds the entry in memory.
        if not view.admits(key.subject or key.text, mark):
            return None, mark
        view.saw(key.subject or key.text, held.version)
        if self._follow and view.synced:
            self._memory.put(held)
        return held, mark

    async def _load_floors(self, partition: int) -> None:
        view = self._views[Space.GENERIC, partition]
        mark, floors = await self._reads.read_floors(partition)
        for field, version in floors.items():
            view.groups.note(field, version)
        view.groups_version = max(view.groups_version, mark.floors)
        self._epochs[partition] = max(self._epochs[partition], versions.epoch_of(mark.version))

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
        key: Key,
        written: Written,
        *,
        packed: bytes = b"",
        expires_at_ms: int | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        """A put says all there is to know of its key as of its version: it may be served before any tier has it."""
        view = self._views[Space.GENERIC, written.partition]
        view.floors.note(key.text, written.version)
        held = Held(key, written.partition, written.version, written.version, 0, None, packed, expires_at_ms, tags)
        if not packed:
            held.version = versions.NOTHING
        newest_heard = view.floors.floor(key.text)
        if self._follow and view.synced and newest_heard <= written.version:
            self._memory.put(held)

    def _own_group(self, field: str, written: list[Written]) -> list[int]:
        for partition, version, _ in written:
            self._views[Space.GENERIC, partition].name_group(field, version)
        return [version for _, version, _ in written]

    def _answer(self, held: Held, tier: str, age_ms: float | None) -> Entry | None:
        if held.version < 0 or (held.expires_at_ms is not None and held.expires_at_ms * _MS <= self._clock()):
            return None
        if held.value is not None:
            value: Any = dict(held.value)  # its leaves are immutable, so this is a copy
        else:
            try:
                value = msgspec.msgpack.decode(held.packed)
            except msgspec.DecodeError:
                return None
        return Entry(held.key.text, held.version, versions.offset_of(held.version), tier, age_ms, value)

    def _age_ms(self, view: PartitionView, held: Held) -> float | None:
        """Upper bound of the age (rule 11); a watermark from the future proves nothing.

        An entry that the view lets pass holds all that was heard of its key, so what was heard proves it as well.
        """
        watermark_ns = max(view.watermark_ns, held.watermark_ns)
        age_ns = self._clock() - watermark_ns + self._skew_ns
        return age_ns / _MS if watermark_ns and age_ns >= 0 else None

    def _too_stale(
        self, key: Key, partition: int, view: PartitionView, mark: Mark, max_staleness_s: float | None
    ) -> TooStale:
        floor = view.floors.floor(key.subject or key.text)
        if mark.version < floor:
            why = f"Redis' mark {mark.version} of partition {partition} is below {floor}, which was heard of already"
        else:
            why = f"its age is not proven to be below {max_staleness_s} s"
        return TooStale(f"{key.text}: {why}; waited {self._max_wait_s} s. Is a worker running?")
