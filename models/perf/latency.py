"""Latency of every tick in a run paced open loop, counted from when the tick was due, not from when it was sent.

Counting from the due time is what keeps a stall visible: ticks that had to wait behind it are late, too (coordinated
omission; Tene 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.market.tick import TickArray

NS_A_SECOND = 1_000_000_000
NS_A_MS = 1_000_000


def due_times(start_ns: int, rate: int, n_ticks: int) -> NDArray[np.int64]:
    """int64[n_ticks], UTC ns: the i-th tick (from 0) is due at `start_ns + i / rate` seconds."""
    return start_ns + np.arange(n_ticks, dtype=np.int64) * NS_A_SECOND // rate


def as_live(ticks: TickArray, due_ns: NDArray[np.int64]) -> TickArray:
    """The same ticks, heard when they are due; a venue's time keeps its distance, in whole milliseconds.

    A publisher on the wire moves watermarks by its clock, and invented times that fell behind it would be late.
    """
    live = ticks.copy()
    live["ts_recv"] = due_ns
    live["ts_event"] = (due_ns - (ticks["ts_recv"] - ticks["ts_event"])) // NS_A_MS * NS_A_MS
    return live


def visible_latencies(
    due_ns: NDArray[np.int64],
    partition: NDArray[np.int64],
    seen: Sequence[Sequence[tuple[int, int]]],
    *,
    from_ns: int = 0,
) -> NDArray[np.int64]:
    """int64[m]: by how much after its due time each tick was visible, ns.

    Args:
        due_ns: int64[n], by tick in the order of sending.
        partition: int64[n], which partition each tick lies in; a partition keeps the order of sending.
        seen: by partition: (when further ticks became visible, how many), in order.
        from_ns: ticks that were due before are checked, but not counted.

    Raises:
        ValueError: a partition showed more or fewer ticks than lie in it.
    """
    parts = []
    for number, shown in enumerate(seen):
        due = due_ns[partition == number]
        at_ns, counts = np.array(shown, np.int64).reshape(-1, 2).T
        if counts.sum() != len(due):
            raise ValueError(f"partition {number} showed {counts.sum()} ticks, {len(due)} were sent")
        late_ns = np.repeat(at_ns, counts) - due
        parts.append(late_ns[due >= from_ns])
    return np.concatenate(parts)
