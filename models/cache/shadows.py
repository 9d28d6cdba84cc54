"""Shadow caches: what each of several policies would hit, judged on a sample of the keys at a scaled capacity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt
from typing import Generic

from models.cache.policy import BoundedPolicy, Capacity, K

_MIN_RATE = 1 / 64  # of the keys: four shadows take 1 us a sampled read, so 15 ns a read
_ENOUGH = 512  # entries of a shadow; a sample is not halved below half of that
_ROUND = 64  # sampled reads between two looks at the account
_MEMORY = 10  # reads for each sampled key after which an old read counts 1/e
_PATIENCE = 0.3  # of that memory, before there is a verdict after a start or a switch
_MARGIN = 0.01  # of the sampled reads: the least lead
_SIGMAS = 3.0
_N_GROUPS = 16
_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio (Knuth, volume 3, 6.4): whole numbers hash to themselves
_MASK = (1 << 64) - 1


class Shadows(Generic[K]):
    """Empty caches of all candidates, of which one leads at any time.

    Whether a key is in the sample is up to its hash, so a shadow sees all reads of a sampled key and none of the
    others; its capacity is scaled alike. A rival wins only when it had more hits than the leader by a margin and by
    three standard errors. Those come from 16 groups of keys that have no key in common, because reads of one key are
    no independent witnesses. After a change of leader the account begins anew: that is what keeps it from flapping.

    Source: Waldspurger, Park, Garthwaite, Ahmad, FAST 2015, "Efficient MRC construction with SHARDS" (spatial
    sampling); Waldspurger, Saemundsson, Ahmad, ATC 2017, "Cache modeling and optimization using miniature simulations".

    Args:
        candidates: classes of policies; the first one leads.

    Attributes:
        weights: weight by key, of the sampled keys that the real cache holds; its owner keeps it.
        leader: index of the candidate that leads.
        rate: share of the keys that is sampled.
    """

    def __init__(self, candidates: Sequence[type[BoundedPolicy[K]]], capacity: Capacity) -> None:
        self.weights: dict[K, int] = {}
        self.leader = 0
        self.rate = 1.0 if capacity.weight is not None else _rate(capacity.max_entries)
        self._capacity = capacity
        self._caches = [candidate(capacity.share(self.rate)) for candidate in candidates]
        self.follow(0)

    def follow(self, leader: int) -> None:
        """Another candidate leads from now on, and nothing was counted yet."""
        self.leader = leader
        self._reads = 0.0
        self._until_look = _ROUND
        self._leads = [[0.0] * _N_GROUPS for _ in self._caches]  # hits more than the leader's, by candidate and group

    def samples(self, key: Hashable) -> bool:
        return hash(key) * _MIX & _MASK < self.rate * _MASK

    def read(self, key: K, weight: int) -> int | None:
        """A sampled key is read, and put where it was missed; a candidate that should lead instead, if there is one."""
        hits = [cache.touch(key) for cache in self._caches]
        led = hits[self.leader]
        for rival, hit in enumerate(hits):
            if not hit:
                self._caches[rival].put(key, weight)
            if hit is not led:
                self._leads[rival][hash(key) * _MIX >> 20 & (_N_GROUPS - 1)] += 1 if hit else -1
        self._reads += 1
        self._until_look -= 1
        return None if self._until_look else self._look()

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
        self.follow(self.leader)

    def thin(self) -> None:
        """Halve the sample once it is larger than it need be: how many entries a weight allows is seen only then."""
        rate = _rate(int(len(self.weights) / self.rate))
        if rate >= self.rate:
            return
        self.rate = rate
        for key in [key for key in self.weights if not self.samples(key)]:
            del self.weights[key]
        self._caches = [self._thinned(cache) for cache in self._caches]
        self.follow(self.leader)

    def _thinned(self, cache: BoundedPolicy[K]) -> BoundedPolicy[K]:
        thinner = type(cache)(self._capacity.share(self.rate))
        while cache:
            key, weight = cache.pop()
            if self.samples(key):
                thinner.put(key, weight)
        return thinner

    def _look(self) -> int | None:
        self._until_look = _ROUND
        memory = _MEMORY * max(_ROUND, *map(len, self._caches))
        if self._reads >= _PATIENCE * memory:
            rival = max(range(len(self._leads)), key=lambda i: sum(self._leads[i]))
            if self._is_clear(self._leads[rival]):
                return rival
        fade = 1 - _ROUND / memory
        self._reads *= fade
        self._leads = [[lead * fade for lead in leads] for leads in self._leads]
        return None

    def _is_clear(self, leads: list[float]) -> bool:
        total = sum(leads)
        if total < _MARGIN * self._reads:
            return False
        mean = total / len(leads)
        variance = sum((lead - mean) ** 2 for lead in leads) / (len(leads) - 1)  # of one group
        return total > _SIGMAS * sqrt(variance * len(leads))


def _rate(entries: int) -> float:
    """Halved until no more than enough of so many entries are sampled."""
    rate = 1.0
    while entries * rate > _ENOUGH and rate > _MIN_RATE:
        rate /= 2
    return rate
