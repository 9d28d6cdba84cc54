"""Least recently used."""

from __future__ import annotations

from collections import OrderedDict

from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Slot


class LRU(BoundedPolicy[K]):
    """Evicts the key whose last read is longest ago. Good for recency; a scan or a loop above its size empties it."""

    name = "lru"

    def __init__(self, capacity: Capacity, listener: Listener[K] | None = None) -> None:
        super().__init__(capacity, listener)
        self._slots: OrderedDict[K, Slot] = OrderedDict()  # the table is the queue: oldest first

    def touch(self, key: K) -> bool:
        if key not in self._slots:
            return False
        self._slots.move_to_end(key)
        return True

    def _enter(self, key: K, slot: Slot) -> None:
        pass

    def _leave(self, key: K, slot: Slot) -> None:
        pass

    def _victim(self) -> K:
        return next(iter(self._slots))

    def _reset(self) -> None:
        pass
