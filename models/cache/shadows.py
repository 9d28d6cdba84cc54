"""Shadow caches: what each of several policies would hit, judged on a sample of the keys at a scaled capacity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf
from typing import Generic

from models.cache.policy import BoundedPolicy, Capacity, K

_MIN_RATE = 1 / 64  # of the keys: four shadows take 1 us a sampled read, so 15 ns a read
_ENOUGH = 1024  # entries of a shadow; a sample is not halved below half of that
_ROUND = 64  # sampled reads between two looks at the account
_LEAD = 0.2  # hits for each key that a shadow holds: what a change of leader costs, about
_LEAST_LEAD = 8.0  # hits, in the smallest caches
_CREDIT = 1.0  # hits for each key held that a leader may be ahead of a rival, as far as is remembered: a loop's swing
_SAFE_CREDIT = 0.5  # the same, of rivals that are safe
_PATIENCE = 1.5  # reads for each key held, from one change of leader to the next
_DOUBT = 4  # times that the lead asked is doubled, at most
_DOUBT_HALVES = 100.0  # reads for each key held that halve the number of doublings
_PROOF = 1.0  # hits for each key held by which a leader must get ahead of the former one, to end one doubling
_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio (Knuth, volume 3, 6.4): whole numbers hash to themselves
_MASK = (1 << 64) - 1


class Shadows(Generic[K]):
    """Empty caches of all candidates, of which one leads at any time.

    Whether a key is in the sample is up to its hash, so a shadow sees all reads of a sampled key and none of the
    others; its capacity is scaled alike. A rival takes over once it is ahead of the leader by a lead of hits: what was
    lost until then is the same whether it is better by much or by little. How far the leader was ahead before counts
    against the rival, up to a bound, so a change of traffic is seen soon; of the first candidates, which are safe on
    any traffic, less is remembered. Each change doubles the lead that the next one asks, until that fades or the new
    leader proved itself: in a loop, say, policies that keep different parts of it are ahead in turns, and none is
    better.

    Source: Waldspurger, Park, Garthwaite, Ahmad, FAST 2015, "Efficient MRC construction with SHARDS" (spatial
    sampling); Waldspurger, Saemundsson, Ahmad, ATC 2017, "Cache modeling and optimization using miniature simulations";
    Page, Biometrika 1954, "Continuous inspection schemes" (cumulative sums above a bound). Constants:
    docs/decisions/0007.

    Args:
        candidates: classes of policies; the first one leads.
        n_safe: how many of them, from the first on, are safe.

    Attributes:
        weights: weight by key, of the sampled keys that the real cache holds; its owner keeps it.
        leader: index of the candidate that leads.
        rate: share of the keys that is sampled.
    """

    def __init__(self, candidates: Sequence[type[BoundedPolicy[K]]], capacity: Capacity, n_safe: int) -> None:
        self.weights: dict[K, int] = {}
        self.leader = 0
        self.rate = 1.0 if capacity.weight is not None else _rate(capacity.max_entries)
        self._capacity = capacity
        self._caches = [candidate(capacity.share(self.rate)) for candidate in candidates]
        self._n_safe = n_safe
        self._unthinned: list[int] = []  # shadows that still hold keys of the larger sample
        self._doubt: float  # doublings of the lead that is asked
        self._patience: float  # sampled reads until there may be a change
        self._begin()

    @property
    def model(self) -> BoundedPolicy[K]:
        """The leader's shadow."""
        return self._caches[self.leader]

    def follow(self, leader: int) -> None:
        """Another candidate leads from now on."""
        self._former, self._ahead = self.leader, 0
        self.leader = leader
        self._leads = [0] * len(self._caches)
        self._doubt = min(_DOUBT, self._doubt + 1)
        self._patience = _PATIENCE * len(self.model)
        self._weigh()

    def samples(self, key: Hashable) -> bool:
        return hash(key) * _MIX & _MASK < self.rate * _MASK

    def read(self, key: K, weight: int) -> int | None:
        """A sampled key is read, and put where it was missed; a candidate that should lead instead, if there is one."""
        hits = [touch(key) for touch in self._touches]
        self._until_look -= 1
        if not self._until_look:
            self._look()
        if False not in hits:
            return None
        for cache, hit in zip(self._caches, hits, strict=True):
            if not hit:
                cache.put(key, weight)
        return self._count(hits) if True in hits else None

    def _count(self, hits: list[bool]) -> int | None:
        """Some had the key and some had not."""
        led, best = hits[self.leader], self.leader
        self._ahead += led - hits[self._former]
        for rival, hit in enumerate(hits):
            if hit and not led:
                self._leads[rival] += 1
                if self._leads[rival] >= self._asked and self._leads[rival] > self._leads[best]:
                    best = rival
            elif led and not hit and self._leads[rival] > self._least[rival]:
                self._leads[rival] -= 1
        return best if best != self.leader and self._patience <= 0 else None

    def reweigh(self, key: K, weight: int) -> None:
        for cache in self._caches:
            if key in cache:
                cache.put(key, weight)

    def remove(self, key: K) -> None:
        for cache in self._caches:
            cache.remove(key)

    def clear(self) -> None:
        for cache in self._caches:
            cache.clear()
        self._begin()

    def thin(self) -> None:
        """Halve the sample once it is larger than it need be: how many entries a weight allows is seen only then.

        One shadow at a call, some 2 ms; until all are done there is no verdict.
        """
        if self._unthinned:
            i = self._unthinned.pop()
            self._caches[i] = self._thinned(self._caches[i])
            self._touches[i] = self._caches[i].touch
            if not self._unthinned:
                self._begin()
            return
        rate = _rate(int(len(self.weights) / self.rate))
        if rate >= self.rate:
            return
        self.rate = rate
        for key in [key for key in self.weights if not self.samples(key)]:
            del self.weights[key]
        self._unthinned = list(range(len(self._caches)))
        self._patience = inf

    def _thinned(self, cache: BoundedPolicy[K]) -> BoundedPolicy[K]:
        thinner = type(cache)(self._capacity.share(self.rate))
        while cache:
            key, weight = cache.pop()
            if self.samples(key):
                thinner.put(key, weight)
        return thinner

    def _begin(self) -> None:
        """Nothing was counted yet."""
        self._touches = [cache.touch for cache in self._caches]
        self._leads = [0] * len(self._caches)  # hits ahead of the leader, by candidate
        self._former, self._ahead = self.leader, 0  # who led before, and how many hits the leader is ahead of it
        self._doubt = self._patience = 0.0
        self._weigh()

    def _look(self) -> None:
        held = max(1, len(self.model))
        self._patience -= _ROUND
        self._doubt *= 0.5 ** (_ROUND / (_DOUBT_HALVES * held))
        if self._ahead >= _PROOF * held:
            self._doubt, self._ahead = max(0.0, self._doubt - 1), 0
        self._weigh()

    def _weigh(self) -> None:
        self._until_look = _ROUND
        safe, others = [-_SAFE_CREDIT * len(self.model)], [-_CREDIT * len(self.model)]
        self._least = safe * self._n_safe + others * (len(self._caches) - self._n_safe)
        self._asked = max(_LEAST_LEAD, _LEAD * len(self.model)) * 2**self._doubt


def _rate(entries: int) -> float:
    """Halved until no more than enough of so many entries are sampled."""
    rate = 1.0
    while entries * rate > _ENOUGH and rate > _MIN_RATE:
        rate /= 2
    return rate
