"""Our own caches behind the face of the others: the policy alone, the memory tier, and the public API over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agents.bench.cache.systems import AsyncCache, Cache
from models.cache.coherence import PartitionView
from models.cache.keys import Location, locate, market_key
from models.cache.policy import Capacity, Reason
from models.cache.s3fifo import S3FIFO
from models.market.facets import QUOTE
from streams.cache.held import Held
from streams.cache.memory import Memory
from streams.client.reader import MarketCache
from streams.settings import ReaderSettings, Settings

_PARTITIONS = 4
_ENTRY_BYTES = 4_096  # above what any entry here takes
_ROW = (1, 2, 64_000_500_000_000, 250_000_000, 64_001_000_000_000, 125_000_000, 0, 0)
_QUOTE = b"".join(number.to_bytes(8, "little") for number in _ROW) + bytes((0xF7, 0xF7, QUOTE)) + bytes(5)


class PolicyTouch(Cache):
    """What of a hit is the policy's: S3-FIFO without values."""

    puts = False

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        policy = S3FIFO[str](Capacity(entries=capacity))
        self.get = policy.touch
        self.put = lambda key, value: policy.put(key)

    async def count_missing(self, keys: Sequence[str]) -> int:
        return sum(not self.get(key) for key in keys)


class PolicyAndDict(Cache):
    """The least cache of one's own, as docs/caching.md shows it."""

    traits = (False, True, True, True)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        values: dict[str, Any] = {}

        def left(key: str, weight: int, reason: Reason) -> None:
            if reason is not Reason.REPLACED:
                del values[key]

        policy = S3FIFO[str](Capacity(entries=capacity), left)

        def get(key: str) -> Any:
            return values[key] if policy.touch(key) else None

        def put(key: str, value: Any) -> None:
            if policy.put(key, 1):
                values[key] = value

        self.get, self.put = get, put


class MemoryTier(Cache):
    """`Memory`, by bytes for as many entries. Where keys lie is worked out before, as it is in a reader."""

    traits = (False, True, True, True)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._view = PartitionView(8)
        self._places: dict[str, Location] = {}
        one = Memory(1 << 16)
        one.put(self._held("session:10000", b"v" * 100))
        self._memory = Memory(capacity * one.bytes)
        self.get, self.put = self._memory.get, self._put

    def expect(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._place(key)

    def _put(self, key: str, value: Any) -> None:
        self._memory.put(self._held(key, value))

    def _held(self, key: str, value: Any) -> Held:
        return Held(self._place(key), self._view, 5, 5, value=value)

    def _place(self, key: str) -> Location:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = locate(key, prefix="", n_partitions=_PARTITIONS)
        return place


class Reader(AsyncCache):
    """`await MarketCache.get(key)` of an immutable value that is in memory; no service is asked."""

    puts = False
    traits = (True, True, True, True)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._cache = MarketCache(Settings(reader=ReaderSettings(memory_bytes=capacity * _ENTRY_BYTES)))
        self._view = PartitionView(8)
        self._view.prove(1, latest_ns=2)  # an age is told with each answer
        self.aget, self.aput = self._cache.get, self._put

    async def _put(self, key: str, value: Any) -> None:
        held = Held(locate(key, prefix="", n_partitions=_PARTITIONS), self._view, 5, 5)
        held.take(msgspec.msgpack.encode(value))
        self._cache.memory.put(held)


class RowReader(Reader):
    """The same of quotes, whose dict is a copy for each reader."""

    async def _put(self, key: str, value: Any) -> None:
        at = locate(key, prefix="", n_partitions=_PARTITIONS)
        self._cache.memory.put(Held(at, self._view, 5, 5, row=_QUOTE))

    @staticmethod
    def key(number: int) -> str:
        return market_key(f"bench.spot.I{number}-USDT", QUOTE)


OURS: dict[str, type[Cache]] = {
    "reader": Reader,
    "row_reader": RowReader,
    "policy": PolicyTouch,
    "policy_and_dict": PolicyAndDict,
    "memory_tier": MemoryTier,
}
