"""Rows of whole columns: trades, quotes, level updates, snapshots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

MAX_EVENT_ROWS = 65_536  # a source that shows no end of an event does not fill the memory
Ints = NDArray[np.int64]


def rows_at(event: Ints, recv: Ints, ids: NDArray[np.int32], kind: Kind) -> TickArray:
    """One row each, of these times and instruments."""
    rows = np.zeros(len(ids), TICK)
    rows["ts_event"], rows["ts_recv"], rows["instrument_id"], rows["kind"] = event, recv, ids, kind
    return rows


def trade_rows(rows: TickArray, *, price: Ints, size: Ints, side: Ints, ref_id: Ints | int = 0) -> TickArray:
    """Trades or liquidations, an event each."""
    rows["action"], rows["flags"] = Action.TRADE, Flag.LAST
    rows["price"], rows["size"], rows["side"], rows["ref_id"] = price, size, side, ref_id
    return rows


def quote_rows(rows: TickArray, *, bid: tuple[Ints, Ints], ask: tuple[Ints, Ints]) -> TickArray:
    """Two rows an event; a side of size 0 is empty.

    Args:
        rows: one a quote.
        bid, ask: prices and sizes.
    """
    both = np.repeat(rows, 2)
    both["flags"] = Flag.TOB
    for k, (side, (price, size)) in enumerate(((Side.BID, bid), (Side.ASK, ask))):
        one = both[k::2]
        one["side"], one["price"], one["size"] = side, price, size
        one["action"] = np.where(size == 0, Action.DELETE, Action.UPDATE)
    both["flags"][1::2] |= np.uint8(Flag.LAST)
    return both


def snapshot_rows(rows: TickArray, side: Ints, price: Ints, size: Ints, there: NDArray[np.bool_]) -> TickArray:
    """A clearing row and the levels, an event each.

    Args:
        rows: shape (n,), one a snapshot.
        side: shape (k,), of each place.
        price, size, there: shape (n, k), the levels and whether there is one at this place.
    """
    taken = np.column_stack([np.ones(len(rows), bool), there])
    event, place = np.nonzero(taken)
    levels = rows[event]
    of = place - 1
    levels["action"] = np.where(place == 0, Action.CLEAR, Action.ADD)
    levels["side"] = np.where(place == 0, Side.NONE, side[of])
    levels["price"], levels["size"] = (np.where(place == 0, 0, values[event, of]) for values in (price, size))
    levels["flags"] = Flag.MBP | Flag.SNAPSHOT
    levels["flags"][np.append(event[1:] != event[:-1], True)[: len(levels)]] |= np.uint8(Flag.LAST)
    return levels


class LevelUpdates:
    """Rows of level updates that come one a line; an event is what was received at one instant.

    A run of snapshot lines that follows others begins with a clearing row: the book starts anew. What comes before an
    instrument's first snapshot updates a book that nobody has, and is left out.
    """

    def __init__(self, *, need_snapshot: bool) -> None:
        self._need_snapshot = need_snapshot
        self._in_snapshot: dict[int, bool] = {}  # instruments that had a snapshot; whether its last line was of one
        self._open = np.empty(0, TICK)  # the last event, which may go on

    def rows(self, rows: TickArray, snapshot: NDArray[np.bool_]) -> tuple[TickArray, int]:
        """Further lines, one row each with side, price and size; and how many were left out."""
        rows["action"] = np.select([snapshot, rows["size"] == 0], [Action.ADD, Action.DELETE], Action.UPDATE)
        rows["flags"] = np.where(snapshot, Flag.MBP | Flag.SNAPSHOT, Flag.MBP)
        starts, kept = np.zeros(len(rows), bool), np.ones(len(rows), bool)
        for instrument in np.unique(rows["instrument_id"]).tolist():
            at = np.flatnonzero(rows["instrument_id"] == instrument)
            before = np.append(self._in_snapshot.get(instrument, False), snapshot[at])
            starts[at] = before[1:] & ~before[:-1]
            if self._need_snapshot and instrument not in self._in_snapshot:
                kept[at] = np.logical_or.accumulate(snapshot[at])
            if not self._need_snapshot or kept[at[-1]]:
                self._in_snapshot[instrument] = bool(before[-1])
        clears = rows[starts]
        clears["action"], clears["side"], clears["price"], clears["size"] = Action.CLEAR, Side.NONE, 0, 0
        place = np.concatenate([2 * np.flatnonzero(starts), 2 * np.flatnonzero(kept) + 1])
        whole = np.concatenate([clears, rows[kept]])[np.argsort(place, kind="stable")]
        return self._sealed(np.concatenate([self._open, whole])), int((~kept).sum())

    def _sealed(self, rows: TickArray) -> TickArray:
        """Events that cannot go on, with their ends; the last one is kept back."""
        if not len(rows):
            return rows
        shape = rows["flags"] & np.uint8(Flag.SNAPSHOT)
        ends = (
            (rows["ts_recv"][1:] != rows["ts_recv"][:-1])
            | (rows["instrument_id"][1:] != rows["instrument_id"][:-1])
            | (shape[1:] != shape[:-1])
            | (rows["action"][1:] == Action.CLEAR)
        )
        rows["flags"][:-1][ends] |= np.uint8(Flag.LAST)
        cut = int(np.flatnonzero(ends)[-1]) + 1 if ends.any() else 0
        if len(rows) - cut > MAX_EVENT_ROWS:
            rows["flags"][-1] |= np.uint8(Flag.LAST)
            cut = len(rows)
        self._open = rows[cut:]
        return rows[:cut]

    def finish(self) -> TickArray:
        """The last event."""
        rows, self._open = self._open, np.empty(0, TICK)
        rows["flags"][-1:] |= np.uint8(Flag.LAST)
        return rows
