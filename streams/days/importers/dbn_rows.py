"""DBN records as rows. Prices come as int64 x 1e-9, which is the exponent -9 of a tick; sizes are whole numbers.

Each record is an event of its own, except that MBO records make one event up to the one that Databento flags as its
last; where that is missing an event ends before another instrument or another time of receipt.
"""

from __future__ import annotations

import databento_dbn as dbn
import numpy as np
from numpy.typing import NDArray

from models.market.depth import DepthView
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

MAX_EVENT_ROWS = 4096
_N_LEVELS = 10
_SIZE_SCALE = 10**9
_UNDEFINED = dbn.UNDEF_PRICE
_SIDES = {b"B": Side.BID, b"A": Side.ASK, b"N": Side.NONE}
# What MBO actions do to the order; a trade does nothing to it, and a fill is followed by its cancel
_ORDER_ACTIONS = {b"A": Action.ADD, b"M": Action.UPDATE, b"C": Action.DELETE, b"F": Action.TRADE, b"R": Action.CLEAR}

_Part = tuple[NDArray[np.intp], TickArray]  # the record of each row, and the rows
Reasons = dict[int, str]  # why a record is refused


class DbnRows:
    """Rows of one file's records, in order; books of MBP-10 are the differences between its views."""

    def __init__(self) -> None:
        self._view = DepthView(_N_LEVELS)
        self._shown: set[int] = set()
        self._open = np.empty(0, TICK)  # rows of an event whose end is still to come

    def rows(
        self, table: NDArray[np.void], ids: NDArray[np.int32], reasons: Reasons, *, quotes_first: bool
    ) -> TickArray:
        """Rows of records of one type.

        Args:
            table: records as the library lays them out.
            ids: instrument of each record.
            reasons: records that are refused; further ones are added.
            quotes_first: the best bid and offer are those before the trade (TBBO).
        """
        names = table.dtype.names or ()
        action, side = table["action"], table["side"]
        _refuse(reasons, ~np.isin(side, list(_SIDES)), "a side that is none of B, A, N")
        if "order_id" in names:
            _refuse(reasons, ~np.isin(action, [*_ORDER_ACTIONS, b"T", b"N"]), "an action that MBO does not have")
            priced = ~np.isin(action, [b"R", b"N"])
            _refuse(reasons, np.isin(action, [b"A", b"M", b"C"]) & (side == b"N"), "an order without a side")
            _refuse(reasons, table["order_id"] >= np.uint64(1 << 63), "an order id beyond int64")
        else:
            priced = action == b"T"
            if "bid_px_00" not in names:
                _refuse(reasons, ~priced, "an action that is no trade")
        _refuse(reasons, priced & (table["price"] == _UNDEFINED), "the price is undefined")
        parts = [_trades(table, _good(table, reasons) & (action == b"T"))]
        if "order_id" in names:
            parts.append(_orders(table, _good(table, reasons)))
        elif "bid_px_09" in names:
            parts.append(self._levels(table, ids, reasons))
        elif "bid_px_00" in names:
            parts.append(_quotes(table, reasons))
            if quotes_first:
                parts.reverse()
        refused = np.array(sorted(reasons), np.intp)
        record = np.concatenate([at for at, _ in parts])
        order = np.argsort(record, kind="stable")
        order = order[~np.isin(record[order], refused)]
        rows, record = np.concatenate([part for _, part in parts])[order], record[order]
        rows["ts_recv"], rows["ts_event"] = table["ts_recv"][record], table["ts_event"][record]
        rows["instrument_id"] = ids[record]
        flags = table["flags"][record]
        if "order_id" not in names:
            flags &= np.uint8(0xFF ^ Flag.LAST)
            flags[np.append(record[1:] != record[:-1], True)[: len(rows)]] |= np.uint8(Flag.LAST)
        rows["flags"] |= flags
        return rows

    def _levels(self, table: NDArray[np.void], ids: NDArray[np.int32], reasons: Reasons) -> _Part:
        """Level changes; a book's first view is a snapshot."""
        views = np.empty((len(table), 2, _N_LEVELS, 2), np.int64)
        for side, of in enumerate(("bid", "ask")):
            for level in range(_N_LEVELS):
                views[:, side, level, 0] = table[f"{of}_px_{level:02}"]
                views[:, side, level, 1] = table[f"{of}_sz_{level:02}"]
        undefined = views[..., 0] == _UNDEFINED
        _refuse(reasons, (undefined & (views[..., 1] != 0)).any(axis=(1, 2)), "a level's price is undefined")
        views[..., 1] *= _SIZE_SCALE
        at = np.flatnonzero(_good(table, reasons))
        changes = self._view.changes(ids[at], views[at])
        for record in at[changes.n_changes < 0].tolist():
            reasons[record] = "the levels are not best first"
        n_changes = np.maximum(changes.n_changes, 0)
        record = np.repeat(at, n_changes)
        book = _rows(Kind.BOOK, len(record), Flag.MBP)
        book["side"], book["price"], book["size"] = changes.side, changes.price, changes.size
        firsts = [k for k in np.flatnonzero(changes.n_changes >= 0).tolist() if self._is_first(int(ids[at[k]]))]
        snapshot = np.isin(record, at[firsts])
        book["action"] = np.select([snapshot, changes.size == 0], [Action.ADD, Action.DELETE], Action.UPDATE)
        book["flags"][snapshot] |= np.uint8(Flag.SNAPSHOT)
        clear = _rows(Kind.BOOK, len(firsts), Flag.MBP | Flag.SNAPSHOT)
        clear["action"] = Action.CLEAR
        return np.concatenate([at[firsts], record]), np.concatenate([clear, book])

    def _is_first(self, instrument_id: int) -> bool:
        if instrument_id in self._shown:
            return False
        self._shown.add(instrument_id)
        return True

    def seal(self, rows: TickArray, *, ended: bool = False) -> TickArray:
        """Close events where they cannot go on, and keep back the rows of one that may."""
        rows = np.concatenate([self._open, rows])
        self._open = np.empty(0, TICK)
        if not len(rows):
            return rows
        same = (rows["instrument_id"][1:] == rows["instrument_id"][:-1]) & (rows["ts_recv"][1:] == rows["ts_recv"][:-1])
        rows["flags"][:-1][~same] |= np.uint8(Flag.LAST)
        if ended:
            rows["flags"][-1] |= np.uint8(Flag.LAST)
        ends = np.flatnonzero(rows["flags"] & Flag.LAST)
        cut = int(ends[-1]) + 1 if len(ends) else 0
        if len(rows) - cut >= MAX_EVENT_ROWS:
            rows["flags"][-1] |= np.uint8(Flag.LAST)
            cut = len(rows)
        self._open = rows[cut:]
        return rows[:cut]


def _refuse(reasons: Reasons, bad: NDArray[np.bool_], reason: str) -> None:
    for at in np.flatnonzero(bad).tolist():
        reasons.setdefault(at, reason)


def _good(table: NDArray[np.void], reasons: Reasons) -> NDArray[np.bool_]:
    good = np.ones(len(table), bool)
    good[list(reasons)] = False
    return good


def _rows(kind: Kind, n: int, flags: int = 0) -> TickArray:
    rows = np.zeros(n, TICK)
    rows["kind"], rows["flags"] = kind, flags
    return rows


def _side(sides: NDArray[np.bytes_]) -> NDArray[np.uint8]:
    return np.select([sides == b"B", sides == b"A"], [np.uint8(Side.BID), np.uint8(Side.ASK)], np.uint8(Side.NONE))


def _trades(table: NDArray[np.void], wanted: NDArray[np.bool_]) -> _Part:
    at = np.flatnonzero(wanted)
    of = table[at]
    rows = _rows(Kind.TRADE, len(at))
    rows["action"], rows["side"], rows["venue_seq"] = Action.TRADE, _side(of["side"]), of["sequence"]
    rows["price"], rows["size"] = of["price"], of["size"].astype(np.int64) * _SIZE_SCALE
    return at, rows


def _orders(table: NDArray[np.void], wanted: NDArray[np.bool_]) -> _Part:
    at = np.flatnonzero(wanted & np.isin(table["action"], list(_ORDER_ACTIONS)))
    of = table[at]
    rows = _rows(Kind.ORDER, len(at))
    for name, action in _ORDER_ACTIONS.items():
        rows["action"][of["action"] == name] = action
    rows["side"], rows["venue_seq"], rows["ref_id"] = _side(of["side"]), of["sequence"], of["order_id"]
    rows["price"] = np.where(of["price"] == _UNDEFINED, 0, of["price"])
    rows["size"] = of["size"].astype(np.int64) * _SIZE_SCALE
    return at, rows


def _quotes(table: NDArray[np.void], reasons: Reasons) -> _Part:
    """Two rows a record; a side without a price is empty."""
    at = np.arange(len(table))
    rows = _rows(Kind.QUOTE, 2 * len(table), Flag.TOB)
    for k, (side, of) in enumerate(((Side.BID, "bid"), (Side.ASK, "ask"))):
        price, size = table[f"{of}_px_00"], table[f"{of}_sz_00"].astype(np.int64) * _SIZE_SCALE
        undefined = price == _UNDEFINED
        _refuse(reasons, undefined & (size != 0), f"the {of} price is undefined")
        one = rows[k::2]
        one["side"], one["price"], one["size"] = side, np.where(undefined, 0, price), size
        one["action"] = np.where(size == 0, Action.DELETE, Action.UPDATE)
        one["venue_seq"] = table["sequence"]
    return np.repeat(at, 2), rows
