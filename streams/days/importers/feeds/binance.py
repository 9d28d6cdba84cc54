"""Binance's combined streams of many symbols: depth, bookTicker and aggTrade. Klines are not read.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
"""

from __future__ import annotations

import msgspec

from models.market.tick import Side
from streams.days.importers.binance_frames import Diff, Frame, Quote
from streams.days.importers.feeds.frame import FrameRows, Unreadable, ms


class _AggTrade(msgspec.Struct):
    s: str
    a: int
    p: str
    q: str
    T: int
    m: bool


class BinanceFutures:
    def __init__(self) -> None:
        self._frame = msgspec.json.Decoder(Frame).decode
        self._diff = msgspec.json.Decoder(Diff).decode
        self._quote = msgspec.json.Decoder(Quote).decode
        self._trade = msgspec.json.Decoder(_AggTrade).decode

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        said = self._frame(text)
        channel = said.stream.partition("@")[2]
        if channel.startswith("kline_"):
            return "kline"
        if channel == "bookTicker":
            quote = self._quote(said.data)
            at = frame.ts_recv if quote.T is None else ms(quote.T)
            frame.quote(f"binance-futures:{quote.s}", at, (quote.b, quote.B), (quote.a, quote.A), quote.u)
        elif channel.startswith("depth"):
            diff = self._diff(said.data)
            symbol = f"binance-futures:{diff.s}"
            frame.rising(symbol, "update", diff.u)
            levels = [(Side.BID, *level) for level in diff.b] + [(Side.ASK, *level) for level in diff.a]
            before = diff.U - 1 if diff.pu is None else diff.pu
            frame.diff(symbol, ms(diff.E if diff.T is None else diff.T), levels, update_id=diff.u, before=before)
        elif channel == "aggTrade":
            trade = self._trade(said.data)
            symbol = f"binance-futures:{trade.s}"
            frame.rising(symbol, "trade", trade.a)
            aggressor = Side.ASK if trade.m else Side.BID  # `m`: the buyer was the maker
            frame.trade(symbol, ms(trade.T), side=aggressor, price=trade.p, size=trade.q, trade_id=trade.a)
        else:
            raise Unreadable(f"stream {said.stream!r}")
        return None
