"""The policies that can run a live cache, by the name that settings and the simulator use."""

from __future__ import annotations

from typing import NamedTuple

from models.cache.adaptive import Adaptive
from models.cache.lfu import LFU
from models.cache.lirs import GHOSTS_A_KEY, LIRS
from models.cache.lru import LRU
from models.cache.policy import Capacity, K, Listener, Policy
from models.cache.s3fifo import S3FIFO, SMALL_RATIO
from models.cache.tinylfu import TinyLFU

NAMES = tuple(policy.name for policy in (LRU, LFU, LIRS, TinyLFU, S3FIFO, Adaptive))


def make_policy(name: str, capacity: Capacity, listener: Listener[K] | None = None) -> Policy[K]:
    """A policy that begins empty. Raises: ValueError, no policy has this name."""
    for policy in (LRU, LFU, LIRS, TinyLFU, S3FIFO, Adaptive):
        if policy.name == name:
            return policy(capacity, listener)
    raise ValueError(f"no policy is called {name!r}; there are {', '.join(NAMES)}")


class Overhead(NamedTuple):
    """What a policy holds in memory beside the entries that it decides over.

    Attributes:
        key_bytes: most for one key: its slot, its places in tables that have just grown, and its share of the history.
        ghosts: texts of keys that left for each key held; the history keeps them alive.
        fixed_bytes: most for all keys together.
    """

    key_bytes: int
    ghosts: float
    fixed_bytes: int = 0


# By tracemalloc on 64-bit CPython 3.11 with 200 to 22,000 keys and six times as many that came and went.
_OVERHEADS = {
    LRU.name: Overhead(250, 0),
    LFU.name: Overhead(380, 0),
    LIRS.name: Overhead(800, GHOSTS_A_KEY),
    TinyLFU.name: Overhead(340, 0),
    S3FIFO.name: Overhead(380, 1 - SMALL_RATIO),
    Adaptive.name: Overhead(800, GHOSTS_A_KEY, 1_800_000),  # four shadows of some 1,000 keys
}


def overhead_of(name: str) -> Overhead:
    """Raises: KeyError, no policy has this name."""
    return _OVERHEADS[name]
