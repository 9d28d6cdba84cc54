"""When rows are due: an open loop's clock, and rows cut into the groups that leave together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.market.tick import Flag, TickArray


class Pace:
    """Due times of an open loop: `start + (ts_recv - first) / speed`. Only gaps scale; no consumer is waited for.

    Args:
        start_ns: when the first row is due, UTC ns.
        first_ns: `ts_recv` of the first row.
        speed: 2 is twice as fast as it was.
    """

    def __init__(self, start_ns: int, first_ns: int, speed: float) -> None:
        self._start_ns, self._first_ns, self._speed = start_ns, first_ns, speed

    def due(self, ts_recv: NDArray[np.int64]) -> NDArray[np.int64]:
        """UTC ns, shape (n,)."""
        gaps = ts_recv - self._first_ns
        # exact at speed 1; elsewhere a float's error stays below 1 us over a day
        scaled = gaps if self._speed == 1 else (gaps / self._speed).astype(np.int64)
        return self._start_ns + scaled

    def shift(self, ns: int) -> None:
        """Everything that is still to come is due this much later (a pause ended)."""
        self._start_ns += ns


class Group(NamedTuple):
    """Rows of one partition that leave together, at the due time of the last of them."""

    partition: int
    ticks: TickArray
    due_ns: NDArray[np.int64]  # by row


def groups(
    ticks: TickArray, partitions: NDArray[np.int64], due_ns: NDArray[np.int64], window_ns: int
) -> Iterator[Group]:
    """Cut whole events into groups of one partition and one window of time, in the order in which they are due.

    Args:
        ticks: TICK[n], ends with an event.
        partitions: shape (n,), equal for all rows of an event.
        due_ns: shape (n,), not falling.
        window_ns: longest time from the first to the last row of a group.
    """
    ends = np.flatnonzero(ticks["flags"] & np.uint8(Flag.LAST))
    lengths = np.diff(ends, prepend=-1)
    due_ns = np.repeat(due_ns[ends], lengths)  # an event is due when it is complete
    window = (due_ns - due_ns[0]) // window_ns
    key = window * (int(partitions.max()) + 1) + partitions
    order = np.argsort(key, kind="stable")
    key, due_ns = key[order], due_ns[order]
    borders = np.flatnonzero(np.diff(key)) + 1
    starts, stops = np.append(0, borders), np.append(borders, len(key))
    ticks = ticks[order]
    for at in np.argsort(due_ns[stops - 1], kind="stable").tolist():
        begin, end = int(starts[at]), int(stops[at])
        yield Group(int(partitions[order[begin]]), ticks[begin:end], due_ns[begin:end])
