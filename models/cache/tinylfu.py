"""W-TinyLFU: a newcomer must have been met more often than the one it would push out."""

from __future__ import annotations

from collections import OrderedDict

from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Slot
from models.cache.sketch import FrequencySketch

WINDOW_RATIO = 0.01
_PROTECTED_RATIO = 0.8  # of what the window leaves
_WINDOW, _PROBATION, _PROTECTED = 1, 2, 3


class TinyLFU(BoundedPolicy[K]):
    """Three LRU queues: a window for beginners, then probation, then protected for those read there.

    Who falls out of the window meets the oldest on probation, and the one that was met less often lately goes. Best on
    stable popularity; slow where it shifts.

    Source: Einziger, Friedman, Manes, ACM Transactions on Storage 2017, "TinyLFU: a highly efficient cache admission
    policy".
    """

    name = "tinylfu"
    _COLD = _HOT = _PROBATION  # protected keys without a read here would stay: nobody is there to push them out

    def __init__(self, capacity: Capacity, listener: Listener[K] | None = None) -> None:
        super().__init__(capacity, listener)
        window = capacity.share(WINDOW_RATIO)
        protected = capacity.share((1 - WINDOW_RATIO) * _PROTECTED_RATIO)
        self._shares = {_WINDOW: window, _PROTECTED: protected}
        self._reset()

    def touch(self, key: K) -> bool:
        slot = self._slots.get(key)
        self._sketch.meet(key)
        if slot is None:
            return False
        if slot.where == _PROBATION:
            self._move(key, slot, _PROTECTED)
            self._demote()
        else:
            self._queues[slot.where].move_to_end(key)
        return True

    def _enter(self, key: K, slot: Slot) -> None:
        self._sketch.make_room(len(self._slots))
        slot.where = slot.where or _WINDOW
        self._queues[slot.where][key] = slot
        self._weights[slot.where] += slot.weight
        self._demote()
        # while there is room, who falls out of the window need not compete
        while self._is_over(_WINDOW) and len(self._queues[_WINDOW]) > 1:
            oldest, other = next(iter(self._queues[_WINDOW].items()))
            self._move(oldest, other, _PROBATION)

    def _leave(self, key: K, slot: Slot) -> None:
        del self._queues[slot.where][key]
        self._weights[slot.where] -= slot.weight

    def _reweigh(self, slot: Slot, by: int) -> None:
        super()._reweigh(slot, by)
        self._weights[slot.where] += by
        self._demote()

    def _victim(self) -> K:
        _, window, probation, protected = self._queues
        main = probation or protected
        if not main or not window:
            key = next(iter(window or main))
        else:
            candidate, key = next(iter(window)), next(iter(main))
            if self._is_full(_WINDOW):
                if self._sketch.count(candidate) > self._sketch.count(key):
                    self._move(candidate, self._slots[candidate], _PROBATION)
                else:
                    key = candidate
        self._leave(key, self._slots[key])
        return key

    def _reset(self) -> None:
        self._queues: tuple[OrderedDict[K, Slot], ...] = tuple(OrderedDict() for _ in range(4))  # by `where`
        self._weights = [0, 0, 0, 0]
        self._sketch = FrequencySketch(self.capacity.entries or 0)

    def _demote(self) -> None:
        """The oldest protected go back to probation while there are too many."""
        protected = self._queues[_PROTECTED]
        while self._is_over(_PROTECTED) and len(protected) > 1:
            key, slot = next(iter(protected.items()))
            self._move(key, slot, _PROBATION)

    def _move(self, key: K, slot: Slot, where: int) -> None:
        self._leave(key, slot)
        slot.where = where
        self._queues[where][key] = slot
        self._weights[where] += slot.weight

    def _is_over(self, where: int) -> bool:
        share = self._shares[where]
        return len(self._queues[where]) > share.max_entries or self._weights[where] > share.max_weight

    def _is_full(self, where: int) -> bool:
        share = self._shares[where]
        return len(self._queues[where]) >= share.max_entries or self._weights[where] >= share.max_weight
