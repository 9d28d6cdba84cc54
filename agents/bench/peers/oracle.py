"""What a peer must end with: last trades and quotes, and every bar that its own rule has closed by then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bench.peers.jobs.task import BAR_S, GRACE_S, Bar
from models.errors import MarketPrismError
from models.market.digest import InstrumentFinal
from models.market.instruments import DEFAULT_EXPONENT
from models.market.tick import Kind, TickArray
from models.windows.fold import BarFold

_ONE = 10**-DEFAULT_EXPONENT
_NS_PER_MS = 1_000_000
_SHOWN = 3
_CLOSE_ENOUGH = 1e-9  # a peer's volume is a sum of floats; its prices are compared exactly

Bars = dict[tuple[str, int, int], Bar]  # by instrument, length and start in seconds


def expected_bars(ticks: TickArray, texts: Sequence[str], clocks: NDArray[np.int64]) -> Bars:
    """Bars that are closed after these rows as the peers close them, by trades alone.

    A window of the shortest length is over once a trade of its clock is `GRACE_S` or more behind its end, a longer one
    once a closed bar of the next shorter length begins at or behind its end.

    Args:
        ticks: TICK[n], in log order, no trade late; `instrument_id` is an index into `texts`.
        clocks: int64[instruments], 0, 1, 2...: instruments with the same number share one clock.
    """
    fold = BarFold()
    fold.update(ticks)
    if fold.n_late:
        raise ValueError(f"{fold.n_late} trades are late: the peers may take them, or not")
    trades = ticks[ticks["kind"] == Kind.TRADE]
    newest_s = np.zeros(int(clocks.max()) + 1, np.int64)
    np.maximum.at(newest_s, clocks[trades["instrument_id"]], trades["ts_event"] // _NS_PER_MS // 1000)
    over_s = newest_s - GRACE_S
    windows, bars = fold.windows(), Bars()
    for interval, length_s in enumerate(BAR_S):
        rows = windows[windows[:, 1] == interval]
        start_s, clock = rows[:, 2] * length_s, clocks[rows[:, 0]]
        closed = start_s + length_s <= over_s[clock]
        for row in rows[closed].tolist():
            bar = Bar(texts[row[0]], length_s, row[2] * length_s, *(number / _ONE for number in row[3:8]))
            bars[bar.instrument, length_s, bar.start_s] = bar
        over_s = np.zeros_like(newest_s)
        np.maximum.at(over_s, clock[closed], start_s[closed])
    return bars


def check_bars(job: str, found: Iterable[Bar], expected: Bars) -> None:
    """Raises: MarketPrismError when a bar is wrong, missing, or there twice."""
    left = dict(expected)
    wrong = []
    for bar in found:
        right = left.pop((bar.instrument, bar.length_s, bar.start_s), None)
        if right is None or not _same(bar, right):
            wrong.append(f"{bar} instead of {right}")
    wrong += [f"nothing instead of {bar}" for bar in left.values()]
    _refuse(job, "bars", wrong, len(expected))


def _same(bar: Bar, right: Bar) -> bool:
    prices = (bar.open, bar.high, bar.low, bar.close) == (right.open, right.high, right.low, right.close)
    return prices and math.isclose(bar.volume, right.volume, rel_tol=_CLOSE_ENOUGH)


def check_last(job: str, found: Mapping[str, Mapping[str, Any]], finals: Iterable[InstrumentFinal]) -> None:
    """The last trade and quote of every instrument, as the JSON ticks that a peer kept.

    Raises:
        MarketPrismError: one is not as the ticks that were sent end.
    """
    wrong, left = [], dict(found)
    for final in finals:
        kept = left.pop(final.text, {})
        numbers = (_trade(kept.get("trade")), _quote(kept.get("quote")))
        if numbers != (final.trade, final.quote):
            wrong.append(f"{final.text}: {numbers} instead of {(final.trade, final.quote)}")
    wrong += [f"{text}, of which nothing was sent" for text in left]
    _refuse(job, "last values", wrong, len(found))


def _trade(tick: Mapping[str, Any] | None) -> tuple[int, ...] | None:
    if tick is None:
        return None
    side, ts_event = {"buy": 1, "sell": 2}[tick["side"]], tick["ts_ms"] * _NS_PER_MS
    return _mantissa(tick["price"]), _mantissa(tick["quantity"]), side, int(tick["trade_id"]), ts_event


def _quote(tick: Mapping[str, Any] | None) -> tuple[int, ...] | None:
    if tick is None:
        return None
    names = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")
    return (*(_mantissa(tick[name]) for name in names), tick["last_update_id"])


def _mantissa(text: str) -> int:
    return int(Decimal(text).scaleb(-DEFAULT_EXPONENT))


def _refuse(job: str, what: str, wrong: Sequence[str], n: int) -> None:
    if wrong:
        shown = "; ".join(wrong[:_SHOWN])
        raise MarketPrismError(f"{job} ended with {len(wrong)} wrong {what} (of {n}): {shown}")
