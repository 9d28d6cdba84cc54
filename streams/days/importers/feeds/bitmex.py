"""BitMEX: orderBookL2, quote and trade. Levels are named by an id that only a partial and inserts say the price of.

Source: https://www.bitmex.com/app/wsAPI
"""

from __future__ import annotations

from itertools import groupby

import msgspec

from models.market.tick import Side
from streams.days.importers.feeds.frame import FrameRows, Level, Unreadable, iso, plain, side_of

_SIDES = {"Buy": Side.BID, "Sell": Side.ASK}
_NONE = msgspec.Raw(b"0")
_ABSENT = msgspec.Raw(b"")


class _Level(msgspec.Struct):
    symbol: str
    id: int
    side: str
    price: msgspec.Raw = _ABSENT
    size: msgspec.Raw = _NONE


class _Quote(msgspec.Struct):
    symbol: str
    timestamp: str
    bidPrice: msgspec.Raw = _NONE  # an empty side has none
    bidSize: msgspec.Raw = _NONE
    askPrice: msgspec.Raw = _NONE
    askSize: msgspec.Raw = _NONE


class _Trade(msgspec.Struct):
    symbol: str
    timestamp: str
    side: str
    price: msgspec.Raw
    size: msgspec.Raw


class _Frame(msgspec.Struct):
    table: str = ""
    action: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    filter: dict[str, str] = {}
    success: bool | None = None
    info: str = ""


class Bitmex:
    def __init__(self) -> None:
        self._frame = msgspec.json.Decoder(_Frame).decode
        self._levels = msgspec.json.Decoder(list[_Level]).decode
        self._quotes = msgspec.json.Decoder(list[_Quote]).decode
        self._trades = msgspec.json.Decoder(list[_Trade]).decode
        self._prices: dict[str, dict[int, str]] = {}

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        said = self._frame(text)
        if said.success or said.info:
            return "acknowledgement" if said.success else "welcome"
        if said.table == "orderBookL2":
            return self._take_book(said, frame)
        if said.table == "quote" and said.action in ("partial", "insert"):
            for quote in self._quotes(said.data):
                bid, ask = (plain(quote.bidPrice), plain(quote.bidSize)), (plain(quote.askPrice), plain(quote.askSize))
                frame.quote(f"bitmex:{quote.symbol}", iso(quote.timestamp), bid, ask)
            return None
        if said.table == "trade" and said.action == "partial":
            return "trades before the subscription"
        if said.table == "trade" and said.action == "insert":
            for trade in self._trades(said.data):
                frame.trade(
                    f"bitmex:{trade.symbol}",
                    iso(trade.timestamp),
                    side=side_of(trade.side, _SIDES),
                    price=plain(trade.price),
                    size=plain(trade.size),
                )
            return None
        raise Unreadable(f"table {said.table!r} with action {said.action!r}")

    def _take_book(self, said: _Frame, frame: FrameRows) -> str | None:
        """The venue says no time of a book, so it is the time of receipt."""
        levels = self._levels(said.data)
        if said.action == "partial":
            symbol = said.filter.get("symbol") or (levels[0].symbol if levels else "")
            self._prices[symbol] = {}
            frame.snapshot(f"bitmex:{symbol}", frame.ts_recv, [self._level(level) for level in levels])
            return None
        if said.action not in ("insert", "update", "delete"):
            raise Unreadable(f"action {said.action!r}")
        told = [level for level in levels if level.symbol in self._prices]
        for symbol, group in groupby(told, key=lambda level: level.symbol):
            rows = [self._level(level, gone=said.action == "delete") for level in group]
            frame.diff(f"bitmex:{symbol}", frame.ts_recv, rows)
        return None if told else "updates before the partial"

    def _level(self, level: _Level, *, gone: bool = False) -> Level:
        prices = self._prices[level.symbol]
        if bytes(level.price):
            prices[level.id] = plain(level.price)
        price = prices.pop(level.id, None) if gone else prices.get(level.id)
        if price is None:
            raise Unreadable(f"level {level.id} of {level.symbol} was never said a price of")
        return side_of(level.side, _SIDES), price, "0" if gone else plain(level.size)
