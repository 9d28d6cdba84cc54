"""JSON ticks as they are written (`md.json.v1`): one struct a type, and what rows each becomes.

A struct checks names and types while it is decoded. Its `event` yields the rows' numbers still as text, so that a whole
batch is converted at once; `prices` tells what an unknown instrument's prices look like.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Literal, get_args

import msgspec

from models.errors import TickRefused
from models.market.facets import BAR_INTERVALS_S
from models.market.fixed_point import MAX
from models.market.tick import Action, Flag, Kind, Side

NS_PER_MS = 1_000_000
_PERIOD = re.compile(r"([0-9]{1,12})([smhdw]?)", re.ASCII)
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}

LONG_SHORT_ACTION = {"lsr_top_position": 1, "lsr_all_account": 2}


def _shape(kind: Kind, action: int, side: int = 0, flags: int = 0) -> bytes:
    """The last four bytes of a row: kind, action, side, flags."""
    return bytes((kind, action, side, flags))


_TRADES = {None: Side.NONE, "buy": Side.BID, "sell": Side.ASK}
_TRADE = {word: _shape(Kind.TRADE, Action.TRADE, side) for word, side in _TRADES.items()}
_LIQUIDATION = {word: _shape(Kind.LIQUIDATION, Action.TRADE, side) for word, side in _TRADES.items()}
_QUOTE = b"".join(_shape(Kind.QUOTE, Action.UPDATE, side, Flag.TOB) for side in (Side.BID, Side.ASK))
_WHOLE = Flag.SNAPSHOT | Flag.MBP
_CLEAR, _ADD_BID, _ADD_ASK = (
    _shape(Kind.BOOK, action, side, _WHOLE) for action, side in ((Action.CLEAR, 0), (Action.ADD, 1), (Action.ADD, 2))
)
_NO_LEVEL, _SET_BID, _SET_ASK = (_shape(Kind.BOOK, Action.UPDATE, side, Flag.MBP) for side in range(3))
_FUNDING = [_shape(Kind.FUNDING, Action.UPDATE, field) for field in range(3)]
_INTEREST, _MONEY = (_shape(Kind.OPEN_INTEREST, Action.UPDATE, field) for field in range(2))
_VOLATILITY = _shape(Kind.VOLATILITY, Action.UPDATE)
_LONG_SHORT = {a: b"".join(_shape(Kind.LONG_SHORT, a, field) for field in range(3)) for a in (1, 2)}
_BAR = b"".join(_shape(Kind.BAR, Action.UPDATE, field) for field in range(4))


# A tick's rows before their numbers are converted (a plain tuple: a named one costs 0.2 us more a record):
#   shapes   4 bytes a row (`_shape`), without LAST; a size of 0 is not a delete yet
#   numbers  two decimal strings a row, price and size; "0" where the row has none
#   venue_seq of all rows; ref_id of the first row (which kinds repeat it is json_rows' business)
Event = tuple[bytes, tuple[str, ...], int, int]


class JsonTick(msgspec.Struct, tag_field="data_type", kw_only=True, gc=False):
    """What every type has; a null counts as absent."""

    exchange: str
    market_type: str
    symbol: str
    ts_ms: int | None = None
    ts_ns: int | None = None
    collected_ts_ms: int | None = None
    collected_ts_ns: int | None = None

    def event(self, latest_ns: int) -> Event:
        """Rows of this tick; `latest_ns` bounds instants that cannot lie ahead.

        Raises:
            TickRefused: a field that is no decimal (an id, an interval, an instant) cannot be kept.
        """
        raise NotImplementedError

    def prices(self) -> tuple[str | None, ...]:
        """Texts among which the first that is neither absent nor zero is a price of the instrument."""
        return ()


class Trade(JsonTick, tag="trade", kw_only=True, gc=False):
    price: str
    quantity: str
    side: Literal["buy", "sell"] | None = None
    trade_id: Any = None

    def event(self, latest_ns: int) -> Event:
        return _TRADE[self.side], (self.price, self.quantity), 0, _trade_reference(self.trade_id)

    def prices(self) -> tuple[str | None, ...]:
        return (self.price,)


class Liquidation(JsonTick, tag="liquidation", kw_only=True, gc=False):
    price: str
    quantity: str
    side: Literal["buy", "sell"] | None = None

    def event(self, latest_ns: int) -> Event:
        return _LIQUIDATION[self.side], (self.price, self.quantity), 0, 0

    def prices(self) -> tuple[str | None, ...]:
        return (self.price,)


class Quote(JsonTick, tag="quote", kw_only=True, gc=False):
    bid_price: str
    bid_quantity: str
    ask_price: str
    ask_quantity: str
    last_update_id: int | str | None = None

    def event(self, latest_ns: int) -> Event:
        numbers = (self.bid_price, self.bid_quantity, self.ask_price, self.ask_quantity)
        return _QUOTE, numbers, _update_id(self.last_update_id, "last_update_id"), 0

    def prices(self) -> tuple[str | None, ...]:
        return (self.bid_price, self.ask_price)


class Level(msgspec.Struct, gc=False):
    """A book level written as an object; iterates as (price, quantity), like one written as a pair."""

    price: str
    quantity: str

    def __iter__(self) -> Iterator[str]:
        return iter((self.price, self.quantity))


class OrderBook(JsonTick, tag="orderbook", kw_only=True, gc=False):
    update_type: Literal["snapshot", "delta"]
    bids: list[tuple[str, str] | Level]
    asks: list[tuple[str, str] | Level]
    first_update_id: int | str | None = None
    last_update_id: int | str | None = None
    prev_update_id: int | str | None = None

    def event(self, latest_ns: int) -> Event:
        last = _update_id(self.last_update_id, "last_update_id")
        levels = chain.from_iterable(chain(self.bids, self.asks))
        n_bids, n_asks = len(self.bids), len(self.asks)
        if self.update_type == "snapshot":
            return _CLEAR + _ADD_BID * n_bids + _ADD_ASK * n_asks, ("0", "0", *levels), last, 0
        if self.prev_update_id is not None:
            before = _update_id(self.prev_update_id, "prev_update_id", lowest=-1)  # some venues write -1 for none
        else:
            before = _update_id(self.first_update_id, "first_update_id") - 1
        if n_bids + n_asks == 0:
            return _NO_LEVEL, ("0", "0"), last, max(before, 0)
        return _SET_BID * n_bids + _SET_ASK * n_asks, tuple(levels), last, max(before, 0)

    def prices(self) -> tuple[str | None, ...]:
        return tuple(next(iter(level)) for level in chain(self.bids, self.asks))


class FundingRate(JsonTick, tag="funding_rate", kw_only=True, gc=False):
    funding_rate: str
    next_funding_ts_ms: int | None = None
    mark_price: str | None = None
    index_price: str | None = None

    def event(self, latest_ns: int) -> Event:
        fields = (self.funding_rate, self.mark_price, self.index_price)
        shapes = b"".join(shape for shape, text in zip(_FUNDING, fields, strict=True) if text is not None)
        numbers = chain.from_iterable((text, "0") for text in fields if text is not None)
        due = self.next_funding_ts_ms
        return shapes, tuple(numbers), 0, 0 if due is None else _instant_ns(due, "next_funding_ts_ms", MAX)

    def prices(self) -> tuple[str | None, ...]:
        return (self.mark_price, self.index_price)


class OpenInterest(JsonTick, tag="open_interest", kw_only=True, gc=False):
    open_interest_value: str
    open_interest_usd: str | None = None

    def event(self, latest_ns: int) -> Event:
        if self.open_interest_usd is None:
            return _INTEREST, ("0", self.open_interest_value), 0, 0
        return _INTEREST + _MONEY, ("0", self.open_interest_value, self.open_interest_usd, "0"), 0, 0


class VolatilityIndex(JsonTick, tag="volatility_index", kw_only=True, gc=False):
    volatility_index: str

    def event(self, latest_ns: int) -> Event:
        return _VOLATILITY, (self.volatility_index, "0"), 0, 0


class _LongShort(JsonTick, kw_only=True, gc=False):
    long_ratio: str
    short_ratio: str
    long_short_ratio: str
    period: str | int | None = None

    def _event(self, action: int) -> Event:
        numbers = (self.long_ratio, "0", self.short_ratio, "0", self.long_short_ratio, "0")
        return _LONG_SHORT[action], numbers, 0, _period_s(self.period)


class TopPositions(_LongShort, tag="lsr_top_position", kw_only=True, gc=False):
    def event(self, latest_ns: int) -> Event:
        return self._event(LONG_SHORT_ACTION["lsr_top_position"])


class AllAccounts(_LongShort, tag="lsr_all_account", kw_only=True, gc=False):
    def event(self, latest_ns: int) -> Event:
        return self._event(LONG_SHORT_ACTION["lsr_all_account"])


class Bar(JsonTick, tag="ohlcv", kw_only=True, gc=False):
    interval: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    start_ts_ms: int

    def event(self, latest_ns: int) -> Event:
        interval_s = BAR_INTERVALS_S.get(self.interval)
        if interval_s is None:
            raise TickRefused("bad_number", f"interval {self.interval[:40]!r} is none of {', '.join(BAR_INTERVALS_S)}")
        numbers = (self.open, "0", self.high, "0", self.low, "0", self.close, self.volume)
        return _BAR, numbers, _instant_ns(self.start_ts_ms, "start_ts_ms", latest_ns), interval_s

    def prices(self) -> tuple[str | None, ...]:
        return (self.close,)


_AnyTick = (
    Trade
    | Quote
    | OrderBook
    | FundingRate
    | OpenInterest
    | Liquidation
    | VolatilityIndex
    | TopPositions
    | AllAccounts
    | Bar
)
TYPES: dict[str, type[JsonTick]] = {str(tick.__struct_config__.tag): tick for tick in get_args(_AnyTick)}
decode: Callable[[bytes], JsonTick] = msgspec.json.Decoder(_AnyTick).decode


def _trade_reference(trade_id: object) -> int:
    """Trade ids are names that happen to be numbers at most venues; any other is worth 0, not a refusal."""
    if isinstance(trade_id, str) and len(trade_id) <= 20 and trade_id.isascii():
        digits = trade_id[1:] if trade_id[:1] == "-" else trade_id
        trade_id = int(trade_id) if digits.isdigit() else 0
    return trade_id if type(trade_id) is int and -MAX <= trade_id <= MAX else 0


def _update_id(value: int | str | None, name: str, lowest: int = 0) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit()):
            raise TickRefused("bad_number", f"{name} {value[:40]!r} is not an integer")
        value = int(value) if len(value) <= 19 else MAX + 1
    if not lowest <= value <= MAX:
        raise TickRefused("out_of_range", f"{name} is not within {lowest} and 2**63 - 1")
    return value


def _instant_ns(ts_ms: int, name: str, latest_ns: int) -> int:
    if not 0 <= ts_ms <= latest_ns // NS_PER_MS:
        raise TickRefused("bad_time", f"{name} is before 1970 or too far ahead")
    return ts_ms * NS_PER_MS


def _period_s(period: str | int | None) -> int:
    """Seconds of "5m", "1h", "300" or 300; 0 if absent."""
    if period is None:
        return 0
    match = _PERIOD.fullmatch(str(period))
    if match is None:
        raise TickRefused("bad_number", f"period {str(period)[:40]!r} is not such as '5m'")
    return int(match[1]) * _UNIT_S[match[2]]
