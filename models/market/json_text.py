"""Rows of one event back to the JSON tick they could have come from: the way back of `json_tick`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from models.market.decimals import decimal_text
from models.market.facets import BAR_INTERVALS_S
from models.market.instruments import MONEY_EXPONENT, Instrument
from models.market.json_records import LONG_SHORT_ACTION, NS_PER_MS
from models.market.tick import Action, Kind, Side, TickArray

Fields = Mapping[str, object]

_SIDES: dict[int, Fields] = {Side.NONE: {}, Side.BID: {"side": "buy"}, Side.ASK: {"side": "sell"}}
_LONG_SHORT = {action: data_type for data_type, action in LONG_SHORT_ACTION.items()}
_INTERVALS = {seconds: name for name, seconds in BAR_INTERVALS_S.items()}


def to_json(ticks: TickArray, instrument: Instrument) -> bytes:
    """One JSON tick; parsed with the same exponents it gives these rows again, but for `seq` and `instrument_id`.

    Args:
        ticks: TICK[n], all rows of one event.
        instrument: theirs, with the exponents of their mantissas.

    Raises:
        ValueError: the event has no JSON form (control rows, single orders, a quote of one side, no rows), or a time
            that JSON ticks give in milliseconds has a finer part.
    """
    kind = int(ticks["kind"][0]) if len(ticks) else 0
    fields_of = _FIELDS.get(kind)
    if fields_of is None or (ticks["kind"] != kind).any():
        raise ValueError(f"{len(ticks)} rows of kind {kind} have no JSON form")
    record: Fields = {
        "exchange": instrument.venue,
        "market_type": instrument.market_type,
        "symbol": instrument.symbol,
        "ts_ns": int(ticks["ts_event"][0]),
        "collected_ts_ns": int(ticks["ts_recv"][0]),
    }
    prices = [decimal_text(mantissa, instrument.price_exp) for mantissa in ticks["price"].tolist()]
    sizes = [decimal_text(mantissa, instrument.size_exp) for mantissa in ticks["size"].tolist()]
    return msgspec.json.encode({**record, **fields_of(ticks, prices, sizes)})


def _trade(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    (row,) = ticks
    data_type = "trade" if row["kind"] == Kind.TRADE else "liquidation"
    trade_id = {"trade_id": str(row["ref_id"])} if row["ref_id"] else {}
    return {"data_type": data_type, "price": prices[0], "quantity": sizes[0], **_SIDES[int(row["side"])], **trade_id}


def _quote(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    if ticks["side"].tolist() != [Side.BID, Side.ASK]:
        raise ValueError("a quote without both sides has no JSON form")
    numbers = {"bid_price": prices[0], "bid_quantity": sizes[0], "ask_price": prices[1], "ask_quantity": sizes[1]}
    return {"data_type": "quote", **numbers, **_present(last_update_id=ticks["venue_seq"][0])}


def _book(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    first = ticks[0]
    levels = list(zip(ticks["side"].tolist(), prices, sizes, strict=True))
    sides = {
        name: [(price, size) for side, price, size in levels if side == number]
        for name, number in (("bids", Side.BID), ("asks", Side.ASK))
    }
    update_type = "snapshot" if first["action"] == Action.CLEAR else "delta"
    ids = _present(last_update_id=first["venue_seq"], prev_update_id=first["ref_id"])
    return {"data_type": "orderbook", "update_type": update_type, **sides, **ids}


def _funding(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    names = ("funding_rate", "mark_price", "index_price")
    numbers = {names[side]: price for side, price in zip(ticks["side"].tolist(), prices, strict=True)}
    due = {"next_funding_ts_ms": _milliseconds(ticks["ref_id"][0])} if ticks["ref_id"][0] else {}
    return {"data_type": "funding_rate", **numbers, **due}


def _open_interest(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    total = {"open_interest_usd": decimal_text(int(ticks["price"][1]), MONEY_EXPONENT)} if len(ticks) > 1 else {}
    return {"data_type": "open_interest", "open_interest_value": sizes[0], **total}


def _volatility(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    return {"data_type": "volatility_index", "volatility_index": prices[0]}


def _long_short(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    ratios = dict(zip(("long_ratio", "short_ratio", "long_short_ratio"), prices, strict=True))
    period = {"period": f"{ticks['ref_id'][0]}s"} if ticks["ref_id"][0] else {}
    return {"data_type": _LONG_SHORT[int(ticks["action"][0])], **ratios, **period}


def _bar(ticks: TickArray, prices: list[str], sizes: list[str]) -> Fields:
    numbers = dict(zip(("open", "high", "low", "close"), prices, strict=True))
    interval = _INTERVALS[int(ticks["ref_id"][0])]
    start = _milliseconds(ticks["venue_seq"][0])
    return {"data_type": "ohlcv", "interval": interval, "start_ts_ms": start, **numbers, "volume": sizes[3]}


_FIELDS: dict[int, Callable[[TickArray, list[str], list[str]], Fields]] = {
    Kind.TRADE: _trade,
    Kind.LIQUIDATION: _trade,
    Kind.QUOTE: _quote,
    Kind.BOOK: _book,
    Kind.FUNDING: _funding,
    Kind.OPEN_INTEREST: _open_interest,
    Kind.VOLATILITY: _volatility,
    Kind.LONG_SHORT: _long_short,
    Kind.BAR: _bar,
}


def _present(**ids: np.int64) -> Fields:
    return {name: int(value) for name, value in ids.items() if value}


def _milliseconds(instant_ns: np.int64) -> int:
    whole, rest = divmod(int(instant_ns), NS_PER_MS)
    if rest:
        raise ValueError(f"instant {instant_ns} ns is no whole millisecond")
    return whole
