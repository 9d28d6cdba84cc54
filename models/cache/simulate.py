"""Any policy on any sequence of reads: what its hit ratio would have been."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.cache.belady import belady_hits
from models.cache.policies import NAMES, make_policy
from models.cache.policy import Capacity, Policy
from models.cache.stats import CacheStats
from models.cache.ttl import TTL

BELADY = "belady"
POLICIES = (BELADY, TTL.name, *NAMES)
_CHUNK = 1 << 16


def simulate(
    name: str,
    keys: NDArray[np.int64],
    entries: int,
    *,
    ttl_requests: int,
    heard: Callable[[int], None] = lambda n: None,
) -> CacheStats:
    """Read all keys in order through a cache that begins empty and stores what it missed; every key weighs 1.

    Args:
        name: one of `POLICIES`.
        keys: int64[requests].
        entries: capacity.
        ttl_requests: life of an entry in requests since it was stored; `ttl` alone looks at it.
        heard: told of each stretch of requests done, by their number.

    Raises:
        ValueError: no policy has this name.
    """
    if name == BELADY:
        hits = belady_hits(keys, entries, heard)
        return CacheStats(hits, len(keys) - hits)
    stats = CacheStats()
    if name == TTL.name:
        _read_timed(TTL(Capacity(entries), stats.heard, ttl_ns=ttl_requests), keys, stats, heard)
        return stats
    if name not in POLICIES:
        raise ValueError(f"no policy is called {name!r}; there are {', '.join(POLICIES)}")
    _read(make_policy(name, Capacity(entries), stats.heard), keys, stats, heard)
    return stats


def _read(policy: Policy[int], keys: NDArray[np.int64], stats: CacheStats, heard: Callable[[int], None]) -> None:
    touch, put = policy.touch, policy.put
    for start in range(0, len(keys), _CHUNK):
        stretch = keys[start : start + _CHUNK].tolist()
        missed = 0
        for key in stretch:
            if not touch(key):
                missed += 1
                put(key)
        stats.hits += len(stretch) - missed
        stats.misses += missed
        heard(len(stretch))


def _read_timed(policy: TTL[int], keys: NDArray[np.int64], stats: CacheStats, heard: Callable[[int], None]) -> None:
    """One request is one ns."""
    for start in range(0, len(keys), _CHUNK):
        stretch = keys[start : start + _CHUNK].tolist()
        for now, key in enumerate(stretch, start):
            policy.advance(now)
            if policy.touch(key):
                stats.hits += 1
            else:
                stats.misses += 1
                policy.put(key)
        heard(len(stretch))
