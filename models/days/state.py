"""What stands in every market at an instant, and the rows that say so: how a stream opens in the middle of a day.

Quotes, books, single orders, funding, open interest, volatility and ratios are states: they hold until they change.
Trades, liquidations and bars are events: they are over, and told again they would count twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from models.days.orders import RestingOrders
from models.market import facets
from models.market.book import BookPool, Consumer
from models.market.conflate import BookRows, Rows
from models.market.levels import AWAITS_SNAPSHOT, LIVE
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

_PRICE, _SIZE = "price", "size"
# facet -> kind, action and the field that each of its rows fills, in the order of the state row's values
_FIELDS: dict[int, tuple[Kind, Action, tuple[str, ...]]] = {
    facets.FUNDING: (Kind.FUNDING, Action.UPDATE, (_PRICE, _PRICE, _PRICE)),
    facets.OPEN_INTEREST: (Kind.OPEN_INTEREST, Action.UPDATE, (_SIZE, _PRICE)),
    facets.VOLATILITY: (Kind.VOLATILITY, Action.UPDATE, (_PRICE,)),
    facets.LSR_TOP: (Kind.LONG_SHORT, Action.ADD, (_PRICE, _PRICE, _PRICE)),
    facets.LSR_ALL: (Kind.LONG_SHORT, Action.UPDATE, (_PRICE, _PRICE, _PRICE)),
}
_HAS_REF = (facets.FUNDING, facets.LSR_TOP, facets.LSR_ALL)  # their first row's ref_id is the fourth value


class MarketState:
    """Folds rows by the worker's own kernels; `rows` gives what stands. About 30 ns a row, a book row 150 ns."""

    def __init__(self) -> None:
        self._rows = Rows()
        self._books = BookPool()
        self._orders = RestingOrders()
        self._book_rows = BookRows()
        self._n_instruments = 0
        self._calls = 0  # stands in for the version that every row has in a log

    def update(self, ticks: TickArray) -> None:
        """Take whole events, TICK[n] in order; control rows (instrument -1) are passed over."""
        if not len(ticks):
            return
        self._n_instruments = max(self._n_instruments, int(ticks["instrument_id"].max()) + 1)
        self._orders.update(ticks)
        self._rows.ensure(self._n_instruments)
        self._books.ensure(self._n_instruments)
        if not ticks["seq"].all():  # rows without numbers; the kernel passes over what is not above 0
            ticks = ticks.copy()
            ticks["seq"] = 1
        words = np.ascontiguousarray(ticks).view(np.int64).reshape(-1, 8)
        slots = np.arange(self._n_instruments, dtype=np.int32)
        self._rows.apply(words, slots, version=self._calls, after=0, books=self._book_rows)
        if n := self._book_rows.n:
            book_ticks = self._book_rows.words[:n].view(TICK).reshape(n)
            self._books.apply(book_ticks, self._book_rows.slots[:n], self._calls)
            self._book_rows.n = 0
            for consumer in Consumer:  # nobody reads changes here: chunks that books drop are free at once
                self._books.mark_clean([change.slot for change in self._books.dirty(consumer)], consumer)
            self._books.release_dropped()
        self._calls += 1

    def rows(self, ts_recv: int, instruments: Iterable[int] | None = None) -> TickArray:
        """What stands, as rows received at `ts_recv` (ns UTC): TICK[m], `seq` 0, by instrument, in whole events.

        Orders come first, then a quote. A book is a snapshot, followed by the diffs that wait for another one. Folded
        into nothing, the rows give this state again. All carry the flag SNAPSHOT, except those diffs.

        Args:
            instruments: ids to tell of; all by default.
        """
        chosen = np.zeros(self._n_instruments, np.bool_)
        ids = np.arange(self._n_instruments) if instruments is None else np.fromiter(instruments, np.int64)
        chosen[ids[ids < self._n_instruments]] = True
        parts = [self._orders.rows(chosen), self._quotes(chosen), *(self._fields(facet, chosen) for facet in _FIELDS)]
        parts += [self._book(slot) for slot in np.flatnonzero(chosen).tolist()]
        found = np.concatenate(parts)
        found["ts_recv"] = ts_recv
        return found[np.argsort(found["instrument_id"], kind="stable")]

    def _present(self, facet: int, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots that have the facet, and their state rows, int64[k, 10]."""
        plane = self._rows.plane_of[facet]
        if plane < 0:
            return np.empty(0, np.int64), np.empty((0, facets.N_COLUMNS), np.int64)
        rows = self._rows.rows[plane, : self._n_instruments]
        slots = np.flatnonzero(chosen & (rows[:, facets.N_ROWS] > 0))
        return slots, rows[slots]

    def _quotes(self, chosen: NDArray[np.bool_]) -> TickArray:
        slots, rows = self._present(facets.QUOTE, chosen)
        out = _events(slots, rows, 2)
        out["kind"], out["flags"] = Kind.QUOTE, Flag.TOB | Flag.SNAPSHOT
        out["side"] = Side.BID, Side.ASK
        out["price"], out["size"] = rows[:, [facets.V0, facets.V0 + 2]], rows[:, [facets.V0 + 1, facets.V0 + 3]]
        out["venue_seq"] = rows[:, facets.V0 + 4, None]
        gone = (out["price"] == 0) & (out["size"] == 0)
        out["action"] = np.where(gone, Action.DELETE, Action.UPDATE)
        return _closed(out)

    def _fields(self, facet: int, chosen: NDArray[np.bool_]) -> TickArray:
        kind, action, fields = _FIELDS[facet]
        slots, rows = self._present(facet, chosen)
        out = _events(slots, rows, len(fields))
        out["kind"], out["action"], out["flags"] = kind, action, Flag.SNAPSHOT
        out["side"] = np.arange(len(fields))
        for number, field in enumerate(fields):
            out[field][:, number] = rows[:, facets.V0 + number]
        if facet in _HAS_REF:
            out["ref_id"][:, 0] = rows[:, facets.V0 + 3]
        return _closed(out)

    def _book(self, slot: int) -> TickArray:
        header = self._books.header(slot)
        pending = np.frombuffer(self._books.pending_bytes(slot), TICK).copy()
        pending["instrument_id"] = slot
        begun = header.last_update_id or header.n_bid_levels or header.n_ask_levels
        if header.state == LIVE or (header.state == AWAITS_SNAPSHOT and begun):
            sides = self._books.levels(slot)
            snapshot = book_snapshot(slot, header.last_update_id, header.ts_event, *sides)
            return np.concatenate([snapshot, pending])
        return pending


def book_snapshot(
    instrument_id: int, update_id: int, ts_event: int, bids: NDArray[np.int64], asks: NDArray[np.int64]
) -> TickArray:
    """A snapshot event (docs/wire.md): a clearing row, then a row a level. Sides: price and size, shape (m, 2)."""
    out = np.zeros(1 + len(bids) + len(asks), TICK)
    out["ts_event"], out["venue_seq"], out["instrument_id"] = ts_event, update_id, instrument_id
    out["kind"], out["action"], out["flags"] = Kind.BOOK, Action.ADD, Flag.SNAPSHOT | Flag.MBP
    out["action"][0] = Action.CLEAR
    out["side"][1:] = np.repeat(np.array([Side.BID, Side.ASK], np.uint8), [len(bids), len(asks)])
    out["price"][1:], out["size"][1:] = np.concatenate([bids, asks]).T
    out["flags"][-1] |= np.uint8(Flag.LAST)
    return out


def _events(slots: NDArray[np.int64], rows: NDArray[np.int64], n_rows: int) -> NDArray[np.void]:
    """An event of `n_rows` rows for each slot, shape (k, n_rows), with its id and times of the venue."""
    out = np.zeros((len(slots), n_rows), TICK)
    out["instrument_id"] = slots[:, None]
    out["ts_event"] = rows[:, facets.TS_EVENT, None]
    return out


def _closed(events: NDArray[np.void]) -> TickArray:
    """The events one behind the other, the last row of each flagged so."""
    events["flags"][:, -1] |= np.uint8(Flag.LAST)
    return events.reshape(-1)
