"""When rows are due: an open loop's clock, and rows cut into the groups that leave together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.days.received import Arrivals
from models.market.tick import Flag, TickArray

_S = 10**9


class Pace(Protocol):
    """Says when rows are due; no consumer is ever waited for."""

    def due(self, arrival_ns: NDArray[np.int64], seq: NDArray[np.uint64]) -> NDArray[np.int64]:
        """UTC ns, shape (n,), for rows received at these instants with these numbers of the stream."""
        ...

    def shift(self, ns: int) -> None:
        """Everything that is still to come is due this much later (a pause ended)."""
        ...


def check_pace(speed: float | None, rate: float | None) -> None:
    """Raises: ValueError when one is not above 0, or both are given."""
    for name, value in (("speed", speed), ("rate", rate)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} {value} is not above 0")
    if speed is not None and rate is not None:
        raise ValueError("either a speed or a rate")


class SpeedPace:
    """`start + (arrival - first) / speed`: only gaps scale.

    Args:
        start_ns: when the first row is due, UTC ns.
        first_ns: when it was received.
        speed: 2 is twice as fast as it was.
    """

    def __init__(self, start_ns: int, first_ns: int, speed: float) -> None:
        self._start_ns, self._first_ns, self._speed = start_ns, first_ns, speed

    def due(self, arrival_ns: NDArray[np.int64], seq: NDArray[np.uint64]) -> NDArray[np.int64]:
        gaps = arrival_ns - self._first_ns
        # exact at speed 1; elsewhere a float's error stays below 1 us over a day
        scaled = gaps if self._speed == 1 else (gaps / self._speed).astype(np.int64)
        return self._start_ns + scaled

    def shift(self, ns: int) -> None:
        self._start_ns += ns


class RatePace:
    """`start + (seq - first) / rate`: an even stream, whatever the gaps were.

    Args:
        start_ns: when row `first_seq` is due, UTC ns.
        per_s: rows a second.
    """

    def __init__(self, start_ns: int, first_seq: int, per_s: float) -> None:
        self._start_ns, self._first_seq, self._per_s = start_ns, first_seq, per_s

    def due(self, arrival_ns: NDArray[np.int64], seq: NDArray[np.uint64]) -> NDArray[np.int64]:
        nth = seq.astype(np.int64) - self._first_seq
        due: NDArray[np.int64] = self._start_ns + (nth * (_S / self._per_s)).astype(np.int64)
        return due

    def shift(self, ns: int) -> None:
        self._start_ns += ns


class Group(NamedTuple):
    """Rows of one partition that leave together, at the due time of the last of them."""

    partition: int
    ticks: TickArray
    due_ns: NDArray[np.int64]  # by row
    fate: NDArray[np.uint8] | None = None  # by row
    n_done: int = 0  # rows up to and with this group's window, when it is the window's last group, else 0


def groups(
    rows: Arrivals, partitions: NDArray[np.integer[Any]], due_ns: NDArray[np.int64], window_ns: int
) -> Iterator[Group]:
    """Cut whole events into groups of one partition and one window of time, in the order in which they are due.

    Windows follow each other: all groups of one come before those of the next.

    Args:
        rows: n of them, they end with an event.
        partitions: shape (n,), equal for all rows of an event.
        due_ns: shape (n,), not falling.
        window_ns: longest time from the first to the last row of a group.
    """
    ends = np.flatnonzero(rows.ticks["flags"] & np.uint8(Flag.LAST))
    lengths = np.diff(ends, prepend=-1)
    due_ns = np.repeat(due_ns[ends], lengths)  # an event is due when it is complete
    window = (due_ns - due_ns[0]) // window_ns
    key = window * (int(partitions.max()) + 1) + partitions.astype(np.int64)
    order = np.argsort(key, kind="stable")
    key, due_ns = key[order], due_ns[order]
    borders = np.flatnonzero(np.diff(key)) + 1
    starts, stops = np.append(0, borders), np.append(borders, len(key))
    ticks = rows.ticks[order]
    fate = None if rows.fate is None else rows.fate[order]
    # by window, then as they are due; `window` does not change by sorting, because key rises with it
    turns = np.lexsort((due_ns[stops - 1], window[starts])).tolist()
    for turn, at in enumerate(turns):
        begin, end = int(starts[at]), int(stops[at])
        last = turn + 1 == len(turns) or window[starts[turns[turn + 1]]] != window[begin]
        yield Group(
            int(partitions[order[begin]]),
            ticks[begin:end],
            due_ns[begin:end],
            None if fate is None else fate[begin:end],
            int(np.searchsorted(window, window[begin], "right")) if last else 0,
        )
