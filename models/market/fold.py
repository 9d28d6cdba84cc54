"""A day's rows folded into what they end in, without the worker's kernels: the oracle for its state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.market import facets
from models.market.digest import BarsFinal, InstrumentFinal, Levels, Numbers
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from models.windows.fold import BarFold
from models.windows.window import INTERVALS_S, SECOND_NS

_Row = tuple[int, int, int, int]  # side, price, size, action


class _Event:
    """One book event: its update ids and rows."""

    __slots__ = ("clear", "ref_id", "rows", "venue_seq")

    def __init__(self, clear: bool, venue_seq: int, ref_id: int) -> None:
        self.clear, self.venue_seq, self.ref_id = clear, venue_seq, ref_id
        self.rows: list[_Row] = []


class OfflineBook:
    """A book as two dicts from price to size; docs/wire.md has the rules of the update ids.

    A diff with update ids waits until there is a snapshot, and after a gap until there is the next one. What waits is
    judged again, in order, after the snapshot.
    """

    def __init__(self) -> None:
        self.sides: dict[int, dict[int, int]] = {Side.BID: {}, Side.ASK: {}}
        self.last_update_id = 0
        self.live = False
        self._waiting: list[_Event] = []

    def apply(self, event: _Event) -> None:
        if event.clear:
            self._start(event)
        elif self._waiting or (event.venue_seq and not self.live):
            self._waiting.append(event)
        else:
            self._judge(event)

    def _start(self, event: _Event) -> None:
        for side in self.sides.values():
            side.clear()
        self._put(event)
        waiting, self._waiting = self._waiting, []
        for diff in waiting:
            self.apply(diff)

    def _judge(self, diff: _Event) -> None:
        if diff.venue_seq == 0:
            last = self.last_update_id
            self._put(diff)
            self.last_update_id = last
        elif diff.venue_seq <= self.last_update_id:
            return
        elif diff.ref_id > self.last_update_id:
            self._waiting.append(diff)
        else:
            self._put(diff)

    def _put(self, event: _Event) -> None:
        sides = self.sides
        for side, price, size, action in event.rows:
            if side in sides:
                if size == 0 or action == Action.DELETE:
                    sides[side].pop(price, None)
                else:
                    sides[side][price] = size
        self.last_update_id = event.venue_seq
        self.live = True

    def levels(self) -> tuple[Levels, Levels]:
        """Bids and asks, shape (m, 2), best first."""
        bids, asks = sorted(self.sides[Side.BID].items(), reverse=True), sorted(self.sides[Side.ASK].items())
        return np.array(bids, np.int64).reshape(-1, 2), np.array(asks, np.int64).reshape(-1, 2)


def _kept(ticks: TickArray) -> NDArray[np.bool_]:
    """Rows that a state keeps: no single orders, and bars only of the lengths that have a facet."""
    kind = ticks["kind"]
    odd_bar = (kind == Kind.BAR) & ~np.isin(ticks["ref_id"], list(facets.BAR_INTERVALS_S.values()))
    kept: NDArray[np.bool_] = (kind != Kind.ORDER) & ~odd_bar
    return kept


class OfflineFold:
    """Folds TICK batches whose instrument_id indexes `texts`; batches may end inside an event.

    Cost: some 30 ns a row, a book row 0.5 us. Control rows (instrument -1) are passed over.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)
        n = len(self._texts)
        self._rows = np.zeros(n, np.int64)
        self._trade = np.zeros(n, TICK)  # the last row of each kind; kind 0 = none yet
        self._quote = np.zeros(n, TICK)
        self._bid = np.zeros(n, TICK)
        self._ask = np.zeros(n, TICK)
        self.bars = BarFold()
        self._venue_bars: dict[tuple[int, int], BarsFinal] = {}  # by instrument and facet
        self._books: dict[int, OfflineBook] = {}
        self._open: dict[int, _Event] = {}  # events whose last row is still to come

    def update(self, ticks: TickArray) -> None:
        """Take further rows, TICK[n], in order."""
        ids, kind, side = ticks["instrument_id"], ticks["kind"], ticks["side"]
        self._rows += np.bincount(ids[(ids >= 0) & _kept(ticks)], minlength=len(self._rows))
        quote = kind == Kind.QUOTE
        self._keep_last(self._trade, ticks, kind == Kind.TRADE)
        self._keep_last(self._quote, ticks, quote)
        self._keep_last(self._bid, ticks, quote & (side == Side.BID))
        self._keep_last(self._ask, ticks, quote & (side == Side.ASK))
        self.bars.update(ticks)
        self._update_venue_bars(ticks[kind == Kind.BAR])
        self._update_books(ticks[kind == Kind.BOOK])

    def _update_venue_bars(self, rows: TickArray) -> None:
        facet_of = {seconds: facets.FIRST_BAR + n for n, seconds in enumerate(facets.BAR_INTERVALS_S.values())}
        columns = ("instrument_id", "ref_id", "side", "price", "size", "venue_seq")
        for i, seconds, field, price, size, start_ns in zip(*(rows[name].tolist() for name in columns), strict=True):
            if (facet := facet_of.get(seconds)) is None:
                continue
            before = self._venue_bars.get((i, facet), BarsFinal(facet, 0, (0, 0, 0, 0, 0, 0)))
            last = list(before.last)
            last[min(field, 3)] = price
            if field == 3:
                last[4:] = size, start_ns
            self._venue_bars[i, facet] = BarsFinal(
                facet, before.n + 1, (last[0], last[1], last[2], last[3], last[4], last[5])
            )

    def _keep_last(self, kept: TickArray, ticks: TickArray, wanted: NDArray[np.bool_]) -> None:
        index = np.flatnonzero(wanted)
        last = np.full(len(kept), -1)
        last[ticks["instrument_id"][index]] = index  # of equal ids NumPy keeps what is assigned last
        found = last >= 0
        kept[found] = ticks[last[found]]

    def _update_books(self, rows: TickArray) -> None:
        columns = ("instrument_id", "action", "side", "price", "size", "flags", "venue_seq", "ref_id")
        for i, action, side, price, size, flags, venue_seq, ref_id in zip(
            *(rows[name].tolist() for name in columns), strict=True
        ):
            event = self._open.get(i)
            if event is None:
                event = self._open[i] = _Event(action == Action.CLEAR, venue_seq, ref_id)
            event.rows.append((side, price, size, action))
            if flags & Flag.LAST:
                del self._open[i]
                book = self._books.get(i)
                if book is None:
                    book = self._books[i] = OfflineBook()
                book.apply(event)

    def finals(self) -> list[InstrumentFinal]:
        """Instruments that have rows, in the order of `texts`."""
        nothing = OfflineBook()
        out = []
        bars = self._bars()
        for i, text in enumerate(self._texts):
            if self._rows[i]:
                bids, asks = self._books.get(i, nothing).levels()
                out.append(
                    InstrumentFinal(
                        text, int(self._rows[i]), self._last_trade(i), self._last_quote(i), bids, asks,
                        tuple(sorted(bars.get(i, {}).values())),
                    )
                )  # fmt: skip
        return out

    def _bars(self) -> dict[int, dict[int, BarsFinal]]:
        """By instrument and facet; a venue's own bars of a length stand instead of those made of trades."""
        found: dict[int, dict[int, BarsFinal]] = {}
        for i, interval, last, count, checksum in self.bars.finals():
            facet = facets.FIRST_BAR + interval
            start, opened, high, low, close, volume, _ = last
            start_ns = start * INTERVALS_S[interval] * SECOND_NS
            made = BarsFinal(facet, count, (opened, high, low, close, volume, start_ns), checksum)
            found.setdefault(i, {})[facet] = made
        for (i, facet), venue in self._venue_bars.items():
            made = found.setdefault(i, {}).get(facet, venue)
            found[i][facet] = venue._replace(checksum=made.checksum)
        return found

    def _last_trade(self, i: int) -> Numbers | None:
        row = self._trade[i]
        if not row["kind"]:
            return None
        return int(row["price"]), int(row["size"]), int(row["side"]), int(row["ref_id"]), int(row["ts_event"])

    def _last_quote(self, i: int) -> Numbers | None:
        if not self._quote[i]["kind"]:
            return None
        sides = []
        for row in (self._bid[i], self._ask[i]):
            gone = row["action"] == Action.DELETE
            sides += [0, 0] if gone else [int(row["price"]), int(row["size"])]
        return sides[0], sides[1], sides[2], sides[3], int(self._quote[i]["venue_seq"])
