"""Coinbase: level2 and matches. Tickers have prices without sizes and repeat the last match.

Source: https://docs.cdp.coinbase.com/exchange/websocket-feed/channels
"""

from __future__ import annotations

import msgspec

from models.market.tick import Side
from streams.days.importers.feeds.frame import FrameRows, Unreadable, iso, side_of

_SIDES = {"buy": Side.BID, "sell": Side.ASK}
_AGGRESSORS = {"buy": Side.ASK, "sell": Side.BID}  # a match says the side of the resting order
_SILENT = frozenset({"subscriptions", "heartbeat", "ticker", "last_match"})  # last_match came before the subscription


class _Frame(msgspec.Struct):
    type: str
    product_id: str = ""
    time: str = ""
    side: str = ""
    price: str = ""
    size: str = ""
    trade_id: int = 0
    bids: list[tuple[str, str]] | None = None
    asks: list[tuple[str, str]] | None = None
    changes: list[tuple[str, str, str]] | None = None


class Coinbase:
    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(_Frame).decode

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        said = self._decode(text)
        if said.type in _SILENT:
            return said.type
        symbol = f"coinbase:{said.product_id}"
        if said.type == "snapshot" and said.bids is not None and said.asks is not None:
            levels = [(Side.BID, *level) for level in said.bids] + [(Side.ASK, *level) for level in said.asks]
            frame.snapshot(symbol, frame.ts_recv, levels)
        elif said.type == "l2update" and said.changes is not None:
            frame.diff(symbol, iso(said.time), [(side_of(side, _SIDES), p, q) for side, p, q in said.changes])
        elif said.type == "match":
            frame.rising(symbol, "trade", said.trade_id)
            frame.trade(
                symbol,
                iso(said.time),
                side=side_of(said.side, _AGGRESSORS),
                price=said.price,
                size=said.size,
                trade_id=said.trade_id,
            )
        else:
            raise Unreadable(f"a frame of type {said.type!r}")
        return None
