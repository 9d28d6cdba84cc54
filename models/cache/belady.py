"""Belady's optimum: what no policy can beat, because it knows the future. For comparison only, so offline."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappush, heapreplace

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 16
_SLACK = 1024


def belady_hits(keys: NDArray[np.int64], entries: int, heard: Callable[[int], None] = lambda n: None) -> int:
    """Most hits that a cache of so many entries can have, if it need not keep what it just read.

    Of all keys in question the one whose next read is farthest away does without. Keys of equal weight only: with
    weights the optimum is NP-hard. Memory: 30 bytes a request; time: O(n log entries).

    Args:
        keys: int64[requests].
        entries: at least 1.
        heard: told of each stretch of requests done, by their number.

    Source: Belady 1966, IBM Systems Journal 5(2), "A study of replacement algorithms for a virtual-storage computer".
    """
    n = len(keys)
    following = _next_read(keys)
    kept = bytearray(n)  # 1 where the read of that position will be a hit
    reads: list[int] = []  # heap of minus the positions in `kept`; those gone by sink to its end
    room, hits = entries, 0
    for start in range(0, n, _CHUNK):
        stretch = following[start : start + _CHUNK].tolist()
        for now, later in enumerate(stretch, start):
            if kept[now]:
                hits += 1
                room += 1
            if later == n:
                continue
            if room:
                room -= 1
                kept[later] = 1
                heappush(reads, -later)
            elif later < -reads[0]:
                kept[-reads[0]] = 0
                kept[later] = 1
                heapreplace(reads, -later)
        end = start + len(stretch)
        if len(reads) > 2 * entries + _SLACK:
            reads = [position for position in reads if -position >= end]
            heapify(reads)
        heard(len(stretch))
    return hits


def _next_read(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each request, the position of the same key's next one; their number where there is none."""
    order = np.argsort(keys, kind="stable")
    following = np.full(len(keys), len(keys), np.int64)
    same = keys[order[1:]] == keys[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    return following
