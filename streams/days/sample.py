"""A small made-up day: a quarter of an hour of spot and perpetual markets on four venues, the same for the same seed.

It is made to hold every kind of row a venue sends rather than to be a model of a market: clustered arrivals and a
shock, books whose first diffs come before the snapshot, venue clocks that run apart, polled funding and ratios.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.market.instruments import DEFAULT_EXPONENT, SMALL_PRICE_SIZE_EXPONENT, Instrument
from models.market.tick import TICK, Action, Flag, Kind, Side
from streams.days.day import Day
from streams.days.manifest import Origin
from streams.days.sample_times import sample_times
from streams.days.writer import DayWriter

START_NS = 1_760_000_000 * 10**9
LENGTH_S = 900
_DEPTH = 10  # levels a side
_S = 10**9

_SHOCK_EVENTS, _SHOCK_S = 250, 0.06

# venue, market type, symbol, price, tick, usual trade size
_MARKETS = (
    ("binance", "perpetual", "BTC-USDT", "64000", "0.1", "0.05"),
    ("binance", "spot", "BTC-USDT", "64010", "0.01", "0.02"),
    ("okx", "perpetual", "BTC-USDT", "64002", "0.1", "0.1"),
    ("binance", "perpetual", "ETH-USDT", "3100", "0.01", "0.5"),
    ("binance", "spot", "ETH-USDT", "3100.5", "0.01", "0.3"),
    ("bybit", "perpetual", "BTC-USDT", "64001", "0.1", "0.05"),
    ("okx", "spot", "BTC-USDT", "64009", "0.1", "0.02"),
    ("okx", "perpetual", "ETH-USDT", "3100.2", "0.01", "1"),
    ("binance", "perpetual", "SOL-USDT", "145", "0.01", "4"),
    ("deribit", "perpetual", "BTC-USD", "63995", "0.5", "100"),
    ("binance", "spot", "SOL-USDT", "145.1", "0.01", "3"),
    ("okx", "spot", "ETH-USDT", "3100.4", "0.01", "0.3"),
    ("binance", "perpetual", "DOGE-USDT", "0.18", "0.00001", "900"),
    ("binance", "spot", "DOGE-USDT", "0.1801", "0.00001", "700"),
    ("binance", "spot", "SHIB-USDT", "0.00001712", "0.00000001", "2500000"),
    ("deribit", "perpetual", "ETH-USD", "3099", "0.05", "200"),
)
_SHIB = 14


@dataclass
class _Market:
    """One instrument's state; prices in ticks, the best bid is `bid`, the best ask one tick above."""

    id: int
    instrument: Instrument
    tick: int
    lot: int
    bid: int
    bids: dict[int, int]
    asks: dict[int, int]
    lag_ns: int  # how far behind the venue's clock events are received
    update_id: int
    trade_id: int = 0
    open_interest: int = 0


class _Rows:
    """Events as rows; the last row of each gets flag LAST."""

    def __init__(self) -> None:
        self.all: list[tuple[int, ...]] = []

    def event(self, market: _Market, recv: int, kind: Kind, rows: list[tuple[int, ...]], flags: int = 0) -> None:
        """Add an event; `rows` are (action, side, price, size, venue_seq, ref_id)."""
        for number, (action, side, price, size, venue_seq, ref_id) in enumerate(rows, 1):
            last = Flag.LAST if number == len(rows) else 0
            stamps = (recv - market.lag_ns, recv, 0, venue_seq)
            self.all.append((*stamps, price, size, ref_id, market.id, kind, action, side, flags | last))


def make_sample(path: str | Path, seed: int) -> Day:
    """Write the sample day of this seed.

    Raises:
        FileExistsError: there is something at `path`.
    """
    rng = np.random.default_rng(seed)
    markets = [_market(index, rng) for index in range(len(_MARKETS))]
    rows = _Rows()
    _open(markets, rows, rng)
    plan = _schedule(markets, rng)
    for recv, act, market in sorted(plan, key=lambda entry: entry[0]):
        act(market, recv, rows, rng)
    with DayWriter(path, name=f"sample-{seed}", origin=Origin(generator="sample", seed=seed)) as writer:
        writer.append(np.array(rows.all, TICK))
        return writer.finish([market.instrument for market in markets])


def _mantissa(text: str, exponent: int = DEFAULT_EXPONENT) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole + fraction.ljust(-exponent, "0"))


def _market(index: int, rng: np.random.Generator) -> _Market:
    venue, market_type, symbol, price, tick, lot = _MARKETS[index]
    size_exp = SMALL_PRICE_SIZE_EXPONENT if index == _SHIB else DEFAULT_EXPONENT
    instrument = Instrument(venue, market_type, symbol, size_exp=size_exp, tick=tick)
    market = _Market(
        index,
        instrument,
        tick=_mantissa(tick),
        lot=_mantissa(lot, size_exp),
        bid=_mantissa(price) // _mantissa(tick),
        bids={},
        asks={},
        lag_ns=int(rng.integers(-40, 60)) * 1_000_000,  # venue clocks run apart, some ahead of ours
        update_id=int(rng.integers(10**9, 5 * 10**9)),
        open_interest=_mantissa(lot, size_exp) * 20_000,
    )
    for level in range(_DEPTH):
        market.bids[market.bid - level] = _size(market, rng)
        market.asks[market.bid + 1 + level] = _size(market, rng)
    return market


def _size(market: _Market, rng: np.random.Generator) -> int:
    """Sizes have the heavy tail of trade sizes (exponent 1.6), on a grid of a hundredth of the usual one."""
    return max(market.lot // 100, 1) * int(min(50 * (1 + rng.pareto(1.6)), 100_000))


def _open(markets: list[_Market], rows: _Rows, rng: np.random.Generator) -> None:
    """Each book's beginning. On every third two diffs come before the snapshot, which holds only the first of them."""
    for market in markets:
        recv = START_NS + market.id * 20_000_000
        if market.id % 3 == 0:
            _change(market, recv, rows, rng)
            seen = dict(market.bids), dict(market.asks), market.update_id
            _change(market, recv + 3_000_000, rows, rng)
        else:
            seen = market.bids, market.asks, market.update_id
        _snapshot(market, recv + 9_000_000, rows, *seen)


def _snapshot(
    market: _Market, recv: int, rows: _Rows, bids: dict[int, int], asks: dict[int, int], update_id: int
) -> None:
    levels: list[tuple[int, ...]] = [(Action.CLEAR, Side.NONE, 0, 0, update_id, 0)]
    for side, book in ((Side.BID, sorted(bids.items(), reverse=True)), (Side.ASK, sorted(asks.items()))):
        levels += [(Action.ADD, side, price * market.tick, size, update_id, 0) for price, size in book]
    rows.event(market, recv, Kind.BOOK, levels, Flag.SNAPSHOT | Flag.MBP)


def _change(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator, move: int = 0) -> None:
    """A diff (a level a side more or less when the price moves a tick, else new sizes), then the quote that follows."""
    touched: dict[tuple[int, int], int] = {}
    if move:
        market.bid += move
        gone, come = (market.asks, market.bids) if move > 0 else (market.bids, market.asks)
        best = market.bid if move > 0 else market.bid + 1
        gone.pop(best, None)
        come[best] = _size(market, rng)
        far_bid, far_ask = market.bid - _DEPTH + 1, market.bid + _DEPTH
        touched |= {(side, best): (market.bids if side == Side.BID else market.asks).get(best, 0) for side in (1, 2)}
        for side, book, far, beyond in ((1, market.bids, far_bid, far_bid - 1), (2, market.asks, far_ask, far_ask + 1)):
            if far not in book:
                book[far] = touched[side, far] = _size(market, rng)
            if book.pop(beyond, None):
                touched[side, beyond] = 0
    for _ in range(int(rng.integers(1, 3))):
        side = int(rng.integers(1, 3))
        step = min(int(rng.exponential(1.5)), _DEPTH - 1)
        price = market.bid - step if side == Side.BID else market.bid + 1 + step
        book = market.bids if side == Side.BID else market.asks
        book[price] = touched[side, price] = _size(market, rng)
    before, market.update_id = market.update_id, market.update_id + int(rng.integers(1, 6))
    diff: list[tuple[int, ...]] = [
        (Action.UPDATE if size else Action.DELETE, side, price * market.tick, size, market.update_id, before)
        for (side, price), size in touched.items()
    ]
    rows.event(market, recv, Kind.BOOK, diff, Flag.MBP)
    if (1, market.bid) in touched or (2, market.bid + 1) in touched:
        _quote(market, recv, rows)


def _quote(market: _Market, recv: int, rows: _Rows) -> None:
    bid, ask, u = market.bid, market.bid + 1, market.update_id
    sides: list[tuple[int, ...]] = [
        (Action.UPDATE, Side.BID, bid * market.tick, market.bids[bid], u, 0),
        (Action.UPDATE, Side.ASK, ask * market.tick, market.asks[ask], u, 0),
    ]
    rows.event(market, recv, Kind.QUOTE, sides, Flag.TOB)


def _trade(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator) -> None:
    side = int(rng.integers(1, 3))
    price = market.bid + 1 if side == Side.BID else market.bid  # a buyer takes the ask
    market.trade_id += 1
    row = (Action.TRADE, side, price * market.tick, _size(market, rng), 0, market.trade_id)
    rows.event(market, recv, Kind.TRADE, [row])
    if rng.random() < 0.2:
        _change(market, recv, rows, rng, move=1 if side == Side.BID else -1)


def _message(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator) -> None:
    if rng.random() < 0.31:
        _trade(market, recv, rows, rng)
    else:
        _change(market, recv, rows, rng, move=int(rng.integers(-1, 2)) if rng.random() < 0.1 else 0)


def _liquidation(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator) -> None:
    row = (Action.TRADE, Side.ASK, market.bid * market.tick, 20 * _size(market, rng), 0, 0)
    rows.event(market, recv, Kind.LIQUIDATION, [row])


def _funding(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator) -> None:
    mark = market.bid * market.tick
    next_ns = (recv // (8 * 3600 * _S) + 1) * 8 * 3600 * _S
    rate = int(rng.normal(80_000, 60_000))  # 0.008 %, and it may be negative
    fields = ((rate, next_ns), (mark, 0), (mark + int(rng.normal(0, 2)) * market.tick, 0))
    rows.event(
        market, recv, Kind.FUNDING, [(Action.UPDATE, i, price, 0, 0, ref) for i, (price, ref) in enumerate(fields)]
    )


def _open_interest(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator) -> None:
    market.open_interest += int(rng.normal(0, 40)) * market.lot
    money = market.open_interest * market.bid * market.tick // 10**16  # exponents -9 and -9 to -2
    pair = [(Action.UPDATE, 0, 0, market.open_interest, 0, 0), (Action.UPDATE, 1, money, 0, 0, 0)]
    rows.event(market, recv, Kind.OPEN_INTEREST, list(pair))


def _ratios(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator) -> None:
    for action in (1, 2):  # top positions, all accounts
        long = int(rng.integers(450, 700)) * 1_000_000
        fields = (long, _S - long, long * _S // (_S - long))
        rows.event(market, recv, Kind.LONG_SHORT, [(action, i, v, 0, 0, 0 if i else 300) for i, v in enumerate(fields)])


def _volatility(market: _Market, recv: int, rows: _Rows, rng: np.random.Generator) -> None:
    rows.event(market, recv, Kind.VOLATILITY, [(Action.UPDATE, 0, int(rng.normal(45, 2) * 100) * 10**7, 0, 0, 0)])


_Act = Callable[[_Market, int, _Rows, np.random.Generator], None]


def _schedule(markets: list[_Market], rng: np.random.Generator) -> list[tuple[int, _Act, _Market]]:
    """What happens when, unordered: messages in clusters, a shock on all markets, liquidations after it, polls."""
    times, ids = sample_times(len(markets), LENGTH_S, rng)
    shock_s = LENGTH_S * 0.6
    shock = shock_s + np.sort(rng.random(_SHOCK_EVENTS)) * _SHOCK_S
    times = np.concatenate([times, shock])
    ids = np.concatenate([ids, rng.integers(0, len(markets), _SHOCK_EVENTS)])
    begin = START_NS + _S  # after the snapshots
    plan: list[tuple[int, _Act, _Market]] = [
        (begin + int(second * 1e9), _message, markets[index])
        for second, index in zip(times.tolist(), ids.tolist(), strict=True)
    ]
    polls: tuple[tuple[_Act, int, Callable[[Instrument], bool]], ...] = (
        (_funding, 30, lambda i: i.market_type == "perpetual"),
        (_open_interest, 30, lambda i: i.market_type == "perpetual"),
        (_ratios, 20, lambda i: i.market_type == "perpetual" and i.venue in ("binance", "bybit")),
        (_volatility, 60, lambda i: i.venue == "deribit"),
    )
    for act, period, wanted in polls:
        for market in markets:
            if wanted(market.instrument):
                offset = int(rng.random() * period * 1e9)
                plan += [(begin + offset + s * _S, act, market) for s in range(0, LENGTH_S - period, period)]
    perpetuals = [market for market in markets if market.instrument.market_type == "perpetual"]
    for _ in range(12):
        at = begin + int((shock_s + _SHOCK_S + rng.exponential(0.5)) * 1e9)
        plan.append((at, _liquidation, perpetuals[int(rng.integers(0, len(perpetuals)))]))
    return plan
