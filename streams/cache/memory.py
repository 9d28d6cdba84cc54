"""The reader's memory: entries bounded by bytes, found by key and by what invalidations name."""

from __future__ import annotations

from collections.abc import Iterator

from models.cache.keys import Space
from streams.cache.held import Held


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
        text = held.at.key.text
        old = self._entries.get(text)
        if old is not None:
            if old.as_of > held.as_of:
                return
            self._remove(old)
        self._entries[text] = held
        self.bytes += held.cost_bytes()
        if held.at.key.space is Space.MARKET:
            self._facets.setdefault(held.at.key.subject, {})[held.at.key.facet] = held
        while self.bytes > self.max_bytes:
            self._evict_one()

    def drop(self, text: str) -> None:
        if held := self._entries.get(text):
            self._remove(held)

    def drop_partition(self, space: Space, partition: int) -> int:
        """Drop all entries of a partition; how many there were."""
        gone = [held for held in self if held.at.partition == partition and held.at.key.space is space]
        for held in gone:
            self._remove(held)
        return len(gone)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._entries.values())

    def _evict_one(self) -> None:
        held = next(iter(self._entries.values()))
        if held.used:
            held.used = False
            del self._entries[held.at.key.text]
            self._entries[held.at.key.text] = held
            return
        self._remove(held)
        self.evicted += 1

    def _remove(self, held: Held) -> None:
        del self._entries[held.at.key.text]
        self.bytes -= held.cost_bytes()
        if held.at.key.space is Space.MARKET:
            facets = self._facets[held.at.key.subject]
            del facets[held.at.key.facet]
            if not facets:
                del self._facets[held.at.key.subject]
