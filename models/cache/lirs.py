"""LIRS: who was read twice in a short time stays, however long ago that is by now."""

from __future__ import annotations

import sys
from collections import OrderedDict

from models.cache.ghost import Ghosts
from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Slot

RESIDENT_HIR_RATIO = 0.01  # of the capacity, for keys of high inter-reference recency; section 3.3 of the paper
GHOSTS_A_KEY = 2  # bound on history, which the paper leaves open
_HIR, _LIR = 1, 2


class LIRS(BoundedPolicy[K]):
    """Keys of low inter-reference recency (LIR) have 99 % of the room; the others pass through a short queue.

    `stack` orders keys by last read and ends with a LIR key; a HIR key that is read while the stack knows it was read
    twice within the reach of the oldest LIR key, and takes its place. Best on loops and scans; slow to see a change.

    Source: Jiang, Zhang, SIGMETRICS 2002, "LIRS: an efficient low inter-reference recency set replacement policy".
    """

    name = "lirs"
    _COLD = _HIR
    _HOT = _LIR

    def __init__(self, capacity: Capacity, listener: Listener[K] | None = None) -> None:
        super().__init__(capacity, listener)
        hir = capacity.share(RESIDENT_HIR_RATIO)
        self._lir_entries = sys.maxsize if hir.entries is None else self._max_entries - hir.entries
        self._lir_max_weight = sys.maxsize if hir.weight is None else self._max_weight - hir.weight
        self._reset()

    def touch(self, key: K) -> bool:
        slot = self._slots.get(key)
        if slot is None:
            return False
        stack = self._stack
        if slot.where == _LIR:
            stack.move_to_end(key)
            self._prune()
            return True
        promoted = key in stack or self._has_lir_room(slot)  # there is room after LIR keys were removed
        stack[key] = slot
        stack.move_to_end(key)
        if promoted:
            del self._queue[key]
            self._promote(slot)
        else:
            self._queue.move_to_end(key)
            self._prune()
        return True

    def _enter(self, key: K, slot: Slot) -> None:
        known = self._ghosts.discard(key)
        if known:
            del self._stack[key]
        self._stack[key] = slot
        first_fill = not self._queue and self._has_lir_room(slot)
        if slot.where == _LIR or known or first_fill:
            self._promote(slot)
        else:
            slot.where = _HIR
            self._queue[key] = slot
        self._prune()

    def _leave(self, key: K, slot: Slot) -> None:
        self._stack.pop(key, None)
        if slot.where == _LIR:
            self._n_lir -= 1
            self._lir_weight -= slot.weight
            self._prune()
        else:
            del self._queue[key]

    def _reweigh(self, slot: Slot, by: int) -> None:
        super()._reweigh(slot, by)
        if slot.where == _LIR:
            self._lir_weight += by
            self._shrink()

    def _victim(self) -> K:
        if not self._queue:
            self._demote()
        key, _ = self._queue.popitem(last=False)
        if key in self._stack:
            self._stack[key] = None
            self._ghosts.add(key)
            while len(self._ghosts) > GHOSTS_A_KEY * len(self._slots):
                del self._stack[self._ghosts.pop()]
        return key

    def _reset(self) -> None:
        self._stack: OrderedDict[K, Slot | None] = OrderedDict()  # oldest read first; None = a ghost
        self._queue: OrderedDict[K, Slot] = OrderedDict()  # HIR keys that are there
        self._ghosts: Ghosts[K] = Ghosts()
        self._n_lir = self._lir_weight = 0

    def _has_lir_room(self, slot: Slot) -> bool:
        return self._n_lir < self._lir_entries and self._lir_weight + slot.weight <= self._lir_max_weight

    def _promote(self, slot: Slot) -> None:
        """Make it LIR; its key is the youngest of the stack. The oldest LIR key pays for it where there is no room."""
        slot.where = _LIR
        self._n_lir += 1
        self._lir_weight += slot.weight
        self._shrink()

    def _shrink(self) -> None:
        while self._n_lir > 1 and (self._n_lir > self._lir_entries or self._lir_weight > self._lir_max_weight):
            self._demote()

    def _demote(self) -> None:
        """The oldest LIR key becomes the youngest of the queue."""
        self._prune()
        key, slot = self._stack.popitem(last=False)
        assert slot is not None
        slot.where = _HIR
        self._queue[key] = slot
        self._n_lir -= 1
        self._lir_weight -= slot.weight
        self._prune()

    def _prune(self) -> None:
        """Below the oldest LIR key the stack knows nothing of use."""
        stack = self._stack
        while stack:
            key = next(iter(stack))
            slot = stack[key]
            if slot is None:
                self._ghosts.discard(key)
            elif slot.where == _LIR:
                return
            del stack[key]
