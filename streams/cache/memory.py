"""The reader's memory: entries bounded by bytes, found by key and by what invalidations name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from sys import getsizeof
from typing import NamedTuple

from models.cache.deadlines import Deadlines
from models.cache.keys import Space
from models.cache.policies import make_policy, overhead_of
from models.cache.policy import Capacity, Reason
from models.cache.s3fifo import S3FIFO
from models.cache.stats import CacheStats
from streams.cache.held import Held
from streams.clock import Clock, now_ns
from streams.log import event as log_event

log = logging.getLogger(__name__)

_MS = 1_000_000
_SWEEP_STEPS = 100  # deadlines that one sweep looks at: some 100 us
_MAX_FIXED_RATIO = 0.6  # of the bound, for a policy's own fixed costs: smaller caches have smaller ones


class Evicted(NamedTuple):
    """An entry that left, or was replaced.

    Attributes:
        key: as people write it.
        n_bytes: that it took.
        reason: `removed` is what an invalidation, a gap or a cleared group took away.
    """

    key: str
    n_bytes: int
    reason: Reason


OnEvict = Callable[[Evicted], None]


class Memory:
    """Decides with an eviction policy which entries stay; each weighs what it takes, the policy's own tables included.

    A row that is renewed in place keeps its weight and its rank, and nobody is told.

    Args:
        max_bytes: bound of all that the entries take, at least 64 KiB.
        policy: name of one of `models.cache.policies`.
        clock: UTC ns; for expiry.
        on_evict: called once for each entry that leaves, after the call that made it leave. It runs in the event loop,
            so it must not block; it may use the cache. What it raises is logged.
        made_room: called at once with each entry that leaves because others need its room.

    Attributes:
        stats: reads that found an entry and those that did not; entries that left, by reason.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        policy: str = S3FIFO.name,
        clock: Clock = now_ns,
        on_evict: OnEvict | None = None,
        made_room: Callable[[Held], None] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.stats = CacheStats()
        self._overhead = overhead = overhead_of(policy)
        self._fixed_bytes = min(overhead.fixed_bytes, int(max_bytes * _MAX_FIXED_RATIO))
        self._policy = make_policy(policy, Capacity(weight=max_bytes - self._fixed_bytes), self._left)
        self._touch = self._policy.touch  # looked up once: it is most of a hit
        self._entries: dict[str, Held] = {}
        self._rows: dict[int | str, Held] = {}  # entries of market keys, by floor
        self._deadlines: Deadlines[str] = Deadlines()  # UTC ms
        self._clock = clock
        self._on_evict = on_evict
        self._made_room = made_room
        self._gone: list[Evicted] = []  # still to be told
        self._why = Reason.REMOVED  # a key that the policy is told to remove

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._entries.values())

    def __repr__(self) -> str:
        bounds = f"{self.bytes}/{self.max_bytes} bytes"
        return f"Memory({len(self)} entries, {bounds}, {self._policy.name}, {self.evicted} evicted)"

    @property
    def bytes(self) -> int:
        """What all entries take, rather too high than too low."""
        return self._policy.weight + self._fixed_bytes

    @property
    def evicted(self) -> int:
        """Entries that left to make room."""
        return self.stats.left[Reason.CAPACITY]

    def get(self, text: str) -> Held | None:
        """A read: it counts towards the entry's staying."""
        if self._touch(text):
            self.stats.hits += 1
            return self._entries[text]
        self.stats.misses += 1
        return None

    def look(self, text: str) -> Held | None:
        """The entry, if there is one, without reading it."""
        return self._entries.get(text)

    def named(self, floor: int) -> Held | None:
        """The entry of a market key that has this floor (`Location.floor`). No read either."""
        return self._rows.get(floor)

    def put(self, held: Held) -> None:
        """Store, unless what is there is right as of a newer version, or it alone is larger than the bound."""
        key = held.at.key
        old = self._entries.get(key.text)
        if old is not None and old.as_of > held.as_of:
            return
        self.sweep()
        if self._policy.put(key.text, self._cost(held)):
            self._entries[key.text] = held
            if key.space is Space.MARKET:
                self._name(held)
            if held.expires_at_ms is not None:
                self._deadlines.set(key.text, held.expires_at_ms)
            elif old is not None:
                self._deadlines.drop(key.text)
        self._tell()

    def drop(self, text: str, why: Reason = Reason.REMOVED) -> None:
        """Take out an entry, if it is there."""
        self._why = why
        self._policy.remove(text)
        self._tell()

    def drop_partition(self, space: Space, partition: int) -> int:
        """Drop all entries of a partition; how many there were."""
        gone = [held for held in self if held.at.partition == partition and held.at.key.space is space]
        for held in gone:
            self.drop(held.at.key.text)
        return len(gone)

    def sweep(self) -> None:
        """Drop entries whose time has come, a bounded number at a call."""
        if self._deadlines:
            for text in self._deadlines.due(self._clock() // _MS, _SWEEP_STEPS):
                self.drop(text, Reason.EXPIRED)

    def _cost(self, held: Held) -> int:
        overhead = self._overhead
        return held.cost_bytes() + overhead.key_bytes + int(overhead.ghosts * getsizeof(held.at.key.text))

    def _name(self, held: Held) -> None:
        """Two keys may share a floor, by a chance of 2**-60: one would not be told then what is heard, so it leaves."""
        other = self._rows.get(held.at.floor)
        if other is not None and other.at.key.text != held.at.key.text:
            self._policy.remove(other.at.key.text)
        self._rows[held.at.floor] = held

    def _left(self, text: str, weight: int, reason: Reason) -> None:
        """The policy's listener."""
        if reason is Reason.REMOVED:
            reason = self._why
        self.stats.left[reason] += 1
        if self._on_evict is not None:
            self._gone.append(Evicted(text, weight, reason))
        if reason is Reason.REPLACED:
            return
        held = self._entries.pop(text)
        self._deadlines.drop(text)
        if held.at.key.space is Space.MARKET:
            del self._rows[held.at.floor]
        if reason is Reason.CAPACITY and self._made_room is not None:
            self._made_room(held)

    def _tell(self) -> None:
        """Users hear it when memory is whole again, so that they may use it."""
        if self._on_evict is None:
            return
        while self._gone:
            gone, self._gone = self._gone, []
            for evicted in gone:
                try:
                    self._on_evict(evicted)
                except Exception as exc:  # a user's code: it must not stop the upkeep of the memory
                    log_event(log, "on_evict_failed", level=logging.ERROR, key=evicted.key, detail=repr(exc))
