"""Adaptive: shadow caches of several policies, on a sample of the keys, say which one suits the traffic now."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import ClassVar, Generic

from models.cache.lirs import LIRS
from models.cache.lru import LRU
from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Reason
from models.cache.s3fifo import S3FIFO
from models.cache.shadows import Shadows
from models.cache.tinylfu import TinyLFU

_COLD_RATIO = 0.1  # of the keys that are handed over: the coldest, which get a beginner's place
_STEPS = 16  # keys handed over a put: 100,000 entries take some 6,000 misses instead of one long stop


class Adaptive(Generic[K]):
    """Begins as S3-FIFO and becomes whichever of its candidates is clearly better on the sampled keys.

    Of the dozen policies that were compared no four come closer to the best one for each workload: LRU for recency that
    shifts, LIRS for loops and scans, W-TinyLFU for steady popularity, S3-FIFO for what is mixed. At a switch the
    entries stay: they are handed to the new policy with their rank, a few at each put, and count as hits meanwhile.

    Costs two calls and a table look-up more a hit than the policy inside, and the shadows' work on sampled keys.

    Attributes:
        candidates: what it can become.
        n_switches: how often it became another one.
    """

    name: ClassVar[str] = "adaptive"

    def __init__(self, capacity: Capacity, listener: Listener[K] | None = None) -> None:
        self.candidates: tuple[type[BoundedPolicy[K]], ...] = (S3FIFO, LRU, LIRS, TinyLFU)
        self.capacity = capacity
        self._listener = listener
        self._live: BoundedPolicy[K] = self.candidates[0](capacity, self._left)
        self._old: BoundedPolicy[K] | None = None  # what is still to be handed over
        self._n_cold: int = 0  # how many of it count as cold
        self._shadows: Shadows[K] = Shadows(self.candidates, capacity)
        self._sampled: dict[K, int] = self._shadows.weights  # the same table, one step nearer
        self.n_switches: int = 0

    @property
    def live(self) -> str:
        """Name of the policy that decides now."""
        return self._live.name

    @property
    def weight(self) -> int:
        return self._live.weight + (self._old.weight if self._old is not None else 0)

    def __contains__(self, key: object) -> bool:
        return key in self._live or (self._old is not None and key in self._old)

    def __len__(self) -> int:
        return len(self._live) + (len(self._old) if self._old is not None else 0)

    def __iter__(self) -> Iterator[K]:
        return chain(self._old or (), self._live)

    def __repr__(self) -> str:
        return f"Adaptive({self._live!r}, {len(self._old or ())} keys to hand over, {self.n_switches} switches)"

    def touch(self, key: K) -> bool:
        if key in self._sampled:
            self._watch(key)
        if self._live.touch(key):
            return True
        if self._old is None or key not in self._old:
            return False
        self._hand_over(self._old, key)
        return self._live.touch(key)

    def put(self, key: K, weight: int = 1) -> bool:
        if self._old is not None:
            self._hand_over_some(self._old, key, weight)
        is_new = key not in self._live
        if not self._live.put(key, weight):
            return False
        if is_new:
            if self._shadows.samples(key):
                self._sampled[key] = weight
                self._shadows.thin()
                if key in self._sampled:
                    self._watch(key)
        elif key in self._sampled:
            self._sampled[key] = weight
            self._shadows.reweigh(key, weight)
        return True

    def remove(self, key: K) -> bool:
        if self._shadows.samples(key):
            self._shadows.remove(key)
        return self._live.remove(key) or (self._old is not None and self._old.remove(key))

    def clear(self) -> None:
        self._shadows.clear()
        old, self._old = self._old, None
        if old is not None:
            old.clear()
        self._live.clear()

    def switch_to(self, candidate: type[BoundedPolicy[K]]) -> None:
        """Let this one of `candidates` decide from now on; no entry leaves. O(1), unless another switch is under way.

        Raises:
            ValueError: it is none of them.
        """
        leader = self.candidates.index(candidate)
        if leader == self._shadows.leader:
            return
        if self._old is not None:
            self._move(self._old, len(self._old))
        self._old, self._live = self._live, candidate(self.capacity, self._left)
        self._n_cold = int(len(self._old) * _COLD_RATIO)
        self._shadows.follow(leader)
        self.n_switches += 1

    def _watch(self, key: K) -> None:
        rival = self._shadows.read(key, self._sampled[key])
        if rival is not None and self._old is None:
            self.switch_to(self.candidates[rival])

    def _hand_over_some(self, old: BoundedPolicy[K], key: K, weight: int) -> None:
        """Before a put during a switch: its key moves first, room is made at the old policy's cost, some more move."""
        if key in old:
            self._hand_over(old, key)
        if weight <= self.capacity.max_weight:
            more = 0 if key in self._live else 1
            by = weight - (0 if more else self._live.weight_of(key))
            while old and (len(self) + more > self.capacity.max_entries or self.weight + by > self.capacity.max_weight):
                old.evict()
        self._move(old, _STEPS)
        if not old:
            self._old = None

    def _hand_over(self, old: BoundedPolicy[K], key: K) -> None:
        weight = old.release(key)
        self._live.adopt(key, weight, cold=False)

    def _move(self, old: BoundedPolicy[K], n: int) -> None:
        """Hand the next `n` keys over, coldest first."""
        for _ in range(min(n, len(old))):
            key, weight = old.pop()
            self._live.adopt(key, weight, cold=self._n_cold > 0)
            self._n_cold -= 1

    def _left(self, key: K, weight: int, reason: Reason) -> None:
        if reason is not Reason.REPLACED:
            self._sampled.pop(key, None)
        if self._listener is not None:
            self._listener(key, weight, reason)
