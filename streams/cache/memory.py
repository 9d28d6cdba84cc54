"""The reader's memory: entries bounded by bytes, found by key and by what invalidations name."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from models.cache.keys import Key, Space
from models.cache.rows import Value

_OVERHEAD_BYTES = 700  # entry, key and their places in the tables; measured with tracemalloc, rounded up
_TEXT_BYTES = 60  # one decimal string as Python holds it


class Held(msgspec.Struct):
    """One entry as held.

    Attributes:
        key: parsed.
        partition: of the key.
        version: of the value; -1 = there is none (a known miss).
        as_of: the value was right as of this version, which may be newer than its own.
        watermark_ns: proof that came with it, UTC ns; 0 = none.
        value: of a market key as people see it; its leaves are immutable.
        packed: of a generic key: msgpack.
        expires_at_ms: UTC ms, None = never.
        tags: of a generic key.
        used: read since the last look of the eviction.
    """

    key: Key
    partition: int
    version: int
    as_of: int
    watermark_ns: int
    value: Value | None = None
    packed: bytes = b""
    expires_at_ms: int | None = None
    tags: tuple[str, ...] = ()
    used: bool = False

    def cost_bytes(self) -> int:
        """Rough cost in memory, rather too high than too low."""
        n_texts = 8
        if self.value is not None and "bids" in self.value:
            n_texts = 4 * (len(self.value["bids"]) + len(self.value["asks"]))
        return _OVERHEAD_BYTES + (n_texts * _TEXT_BYTES if self.value is not None else len(self.packed))


class Memory:
    """First in, first out, with a second chance for what was read since (CLOCK): a hit only writes a flag."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.evicted = 0
        self._entries: dict[str, Held] = {}
        self._facets: dict[int, dict[int, Held]] = {}  # instrument hash -> facet -> entry

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Memory({len(self)} entries, {self.bytes}/{self.max_bytes} bytes, {self.evicted} evicted)"

    def get(self, text: str) -> Held | None:
        return self._entries.get(text)

    def facets(self, instrument: int) -> dict[int, Held] | None:
        """Entries of one instrument by facet number; do not change it."""
        return self._facets.get(instrument)

    def put(self, held: Held) -> None:
        """Store, unless what is there is right as of a newer version; evicts until the bound holds."""
        text = held.key.text
        old = self._entries.get(text)
        if old is not None:
            if old.as_of > held.as_of:
                return
            self._remove(old)
        self._entries[text] = held
        self.bytes += held.cost_bytes()
        if held.key.space is Space.MARKET:
            self._facets.setdefault(held.key.subject, {})[held.key.facet] = held
        while self.bytes > self.max_bytes:
            self._evict_one()

    def drop(self, text: str) -> None:
        if held := self._entries.get(text):
            self._remove(held)

    def drop_partition(self, space: Space, partition: int) -> int:
        """Drop all entries of a partition; how many there were."""
        gone = [held for held in self if held.partition == partition and held.key.space is space]
        for held in gone:
            self._remove(held)
        return len(gone)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._entries.values())

    def _evict_one(self) -> None:
        held = next(iter(self._entries.values()))
        if held.used:
            held.used = False
            del self._entries[held.key.text]
            self._entries[held.key.text] = held
            return
        self._remove(held)
        self.evicted += 1

    def _remove(self, held: Held) -> None:
        del self._entries[held.key.text]
        self.bytes -= held.cost_bytes()
        if held.key.space is Space.MARKET:
            facets = self._facets[held.key.subject]
            del facets[held.key.facet]
            if not facets:
                del self._facets[held.key.subject]
