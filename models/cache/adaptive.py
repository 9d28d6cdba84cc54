"""Adaptive: shadow caches of several policies, on a sample of the keys, say which one suits the traffic now."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import ClassVar, Generic

from models.cache.follower import Follower
from models.cache.lirs import LIRS
from models.cache.lru import LRU
from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Reason
from models.cache.s3fifo import S3FIFO
from models.cache.shadows import Shadows
from models.cache.tinylfu import TinyLFU

_COLD_RATIO = 0.1  # of the keys that are handed over: the coldest, which get a beginner's place
_N_SAFE = 2  # of the candidates: S3-FIFO and LRU
_STEPS = 16  # keys handed over a put: 100,000 entries take some 6,000 misses instead of one long stop


class Adaptive(Generic[K]):
    """Begins as S3-FIFO and becomes whichever of its candidates is clearly better on the sampled keys.

    Of the dozen policies that were compared no four come closer to the best one for each workload: LRU for recency that
    shifts, LIRS for loops and scans, W-TinyLFU for steady popularity, S3-FIFO for what is mixed. At a switch the
    entries stay. Where all keys are sampled, because there are few, the cache follows the leader's shadow; elsewhere
    they are handed to the new policy with their rank, a few at each put, and count as hits meanwhile.

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
        self._shadows: Shadows[K] = Shadows(self.candidates, capacity, _N_SAFE)
        self._follower: Follower[K] | None = None
        self._live: BoundedPolicy[K]
        if self._shadows.rate == 1:
            self._live = self._follower = Follower(capacity, self._shadows.model, self._left)
        else:
            self._live = self.candidates[0](capacity, self._left)
        self._old: BoundedPolicy[K] | None = None  # what is still to be handed over
        self._n_cold: int = 0  # how many of it count as cold
        self._sampled: dict[K, int] = self._shadows.weights  # the same table, one step nearer
        self.n_switches: int = 0

    @property
    def live(self) -> str:
        """Name of the policy that decides now."""
        return self.candidates[self._shadows.leader].name

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
            rival = self._shadows.read(key, self._sampled[key])
            if rival is not None:
                self._heed(rival)
        if self._live.touch(key):
            return True
        if self._old is None or key not in self._old:
            return False
        self._hand_over(self._old, key)
        return self._live.touch(key)

    def put(self, key: K, weight: int = 1) -> bool:
        if self._old is not None:
            self._hand_over_some(self._old, key, weight)
        elif self._follower is not None and 1 <= weight <= self.capacity.max_weight:
            return self._put_as_followed(self._follower, key, weight)
        is_new = key not in self._live
        if not self._live.put(key, weight):
            return False
        if is_new:
            if self._shadows.samples(key):
                self._sampled[key] = weight
                self._shadows.thin()
                if key in self._sampled:
                    self._watch(key, weight)
        elif key in self._sampled:
            self._sampled[key] = weight
            self._shadows.reweigh(key, weight)
        return True

    def _put_as_followed(self, follower: Follower[K], key: K, weight: int) -> bool:
        """The shadows hear of it first: who leaves here is whom the leader's let go."""
        if key in follower:
            self._shadows.reweigh(key, weight)
        else:
            self._watch(key, weight)
        follower.put(key, weight)
        self._sampled[key] = weight
        self._shadows.thin()
        if self._shadows.rate < 1:
            self._follower = None
            self._hand_over_to(self.candidates[self._shadows.leader])
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
        """Let this one of `candidates` decide from now on; no entry leaves.

        O(1), unless another switch is under way; O(keys) where there are few.

        Raises:
            ValueError: it is none of them.
        """
        leader = self.candidates.index(candidate)
        if leader == self._shadows.leader:
            return
        self._shadows.follow(leader)
        self.n_switches += 1
        if self._follower is not None:
            self._follower.follow(self._shadows.model)
        else:
            self._hand_over_to(candidate)

    def _hand_over_to(self, candidate: type[BoundedPolicy[K]]) -> None:
        if self._old is not None:
            self._move(self._old, len(self._old))
        self._old, self._live = self._live, candidate(self.capacity, self._left)
        self._n_cold = int(len(self._old) * _COLD_RATIO)

    def _watch(self, key: K, weight: int) -> None:
        rival = self._shadows.read(key, weight)
        if rival is not None:
            self._heed(rival)

    def _heed(self, rival: int) -> None:
        if self._old is None:
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
