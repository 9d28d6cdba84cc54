"""S3-FIFO: three queues, and a hit that only counts. The default policy."""

from __future__ import annotations

import sys
from collections import OrderedDict

from models.cache.ghost import Ghosts
from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Slot

SMALL_RATIO = 0.1  # of the capacity; the paper's choice, flat between 0.05 and 0.2
_MAX_USES = 3  # a two-bit counter
_MAX_STEPS = 256  # an eviction may take, some 30 us: then the next goes, read or not
_SMALL, _MAIN = 1, 2


class S3FIFO(BoundedPolicy[K]):
    """Beginners queue in a small FIFO; those read twice there move on to the main one, the others leave as ghosts.

    A ghost that comes back goes to the main queue at once. The main queue gives a key one more round for each read, up
    to three. So a scan passes through a tenth of the cache, and a hit moves nothing: some 50 ns.

    Source: Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023, "FIFO queues are all you need for cache eviction"; order of
    eviction as in the authors' libCacheSim: from the main queue only while it is above its share. There are as many
    ghosts as keys in the main queue.
    """

    name = "s3fifo"
    _COLD = _SMALL
    _HOT = _MAIN

    def __init__(self, capacity: Capacity, listener: Listener[K] | None = None) -> None:
        super().__init__(capacity, listener)
        small = capacity.share(SMALL_RATIO)
        self._small_entries, self._small_weight = small.max_entries, small.max_weight
        self._main_entries = _rest(capacity.entries, small.entries)
        self._main_weight = _rest(capacity.weight, small.weight)
        self._reset()

    def touch(self, key: K) -> bool:
        slot = self._slots.get(key)
        if slot is None:
            return False
        if slot.uses < _MAX_USES:
            slot.uses += 1
        return True

    def _enter(self, key: K, slot: Slot) -> None:
        if not slot.where:
            slot.where = _MAIN if self._ghosts.discard(key) or self._overflows(slot) else _SMALL
        self._queues[slot.where][key] = slot
        self._weights[slot.where] += slot.weight

    def _overflows(self, slot: Slot) -> bool:
        """While nothing was evicted yet, what the small queue has no room for may use the main one's."""
        small = self._queues[_SMALL]
        full = len(small) >= self._small_entries or self._weights[_SMALL] + slot.weight > self._small_weight
        return full and not self._ghosts and not self._main_is_over()

    def _main_is_over(self) -> bool:
        return len(self._queues[_MAIN]) > self._main_entries or self._weights[_MAIN] > self._main_weight

    def _leave(self, key: K, slot: Slot) -> None:
        del self._queues[slot.where][key]
        self._weights[slot.where] -= slot.weight

    def _reweigh(self, slot: Slot, by: int) -> None:
        super()._reweigh(slot, by)
        self._weights[slot.where] += by

    def _victim(self) -> K:
        _, small, main = self._queues
        steps = _MAX_STEPS
        if not self._main_is_over():
            while small:
                key, slot = small.popitem(last=False)
                self._weights[_SMALL] -= slot.weight
                steps -= 1
                if slot.uses < 2 or steps < 0:
                    self._remember(key)
                    return key
                slot.uses, slot.where = 0, _MAIN
                main[key] = slot
                self._weights[_MAIN] += slot.weight
        while True:
            key, slot = main.popitem(last=False)
            steps -= 1
            if not slot.uses or steps < 0:
                self._weights[_MAIN] -= slot.weight
                return key
            slot.uses -= 1
            main[key] = slot

    def _remember(self, key: K) -> None:
        self._ghosts.add(key)
        while len(self._ghosts) > len(self._slots) * (1 - SMALL_RATIO):
            self._ghosts.pop()

    def _reset(self) -> None:
        self._queues: tuple[OrderedDict[K, Slot], ...] = (OrderedDict(), OrderedDict(), OrderedDict())  # by `where`
        self._weights = [0, 0, 0]
        self._ghosts: Ghosts[K] = Ghosts()


def _rest(whole: int | None, part: int | None) -> int:
    return sys.maxsize if whole is None or part is None else whole - part
