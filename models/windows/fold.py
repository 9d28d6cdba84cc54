"""Bars of a whole run, folded offline in array operations: the oracle for the worker's windows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.market.tick import Kind, TickArray
from models.windows.tumbling import checksum
from models.windows.window import GRACE_NS, INTERVALS_S, N_CLOSED, NO_WATERMARK, RING, SECOND_NS

_ID, _INTERVAL, _START, _OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _COUNT = range(N_CLOSED)
_PARTS = 64  # that wait before they are joined


class Bars(NamedTuple):
    """All windows of one length of an instrument."""

    id: int
    interval: int  # index into INTERVALS
    last: tuple[int, ...]  # `start` to `count` of the last one, as in dtype CLOSED
    n: int
    checksum: int


class BarFold:
    """Takes rows in the order of the log, as one partition; the watermark is that of `models.windows.window`.

    A day is ordered by `ts_recv`, so which trades are late does not depend on how instruments are partitioned. Cost:
    30 ns a row; of minutes that have closed only the last bars and the sums stay in memory.

    Attributes:
        n_late: trades that no window took.
    """

    def __init__(self) -> None:
        self.n_late = 0
        self._watermark_ns = NO_WATERMARK
        self._parts: list[NDArray[np.int64]] = []  # seconds, columns as dtype CLOSED, `slot` the instrument's id
        self._done: dict[tuple[int, int], Bars] = {}  # of closed minutes, by id and interval

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
        self._parts.append(_joined(rows))
        if len(self._parts) > _PARTS:
            self._settle()

    def finals(self) -> Iterator[Bars]:
        """Every instrument and length that has windows, as if the run ended here."""
        done = dict(self._done)
        _add(done, self._seconds())
        yield from done.values()

    def windows(self) -> NDArray[np.int64]:
        """Windows of the minutes whose rows are still kept (all of them after one `update`), as if the run ended here.

        Shape (n, 9), columns as dtype CLOSED with the instrument's id as `slot`; sorted by length, instrument, start.
        """
        return np.concatenate(list(_by_length(self._seconds())))

    def _seconds(self) -> NDArray[np.int64]:
        return _joined(np.concatenate([np.empty((0, N_CLOSED), np.int64), *self._parts]))

    def _settle(self) -> None:
        """Keep the sums of closed minutes instead of their windows."""
        seconds = self._seconds()
        minute = INTERVALS_S[-1]
        closed = (seconds[:, _START] // minute + 1) * minute <= self._watermark_ns // SECOND_NS
        _add(self._done, seconds[closed])
        self._parts = [seconds[~closed]]


def _add(done: dict[tuple[int, int], Bars], seconds: NDArray[np.int64]) -> None:
    """Add the windows of whole minutes, later than those before."""
    for interval, rows in enumerate(_by_length(seconds)):
        if not len(rows):
            return
        starts = _group_starts(rows[:, _ID])
        ends = np.append(starts[1:], len(rows))
        totals = np.add.reduceat(checksum(rows), starts)
        for n, total, (id_, _, *last) in zip(
            (ends - starts).tolist(), totals.tolist(), rows[ends - 1].tolist(), strict=True
        ):
            before = done.get((id_, interval))
            n_before, sum_before = (before.n, before.checksum) if before else (0, 0)
            done[id_, interval] = Bars(id_, interval, tuple(last), n_before + n, (sum_before + total) % 2**64)


def _by_length(seconds: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Windows of each length, made of seconds that are sorted by instrument and start."""
    yield (rows := seconds)
    for interval, (shorter, longer) in enumerate(pairwise(INTERVALS_S), 1):
        rows = rows.copy()
        rows[:, _INTERVAL], rows[:, _START] = interval, rows[:, _START] // (longer // shorter)
        yield (rows := _joined(rows))


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
