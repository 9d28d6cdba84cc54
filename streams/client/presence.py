"""Which keys are certainly not there: a Bloom filter a namespace, filled by one scan and kept true by invalidations.

presence = Presence(settings, {"user": 100_000})
async with MarketCache(settings, heard=presence.hear) as cache, presence.serving(cache):
    if presence.is_absent("user:42"): ...
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from models.cache.bloom import BloomFilter
from models.cache.invalidation import Invalidation, KeyOp, Source
from models.cache.keys import Space, mark_key, parse_key
from models.cache.mark import Mark, unpack_mark
from models.cache.version import NOTHING
from models.errors import ServiceUnavailable
from streams.cache.connect import connect_redis, redis_errors
from streams.client.reader import Entry, MarketCache
from streams.log import event
from streams.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 0.1
_SCAN_COUNT = 1_000
_SENTINEL_MS = 600_000
_MAX_DELETED_RATIO = 0.5  # of the keys it is made for: then many bits stand for nothing


class Presence:
    """Says 'no' for sure, and only where it is sure (rule 14); 'no' holds as of the newest invalidation heard.

    The filter of a namespace has every key that Redis had when it was scanned, and every key that was put since. It
    answers for a partition only while the reader misses nothing of it: a gap, or a lost connection, ends that until
    another scan. It is made anew, while the old one serves, when it is full or after many deletions. What went with its
    tag, its namespace or its life is known to be absent only once Redis has dropped it and a filter was made since.

    Args:
        settings: Kafka, Redis, prefix. Redis must not evict keys (`maxmemory-policy noeviction`).
        expected: how many keys each namespace will hold, by namespace; more cost precision, then a larger filter.
        false_positives: how often a key that is not there is not known to be absent, 0..1.
    """

    def __init__(self, settings: Settings, expected: Mapping[str, int], *, false_positives: float = 0.01) -> None:
        self._settings = settings
        self._filters = {name: BloomFilter(n, false_positives) for name, n in expected.items()}
        self._next: dict[str, BloomFilter] = {}  # made meanwhile, and fed like the others
        self._deleted = dict.fromkeys(expected, 0)
        self._heard: dict[int, int] = {}  # newest version heard, by partition
        self._whole: set[int] = set()  # partitions that were scanned, and missed nothing since
        self._missed: set[int] = set()  # partitions that missed something since the scan under way began
        self._wake = asyncio.Event()
        self._cache: MarketCache | None = None

    def __repr__(self) -> str:
        return f"Presence({self._filters}, partitions {sorted(self._whole)})"

    @property
    def is_ready(self) -> bool:
        """It answers for all partitions."""
        return len(self._whole) == self._settings.kafka.partitions

    @asynccontextmanager
    async def serving(self, cache: MarketCache) -> AsyncIterator[None]:
        """Scan in the background, now and whenever something was missed.

        Args:
            cache: one that follows, and was given `hear`.
        """
        self._cache = cache
        async with aclosing(connect_redis(self._settings.redis)) as redis:
            task = asyncio.create_task(self._run(redis), name="presence")
            try:
                yield
            finally:
                self._cache = None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def is_absent(self, key: str) -> bool:
        """Whether the key is certainly not there; False also means: not known. No I/O.

        Raises:
            InvalidKey: see `models.cache.keys.parse_key`.
        """
        parsed = parse_key(key)
        known, cache = self._filters.get(parsed.namespace), self._cache
        if known is None or cache is None or key in known:
            return False
        partition = parsed.partition(self._settings.kafka.partitions)
        if partition not in self._whole or not cache.synced(Space.GENERIC, partition):
            return False
        # An own write, or what a tier gave ahead of the stream, lies above what was heard.
        return cache.floor(key) <= self._heard[partition]

    async def get(self, key: str) -> Entry | None:
        """As `MarketCache.get`, without asking any tier for a key that is certainly not there."""
        if self.is_absent(key):
            return None
        if self._cache is None:
            raise ServiceUnavailable("presence serves no cache: use `async with presence.serving(cache)`")
        return await self._cache.get(key)

    def hear(self, partition: int, record: Invalidation) -> None:
        """Take in a record; give it to `MarketCache(heard=...)`."""
        if record.source is not Source.WRITES:
            return
        known = self._heard.get(partition)
        if known is None or record.from_version > known:
            self._whole.discard(partition)  # something between was not heard
            self._missed.add(partition)
            self._wake.set()
        self._heard[partition] = max(record.to_version, NOTHING if known is None else known)
        for op, text in record.keys:
            if op is KeyOp.PUT:
                self._add(text)
            elif op is KeyOp.DELETE:
                self._delete(text.partition(":")[0])

    def _add(self, key: str) -> None:
        name = key.partition(":")[0]
        for filters in (self._filters, self._next):
            if (known := filters.get(name)) is not None:
                known.add(key)
        if name in self._filters and name not in self._next and self._filters[name].is_full:
            self._wake.set()

    def _delete(self, name: str) -> None:
        if name in self._deleted:
            self._deleted[name] += 1
            if self._is_worn(name):
                self._wake.set()

    def _is_worn(self, name: str) -> bool:
        known = self._filters[name]
        return known.is_full or self._deleted[name] > known.n_expected * _MAX_DELETED_RATIO

    async def _run(self, redis: Redis) -> None:
        while self._cache is not None:  # a scan may lose the cancellation: see `LoadLocks`
            await self._wake.wait()
            self._wake.clear()
            try:
                done = await self._scan(redis)
            except ServiceUnavailable as exc:
                event(log, "presence_scan_failed", level=logging.WARNING, detail=str(exc))
                done = False
            if not done:
                self._wake.set()
                await asyncio.sleep(_RETRY_S)

    async def _scan(self, redis: Redis) -> bool:
        """Add every key that Redis has; False: it is not sure that these were all."""
        worn = [name for name in self._filters if name in self._next or self._is_worn(name)]
        for name in worn:
            old = self._filters[name]
            n_expected = old.n_expected * 2 if old.is_full else old.n_expected
            self._next[name] = BloomFilter(n_expected, old.false_positives)
        self._missed.clear()
        starts = {number: version for number, version in self._heard.items() if worn or number not in self._whole}
        before = await self._marks(redis)
        if any(before[number].version < version for number, version in starts.items()):
            return False  # what was heard is not all there yet
        sentinel = f"{self._settings.topics.prefix}scan:{uuid.uuid4().hex}"
        with redis_errors(self._settings.redis.url):
            await redis.set(sentinel, b"", px=_SENTINEL_MS)
            for name in self._filters:
                await self._scan_namespace(redis, name)
            had_all = await redis.delete(sentinel)  # a server that lost its data meanwhile lost this too
        after = await self._marks(redis)
        if not had_all or any(after[n].version < version for n, version in starts.items()):
            return False
        for name in worn:
            self._filters[name], self._deleted[name] = self._next.pop(name), 0
        self._whole.update(starts.keys() - self._missed)
        if any(map(self._is_worn, self._filters)):
            self._wake.set()  # there were more keys than the new one is made for
        return True

    async def _scan_namespace(self, redis: Redis, name: str) -> None:
        pattern = f"{self._settings.topics.prefix}cache:{{p*}}:{name}:*"
        async for found in redis.scan_iter(match=pattern, count=_SCAN_COUNT):
            self._add(found.partition(b"}:")[2].decode("utf-8", "replace"))

    async def _marks(self, redis: Redis) -> list[Mark]:
        prefix, numbers = self._settings.topics.prefix, range(self._settings.kafka.partitions)
        with redis_errors(self._settings.redis.url):
            found: list[Any] = await redis.mget([mark_key(prefix, Space.GENERIC, number) for number in numbers])
        return [unpack_mark(data) for data in found]
