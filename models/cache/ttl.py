"""TTL: a bound on how long entries live, around any other policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic

from models.cache.lru import LRU
from models.cache.policy import Capacity, K, Listener, Policy, Reason

_MAX_STEPS = 1000  # a call of `advance` may take, some ms
_SLACK = 64


class TTL(Generic[K]):
    """Entries leave when their time has come, and before it as the inner policy decides at capacity.

    There is no clock in here: `advance` says how late it is, and between two calls time stands still. At its deadline
    an entry is gone. Costs a table look-up a hit, and O(log entries) a put.

    Args:
        ttl_ns: life of an entry that is put without a deadline of its own, from the last `advance` on.
        inner: makes the policy inside.
    """

    name = "ttl"

    def __init__(
        self,
        capacity: Capacity,
        listener: Listener[K] | None = None,
        *,
        ttl_ns: int,
        inner: Callable[[Capacity, Listener[K]], Policy[K]] = LRU,
    ) -> None:
        if ttl_ns < 1:
            raise ValueError(f"a life of {ttl_ns} ns is over before it begins; give at least 1")
        self.ttl_ns = ttl_ns
        self.now_ns = 0
        self._inner = inner(capacity, self._left)
        self._listener = listener
        self._deadlines: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []  # deadline, number, key; some are of entries that left otherwise
        self._number = 0
        self._is_expiring = False

    @property
    def capacity(self) -> Capacity:
        return self._inner.capacity

    @property
    def weight(self) -> int:
        return self._inner.weight

    def __contains__(self, key: object) -> bool:
        return key in self._inner and self._deadlines[key] > self.now_ns  # type: ignore[index]  # it is one of ours

    def __len__(self) -> int:
        """Entries that take room; those whose time has come count until `advance` or a touch meets them."""
        return len(self._inner)

    def __iter__(self) -> Iterator[K]:
        return iter(self._inner)

    def __repr__(self) -> str:
        return f"TTL({self._inner!r}, {self.ttl_ns} ns)"

    def advance(self, now_ns: int) -> int:
        """Let time pass and drop what is due, at most 1,000 entries a call; how many. Time never goes back."""
        self.now_ns = max(self.now_ns, now_ns)
        n = 0
        for _ in range(_MAX_STEPS):
            if not self._heap or self._heap[0][0] > self.now_ns:
                break
            deadline, _, key = heappop(self._heap)
            if self._deadlines.get(key) == deadline:
                self._expire(key)
                n += 1
        return n

    def touch(self, key: K) -> bool:
        deadline = self._deadlines.get(key)
        if deadline is not None and deadline <= self.now_ns:
            self._expire(key)
        return self._inner.touch(key)

    def put(self, key: K, weight: int = 1, *, deadline_ns: int | None = None) -> bool:
        """As `Policy.put`; `deadline_ns` in the time of `advance`, None = after `ttl_ns`.

        One that is over already is refused, and the key's entry leaves.
        """
        if deadline_ns is None:
            deadline_ns = self.now_ns + self.ttl_ns
        known = self._deadlines.get(key)
        if known is not None and min(known, deadline_ns) <= self.now_ns:
            self._expire(key)
        if deadline_ns <= self.now_ns or not self._inner.put(key, weight):
            return False
        if self._deadlines.get(key) != deadline_ns:
            self._deadlines[key] = deadline_ns
            self._number += 1
            heappush(self._heap, (deadline_ns, self._number, key))
            if len(self._heap) > 2 * len(self._deadlines) + _SLACK:
                self._heap = [item for item in self._heap if self._deadlines.get(item[2]) == item[0]]
                heapify(self._heap)
        return True

    def remove(self, key: K) -> bool:
        deadline = self._deadlines.get(key)
        if deadline is not None and deadline <= self.now_ns:
            self._expire(key)
        return self._inner.remove(key)

    def clear(self) -> None:
        self._inner.clear()
        self._heap.clear()

    def _expire(self, key: K) -> None:
        self._is_expiring = True
        try:
            self._inner.remove(key)
        finally:
            self._is_expiring = False

    def _left(self, key: K, weight: int, reason: Reason) -> None:
        if reason is not Reason.REPLACED:
            del self._deadlines[key]
        if self._listener is not None:
            self._listener(key, weight, Reason.EXPIRED if self._is_expiring else reason)
