"""Deribit, version 2: book.X.raw, trades.X and ticker.X (which carries the best bid and offer).

Source: https://docs.deribit.com/#subscriptions
"""

from __future__ import annotations

import msgspec

from models.market.tick import Side
from streams.days.importers.feeds.frame import FrameRows, Level, Unreadable, ms, plain, side_of

_SIDES = {"buy": Side.BID, "sell": Side.ASK}
_LEVELS = list[tuple[str, msgspec.Raw, msgspec.Raw]]  # new, change or delete; price; amount
_NONE = msgspec.Raw(b"null")  # an empty side


class _Params(msgspec.Struct):
    channel: str
    data: msgspec.Raw


class _Frame(msgspec.Struct):
    method: str = ""
    params: _Params | None = None
    result: msgspec.Raw = msgspec.Raw(b"")


class _Book(msgspec.Struct):
    type: str
    timestamp: int
    instrument_name: str
    change_id: int
    bids: _LEVELS
    asks: _LEVELS
    prev_change_id: int = 0


class _Trade(msgspec.Struct):
    instrument_name: str
    timestamp: int
    trade_seq: int
    direction: str
    price: msgspec.Raw
    amount: msgspec.Raw


class _Ticker(msgspec.Struct):
    instrument_name: str
    timestamp: int
    best_bid_amount: msgspec.Raw
    best_ask_amount: msgspec.Raw
    best_bid_price: msgspec.Raw = _NONE
    best_ask_price: msgspec.Raw = _NONE


class Deribit:
    def __init__(self) -> None:
        self._frame = msgspec.json.Decoder(_Frame).decode
        self._book = msgspec.json.Decoder(_Book).decode
        self._trades = msgspec.json.Decoder(list[_Trade]).decode
        self._ticker = msgspec.json.Decoder(_Ticker).decode

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        said = self._frame(text)
        if said.method != "subscription" or said.params is None:
            if said.method == "heartbeat" or bytes(said.result):
                return said.method or "acknowledgement"
            raise Unreadable(f"method {said.method!r}")
        channel, data = said.params.channel.partition(".")[0], said.params.data
        if channel == "book":
            self._take_book(self._book(data), frame)
        elif channel == "trades":
            for trade in self._trades(data):
                symbol = f"deribit:{trade.instrument_name}"
                frame.rising(symbol, "trade", trade.trade_seq)
                frame.trade(
                    symbol,
                    ms(trade.timestamp),
                    side=side_of(trade.direction, _SIDES),
                    price=plain(trade.price),
                    size=plain(trade.amount),
                    trade_id=trade.trade_seq,
                )
        elif channel == "ticker":
            ticker = self._ticker(data)
            bid, ask = (
                (_or_zero(price), plain(size))
                for price, size in (
                    (ticker.best_bid_price, ticker.best_bid_amount),
                    (ticker.best_ask_price, ticker.best_ask_amount),
                )
            )
            frame.quote(f"deribit:{ticker.instrument_name}", ms(ticker.timestamp), bid, ask)
        else:
            raise Unreadable(f"channel {said.params.channel!r}")
        return None

    def _take_book(self, book: _Book, frame: FrameRows) -> None:
        symbol, at = f"deribit:{book.instrument_name}", ms(book.timestamp)
        levels = _levels(Side.BID, book.bids) + _levels(Side.ASK, book.asks)
        if book.type == "snapshot":
            frame.snapshot(symbol, at, levels, book.change_id)
        elif book.type == "change":
            frame.rising(symbol, "change", book.change_id)
            frame.diff(symbol, at, levels, update_id=book.change_id, before=book.prev_change_id)
        else:
            raise Unreadable(f"a book of type {book.type!r}")


def _levels(side: Side, levels: _LEVELS) -> list[Level]:
    if unknown := {word for word, _, _ in levels} - {"new", "change", "delete"}:
        raise Unreadable(f"a level that is {unknown.pop()!r}")
    return [(side, plain(price), "0" if word == "delete" else plain(amount)) for word, price, amount in levels]


def _or_zero(price: msgspec.Raw) -> str:
    return "0" if bytes(price) == b"null" else plain(price)
