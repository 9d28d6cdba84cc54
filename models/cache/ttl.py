"""TTL: a bound on how long entries live, around any other policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic

from models.cache.deadlines import Deadlines
from models.cache.lru import LRU
from models.cache.policy import Capacity, K, Listener, Policy, Reason

_MAX_STEPS = 1000  # a call of `advance` may take, some ms


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
        self._deadlines: Deadlines[K] = Deadlines()
        self._is_expiring = False

    @property
    def capacity(self) -> Capacity:
        return self._inner.capacity

    @property
    def weight(self) -> int:
        return self._inner.weight

    def __contains__(self, key: object) -> bool:
        deadline = self._deadlines.get(key)  # type: ignore[arg-type]  # it is one of ours, or has none
        return deadline is not None and deadline > self.now_ns

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
        for key in self._deadlines.due(self.now_ns, _MAX_STEPS):
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
        self._deadlines.set(key, deadline_ns)
        return True

    def remove(self, key: K) -> bool:
        deadline = self._deadlines.get(key)
        if deadline is not None and deadline <= self.now_ns:
            self._expire(key)
        return self._inner.remove(key)

    def clear(self) -> None:
        self._inner.clear()
        self._deadlines.clear()

    def _expire(self, key: K) -> None:
        self._is_expiring = True
        try:
            self._inner.remove(key)
        finally:
            self._is_expiring = False

    def _left(self, key: K, weight: int, reason: Reason) -> None:
        if reason is not Reason.REPLACED:
            self._deadlines.drop(key)
        if self._listener is not None:
            self._listener(key, weight, Reason.EXPIRED if self._is_expiring else reason)
