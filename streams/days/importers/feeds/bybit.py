"""Bybit, its API of 2021: trade and orderBookL2_25.

Source: https://github.com/bybit-exchange/bybit-official-api-docs, websocket of inverse and linear contracts
"""

from __future__ import annotations

import msgspec

from models.market.tick import Side
from streams.days.importers.feeds.frame import FrameRows, Level, Unreadable, ms, ns, plain, side_of

_SIDES = {"Buy": Side.BID, "Sell": Side.ASK}


class _Level(msgspec.Struct):
    price: msgspec.Raw
    side: str
    size: msgspec.Raw = msgspec.Raw(b"0")  # a deleted level has none


class _Snapshot(msgspec.Struct):
    order_book: list[_Level]


class _Delta(msgspec.Struct):
    delete: list[_Level]
    update: list[_Level]
    insert: list[_Level]


class _Trade(msgspec.Struct):
    symbol: str
    price: msgspec.Raw
    size: msgspec.Raw
    side: str
    trade_time_ms: msgspec.Raw  # a text in linear contracts


class _Frame(msgspec.Struct):
    topic: str = ""
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    timestamp_e6: msgspec.Raw = msgspec.Raw(b"")
    success: bool | None = None
    ret_msg: str = ""


class Bybit:
    def __init__(self) -> None:
        self._frame = msgspec.json.Decoder(_Frame).decode
        self._delta = msgspec.json.Decoder(_Delta).decode
        self._trades = msgspec.json.Decoder(list[_Trade]).decode
        self._snapshot = msgspec.json.Decoder(_Snapshot | list[_Level]).decode

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        said = self._frame(text)
        if said.success is not None:
            if not said.success:
                raise Unreadable(f"refused: {said.ret_msg}")
            return "acknowledgement"
        channel, _, symbol = said.topic.partition(".")
        name = f"bybit:{symbol}"
        if channel == "trade":
            for trade in self._trades(said.data):
                frame.trade(
                    f"bybit:{trade.symbol}",
                    ms(_whole(trade.trade_time_ms)),
                    side=side_of(trade.side, _SIDES),
                    price=plain(trade.price),
                    size=plain(trade.size),
                )
        elif channel == "orderBookL2_25" and said.type == "snapshot":
            book = self._snapshot(said.data)
            levels = book.order_book if isinstance(book, _Snapshot) else book
            frame.snapshot(name, ns(_whole(said.timestamp_e6), 1000), _levels(levels))
        elif channel == "orderBookL2_25" and said.type == "delta":
            delta = self._delta(said.data)
            gone = [(side, price, "0") for side, price, _ in _levels(delta.delete)]
            levels = gone + _levels(delta.update) + _levels(delta.insert)
            frame.diff(name, ns(_whole(said.timestamp_e6), 1000), levels)
        else:
            raise Unreadable(f"topic {said.topic!r} of type {said.type!r}")
        return None


def _levels(levels: list[_Level]) -> list[Level]:
    return [(side_of(level.side, _SIDES), plain(level.price), plain(level.size)) for level in levels]


def _whole(number: msgspec.Raw) -> int:
    text = plain(number)
    if not text.isdigit():
        raise Unreadable(f"{text[:40]!r} is not a time")
    return int(text)
