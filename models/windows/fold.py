"""Bars of a whole run, folded offline in array operations: the oracle for the worker's windows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.market.tick import Kind, TickArray
from models.windows.tumbling import checksum
from models.windows.window import GRACE_NS, INTERVALS_S, N_CLOSED, NO_WATERMARK, RING, SECOND_NS

_ID, _INTERVAL, _START, _OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _COUNT = range(N_CLOSED)
_PARTS = 64  # that wait before they are joined


class BarFold:
    """Takes rows in the order of the log, as one partition; the watermark is that of `models.windows.window`.

    A day is ordered by `ts_recv`, so which trades are late does not depend on how instruments are partitioned. Cost:
    15 ns a row, and 72 bytes of memory a second in which an instrument traded.

    Attributes:
        n_late: trades that no window took.
    """

    def __init__(self) -> None:
        self.n_late = 0
        self._watermark_ns = NO_WATERMARK
        self._seconds: list[NDArray[np.int64]] = []  # columns as dtype CLOSED, `slot` the instrument's id

    def update(self, ticks: TickArray) -> None:
        """Take further rows, TICK[n]; rows of no instrument are passed over."""
        if not len(ticks):
            return
        marks = np.maximum(np.maximum.accumulate(ticks["ts_recv"]) - GRACE_NS, self._watermark_ns)
        self._watermark_ns = int(marks[-1])
        traded = (ticks["kind"] == Kind.TRADE) & (ticks["instrument_id"] >= 0)
        trades, seconds = ticks[traded], marks[traded] // SECOND_NS
        start = trades["ts_event"] // SECOND_NS
        taken = (start >= seconds) & (start < seconds + RING)
        self.n_late += len(trades) - int(taken.sum())
        trades, start = trades[taken], start[taken]
        rows = np.empty((len(trades), N_CLOSED), np.int64)
        rows[:, _ID], rows[:, _INTERVAL], rows[:, _START] = trades["instrument_id"], 0, start
        rows[:, _OPEN : _CLOSE + 1] = trades["price"][:, None]
        rows[:, _VOLUME], rows[:, _COUNT] = trades["size"], 1
        self._seconds.append(_joined(rows))
        if len(self._seconds) > _PARTS:
            self._seconds = [_joined(np.concatenate(self._seconds))]

    def windows(self) -> NDArray[np.int64]:
        """Every window of every length as if the run ended here, shape (n, 9), columns as dtype CLOSED.

        `slot` is the instrument's id; sorted by interval, instrument and start.
        """
        seconds = _joined(np.concatenate([np.empty((0, N_CLOSED), np.int64), *self._seconds]))
        parts = [seconds]
        for interval, (shorter, longer) in enumerate(pairwise(INTERVALS_S), 1):
            rows = parts[-1].copy()
            rows[:, _INTERVAL], rows[:, _START] = interval, rows[:, _START] // (longer // shorter)
            parts.append(_joined(rows))
        return np.concatenate(parts)

    def finals(self) -> Iterator[tuple[int, int, tuple[int, ...], int, int]]:
        """By instrument and length: id, index of the length, last window (`start` to `count`), how many, checksum."""
        windows = self.windows()
        starts = _group_starts(windows[:, _INTERVAL], windows[:, _ID])
        if not len(starts):
            return
        totals = np.add.reduceat(checksum(windows), starts)
        ends = np.append(starts[1:], len(windows))
        for begin, end, total in zip(starts.tolist(), ends.tolist(), totals.tolist(), strict=True):
            id_, interval, *last = windows[end - 1].tolist()
            yield id_, interval, tuple(last), end - begin, total


def _group_starts(*columns: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where a new group begins in rows that are sorted by these columns."""
    changed = np.zeros(len(columns[0]), np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changed)


def _joined(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """One row an instrument and start, of rows that are in log order; sorted by these."""
    if not len(rows):
        return rows
    rows = rows[np.lexsort((rows[:, _START], rows[:, _ID]))]  # stable
    starts = _group_starts(rows[:, _ID], rows[:, _START])
    joined = rows[starts]
    joined[:, _HIGH] = np.maximum.reduceat(rows[:, _HIGH], starts)
    joined[:, _LOW] = np.minimum.reduceat(rows[:, _LOW], starts)
    joined[:, _CLOSE] = rows[np.append(starts[1:], len(rows)) - 1, _CLOSE]
    joined[:, _VOLUME] = np.add.reduceat(rows[:, _VOLUME], starts)
    joined[:, _COUNT] = np.add.reduceat(rows[:, _COUNT], starts)
    return joined
