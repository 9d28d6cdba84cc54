"""OKX, version 5: books, trades and tickers (which carry the best bid and offer).

Source: https://www.okx.com/docs-v5/en/#order-book-trading-market-data
"""

from __future__ import annotations

import msgspec

from models.market.tick import Side
from streams.days.importers.feeds.frame import FrameRows, Unreadable, ms, side_of

_SIDES = {"buy": Side.BID, "sell": Side.ASK}
_LEVELS = list[tuple[str, str, str, str]]  # price, size, a field no longer used, number of orders


class _Channel(msgspec.Struct):
    channel: str
    instId: str = ""


class _Frame(msgspec.Struct):
    arg: _Channel | None = None
    event: str = ""
    action: str = ""
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Trade(msgspec.Struct):
    tradeId: str
    px: str
    sz: str
    side: str
    ts: str


class _Ticker(msgspec.Struct):
    askPx: str
    askSz: str
    bidPx: str
    bidSz: str
    ts: str


class _Book(msgspec.Struct):
    asks: _LEVELS
    bids: _LEVELS
    ts: str


class Okx:
    def __init__(self) -> None:
        self._frame = msgspec.json.Decoder(_Frame).decode
        self._trades = msgspec.json.Decoder(list[_Trade]).decode
        self._tickers = msgspec.json.Decoder(list[_Ticker]).decode
        self._books = msgspec.json.Decoder(list[_Book]).decode

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        if text == b"pong":
            return "pong"
        said = self._frame(text)
        if said.event in ("subscribe", "unsubscribe"):
            return said.event
        if said.event or said.arg is None:
            raise Unreadable(f"event {said.event!r}: {said.msg}")
        channel, symbol = said.arg.channel, f"okex:{said.arg.instId}"
        if channel == "trades":
            for trade in self._trades(said.data):
                number = _whole(trade.tradeId)
                frame.rising(symbol, "trade", number)
                at, side = ms(_whole(trade.ts)), side_of(trade.side, _SIDES)
                frame.trade(symbol, at, side=side, price=trade.px, size=trade.sz, trade_id=number)
        elif channel == "tickers":
            for ticker in self._tickers(said.data):
                bid, ask = (ticker.bidPx or "0", ticker.bidSz or "0"), (ticker.askPx or "0", ticker.askSz or "0")
                frame.quote(symbol, ms(_whole(ticker.ts)), bid, ask)
        elif channel == "books" and said.action in ("snapshot", "update"):
            for book in self._books(said.data):
                put = frame.snapshot if said.action == "snapshot" else frame.diff
                levels = [(Side.BID, p, q) for p, q, _, _ in book.bids] + [(Side.ASK, p, q) for p, q, _, _ in book.asks]
                put(symbol, ms(_whole(book.ts)), levels)
        else:
            raise Unreadable(f"channel {channel!r} with action {said.action!r}")
        return None


def _whole(text: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise Unreadable(f"{text[:40]!r} is not a whole number")
    return int(text)
