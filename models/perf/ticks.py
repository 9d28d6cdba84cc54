"""Invented ticks by the million: seeded trades and two-sided quotes.

The shape is that of a crypto venue: a few instruments have most of the events, prices walk on a grid, sizes have a
heavy tail, venues stamp whole milliseconds. What a tick costs depends on such things: they decide how it packs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from models.market.instruments import Instrument
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

START_NS = 1_760_000_000_000_000_000
BATCH_ROWS = 1 << 18

_ZIPF = 0.7  # popularity of the i-th instrument is i ** -0.7, as measured over symbols of a day
_QUOTES = 2 / 3  # share of events that are quotes: two a trade
_MOVES = 0.1  # share of events that move the price by one tick
_SIZE_TAIL = 1.6  # Gopikrishnan et al. 2000, trade sizes
_GAP_NS = 20_000.0  # 50,000 events a second
_MAX_LAG_MS = 50
_MS = 1_000_000


class SeededTicks:
    """An endless source of ticks; the same arguments give the same rows.

    Cost: some 300 ns a row.

    Args:
        n_instruments: how many instruments there are.
        seed: of everything.

    Attributes:
        instruments: definitions; the rows' `instrument_id` is an index into them.
        position: `seq` of the last row that was made; they are dense, 1..N.
    """

    def __init__(self, n_instruments: int, *, seed: int = 7) -> None:
        rng = self._rng = np.random.default_rng(seed)
        n = n_instruments
        self.instruments = [Instrument("bench", "spot", f"I{number:06}-USDT") for number in range(n)]
        self.position = 0
        popularity = np.arange(1, n + 1) ** -_ZIPF
        self._cdf = np.cumsum(popularity) / popularity.sum()
        decade = rng.integers(-1, 5, n)  # of the price: 0.1 to 99,999
        self._tick = 10 ** (decade + 5)  # five digits a price, as mantissa of exponent -9
        self._lot = 10 ** rng.integers(5, 9, n)
        self._lag_ns = rng.integers(1, _MAX_LAG_MS, n) * _MS
        self._bid = rng.integers(10_000, 100_000, n)  # in ticks
        self._trade_id = rng.integers(10**6, 10**9, n)
        self._update_id = rng.integers(10**9, 10**10, n)
        self._recv_ns = START_NS

    def opening(self) -> TickArray:
        """A trade and a quote of every instrument, 3 rows each: afterwards nothing is new to who applied them."""
        ids = np.repeat(np.arange(len(self.instruments)), 2)
        return self._rows(ids, np.tile([False, True], len(self.instruments)))

    def batches(self, n_rows: int, batch_rows: int = BATCH_ROWS) -> Iterator[TickArray]:
        """Exactly `n_rows` further rows, TICK, in batches of whole events."""
        while n_rows > 0:
            ticks = self._batch(min(n_rows, batch_rows))
            n_rows -= len(ticks)
            yield ticks

    def _batch(self, n_rows: int) -> TickArray:
        is_quote = self._rng.random(n_rows) < _QUOTES
        ends = np.cumsum(1 + is_quote)
        n = int(np.searchsorted(ends, n_rows, side="right"))
        if n == 0 or ends[n - 1] < n_rows:  # one row is left: a trade
            is_quote[n] = False
            n += 1
        ids = np.minimum(np.searchsorted(self._cdf, self._rng.random(n)), len(self._cdf) - 1)
        return self._rows(ids, is_quote[:n])

    def _rows(self, ids: NDArray[np.int64], is_quote: NDArray[np.bool_]) -> TickArray:
        """Events as rows."""
        rng, n = self._rng, len(ids)
        order = np.argsort(ids, kind="stable")
        moves = np.where(rng.random(n) < _MOVES, rng.integers(0, 2, n) * 2 - 1, 0)
        bid = _run_on(self._bid, ids, order, moves)
        trade_id = _run_on(self._trade_id, ids, order, (~is_quote).astype(np.int64))
        update_id = _run_on(self._update_id, ids, order, np.where(is_quote, rng.integers(1, 6, n), 0))
        recv_ns = self._recv_ns + np.cumsum(rng.exponential(_GAP_NS, n).astype(np.int64) + 1)
        self._recv_ns = int(recv_ns[-1])

        event = np.repeat(np.arange(n), 1 + is_quote)  # of each row
        m = len(event)
        last = np.append(event[1:] != event[:-1], True)
        quote, who = is_quote[event], ids[event]
        bought = rng.random(m) < 0.5
        on_ask = np.where(quote, last, bought)  # a buyer takes the ask
        ticks = np.zeros(m, TICK)
        ticks["ts_recv"] = recv_ns[event]
        ticks["ts_event"] = (ticks["ts_recv"] - self._lag_ns[who]) // _MS * _MS
        ticks["seq"] = np.arange(self.position + 1, self.position + m + 1)
        ticks["venue_seq"] = np.where(quote, update_id[event], 0)
        ticks["price"] = (bid[event] + on_ask) * self._tick[who]
        ticks["size"] = self._lot[who] * np.minimum(1 + 50 * rng.pareto(_SIZE_TAIL, m), 1e5).astype(np.int64)
        ticks["ref_id"] = np.where(quote, 0, trade_id[event])
        ticks["instrument_id"] = who
        ticks["kind"] = np.where(quote, Kind.QUOTE, Kind.TRADE)
        ticks["action"] = np.where(quote, Action.UPDATE, Action.TRADE)
        # a quote's row on the ask is that side; a trade there was a buyer's
        ticks["side"] = np.where(on_ask == quote, Side.ASK, Side.BID)
        ticks["flags"] = np.where(quote, Flag.TOB, 0) | np.where(last, Flag.LAST, 0)
        self.position += m
        return ticks


class LoopedTicks:
    """The same rows again and again, each time later and at later positions: a source that costs some 20 ns a row.

    Args:
        batches: TICK[n] each, positions 1..N over all of them; they are kept and changed.
    """

    def __init__(self, batches: Iterable[TickArray]) -> None:
        self._batches = list(batches)
        self._turn = 0
        rows, first, last = sum(map(len, self._batches)), self._batches[0], self._batches[-1]
        self._n_rows = np.uint64(rows)
        self._span_ns = (
            int(last["ts_recv"][-1]) - int(first["ts_recv"][0])
        ) // _MS * _MS + _MS  # venues' times: whole ms

    def next(self) -> TickArray:
        """The next batch, valid until it comes again."""
        lap, number = divmod(self._turn, len(self._batches))
        batch = self._batches[number]
        if lap:
            batch["seq"] += self._n_rows
            for time in ("ts_event", "ts_recv"):
                batch[time] += self._span_ns
        self._turn += 1
        return batch


def _run_on(
    totals: NDArray[np.int64], ids: NDArray[np.int64], order: NDArray[np.int64], steps: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Running total of each event's instrument, the event's own step included; `totals` go on to the new ends.

    Args:
        totals: int64[instruments].
        ids, steps: int64[events].
        order: stable order of the events by instrument.
    """
    sorted_ids, sorted_steps = ids[order], steps[order]
    sums = np.cumsum(sorted_steps)
    starts = np.flatnonzero(np.append(True, sorted_ids[1:] != sorted_ids[:-1]))
    before = np.repeat(sums[starts] - sorted_steps[starts], np.diff(np.append(starts, len(ids))))
    running = sums - before + totals[sorted_ids]
    totals[sorted_ids] = running  # of equal ids NumPy keeps what is assigned last
    out = np.empty_like(running)
    out[order] = running
    return out
