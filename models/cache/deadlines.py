"""Deadlines of keys: which of them are due, without looking at the others."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Generic

from models.cache.policy import K

_SLACK = 64


class Deadlines(Generic[K]):
    """A heap of instants. What became untrue of it is passed over when it comes up, and thrown out once it is half.

    O(log keys) to set; instants are in whatever unit and time the caller counts in.
    """

    __slots__ = ("_by_key", "_heap", "_number")

    def __init__(self) -> None:
        self._by_key: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []  # deadline, number, key; some are of keys that have another by now
        self._number = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: K) -> int | None:
        return self._by_key.get(key)

    def set(self, key: K, deadline: int) -> None:
        """A key's deadline, instead of any that it had."""
        if self._by_key.get(key) == deadline:
            return
        self._by_key[key] = deadline
        self._number += 1
        heappush(self._heap, (deadline, self._number, key))
        if len(self._heap) > 2 * len(self._by_key) + _SLACK:
            self._heap = [item for item in self._heap if self._by_key.get(item[2]) == item[0]]
            heapify(self._heap)

    def drop(self, key: K) -> None:
        """Forget a key, if it is known."""
        self._by_key.pop(key, None)

    def due(self, now: int, max_steps: int) -> Iterator[K]:
        """Keys whose deadline is at or before `now`, soonest first; who takes one must drop it.

        Ends after so many steps, of which what is passed over needs one each.
        """
        for _ in range(max_steps):
            if not self._heap or self._heap[0][0] > now:
                return
            deadline, _, key = heappop(self._heap)
            if self._by_key.get(key) == deadline:
                yield key

    def clear(self) -> None:
        self._by_key.clear()
        self._heap.clear()
