"""Cells to judge `adaptive` by: sequences of requests with a capacity, half of them to tune on and half to check on.

    python -m tests.policy_cells [FOLDER]

prints, for each cell, how many points adaptive is above the better of S3-FIFO and LRU, and the worst of each half. With
a folder of the public traces that `tests/replay/test_cache_traces.py` names, their cells are there too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.cache.simulate import simulate
from streams.cache.trace import read_trace
from tests.replay.test_cache_traces import TRACES

_LIMIT = 250_000  # requests of a trace
_FOREIGN = 10_000_000  # added to keys that must differ from others

Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cell:
    """Attributes: keys: int64[requests]; entries: the cache's capacity."""

    name: str
    keys: Keys
    entries: int

    @property
    def is_for_tuning(self) -> bool:
        """For whoever chooses constants anew: on these cells; the others are there to check."""
        return crc32(self.name.encode()) % 2 == 0

    def hit_ratio(self, policy: str) -> float:
        """In %."""
        return 100 * simulate(policy, self.keys, self.entries, ttl_requests=10 * self.entries).hit_ratio

    def lead(self) -> float:
        """Points that adaptive is above the better of S3-FIFO and LRU."""
        return self.hit_ratio("adaptive") - max(self.hit_ratio("s3fifo"), self.hit_ratio("lru"))


def zipf(n_keys: int, n: int, exponent: float, seed: int) -> Keys:
    weights = 1 / np.arange(1, n_keys + 1) ** exponent
    return np.random.default_rng(seed).choice(n_keys, n, p=weights / weights.sum()).astype(np.int64)


def drift(n_keys: int, n: int, exponent: float, every: int) -> Keys:
    """Popularity that moves to the next key every so many requests."""
    return zipf(n_keys, n, exponent, every) + np.arange(n, dtype=np.int64) // every


def loop(n_keys: int, n: int) -> Keys:
    return np.arange(n, dtype=np.int64) % n_keys


def twice(n: int, distance: int) -> Keys:
    """Each key twice and never again: recency alone is right."""
    both = np.repeat(np.arange(n + distance, dtype=np.int64), 2)
    both[1::2] -= distance
    return both[both >= 0]


def flooded(keys: Keys, every: int, scan: int) -> Keys:
    """A scan of new keys after every so many requests."""
    parts = []
    for start in range(0, len(keys), every):
        parts += [keys[start : start + every], np.arange(scan, dtype=np.int64) + _FOREIGN + start * scan]
    return np.concatenate(parts)


def phases(*parts: Keys) -> Keys:
    """One after the other, no key in common."""
    return np.concatenate([part + i * _FOREIGN for i, part in enumerate(parts)])


def mixed(one: Keys, other: Keys, seed: int) -> Keys:
    """By turns at random, no key in common, until one of them ends."""
    n = min(len(one), len(other))
    first = np.random.default_rng(seed).random(n) < 0.5
    rank = np.where(first, np.cumsum(first), np.cumsum(~first)) - 1
    keys: Keys = np.where(first, one[rank], other[rank] + _FOREIGN)
    return keys


def synthetic_cells() -> Iterator[Cell]:
    for exponent, n_keys, entries in ((0.6, 5000, 250), (0.8, 20_000, 1000), (1.0, 20_000, 200), (1.0, 300, 8)):
        yield Cell(f"zipf {exponent} of {n_keys}", zipf(n_keys, 60_000, exponent, n_keys), entries)
    for exponent, n_keys, every, entries in ((0.9, 5000, 20, 300), (1.0, 10_000, 5, 500), (0.9, 20_000, 50, 4000)):
        yield Cell(f"drift {exponent} every {every}", drift(n_keys, 60_000, exponent, every), entries)
    for n_keys, entries in ((1000, 900), (1000, 500), (300, 150), (50, 40), (1000, 100)):
        yield Cell(f"loop {n_keys}/{entries}", loop(n_keys, 40_000), entries)
    for distance, entries in ((100, 300), (30, 40), (400, 1000)):
        yield Cell(f"twice {distance}", twice(30_000, distance), entries)
    yield Cell("flooded", flooded(zipf(3000, 60_000, 0.9, 1), 4000, 1500), 300)
    yield Cell("flooded drift", flooded(drift(5000, 60_000, 1.0, 10), 2000, 400), 500)
    yield Cell("loop, zipf, loop", phases(loop(450, 15_000), zipf(3000, 30_000, 0.9, 2), loop(450, 15_000)), 300)
    yield Cell("loop, twice, loop", phases(loop(700, 20_000), twice(15_000, 300), loop(700, 20_000)), 500)
    short = [loop(150, 3000) if i % 2 else zipf(800, 3000, 1.0, i) for i in range(12)]
    yield Cell("short phases", phases(*short), 100)
    yield Cell("uniform", np.random.default_rng(3).integers(0, 1500, 60_000), 150)
    yield Cell("loop and zipf", mixed(loop(400, 60_000), zipf(4000, 60_000, 0.9, 4), 5), 400)


def trace_cells(folder: Path) -> Iterator[Cell]:
    """Raises: UnreadableSource, a trace is not there."""
    traces = {
        name: read_trace(folder / file, form, limit=min(n, _LIMIT)).keys for name, (file, form, n, *_) in TRACES.items()
    }
    for name, keys in traces.items():
        unique = len(np.unique(keys))
        for share in (0.001, 0.01, 0.05, 0.1, 0.2):
            yield Cell(f"{name} {share:.1%}", keys, max(1, int(unique * share)))
        for start, n in ((0, 8000), (len(keys) // 3, 40_000)):
            window = keys[start : start + n]
            yield Cell(f"{name} from {start}", window, max(1, len(np.unique(window)) // 10))
    for (name, keys), (other, others) in pairwise(traces.items()):
        for entries in (300, 1000):
            yield Cell(f"{name}, {other}: {entries}", phases(keys[:30_000], others[:30_000]), entries)
            yield Cell(f"{name} and {other}: {entries}", mixed(keys[:60_000], others[:60_000], entries), entries)
        turns: list[Any] = [part for i in range(3) for part in (keys[i * 9000 :][:9000], others[i * 9000 :][:9000])]
        turns = [part % _FOREIGN + (i % 2) * _FOREIGN for i, part in enumerate(turns)]
        yield Cell(f"{name} by turns with {other}", np.concatenate(turns), 500)


def main() -> None:
    cells = [*synthetic_cells(), *(trace_cells(Path(sys.argv[1])) if len(sys.argv) > 1 else ())]
    leads: dict[bool, list[float]] = {True: [], False: []}
    for cell in cells:
        lead = cell.lead()
        leads[cell.is_for_tuning].append(lead)
        print(f"{lead:+7.2f}  {'tune ' if cell.is_for_tuning else 'check'}  {cell.name}", flush=True)
    for half, points in (("tune", leads[True]), ("check", leads[False])):
        print(f"{half}: {len(points)} cells, worst {min(points):+.2f}, mean {np.mean(points):+.2f}")


if __name__ == "__main__":
    main()
