"""Kraken, version 1 of its websocket: book-N and trade.

A book of depth N has the best N levels of a side: what falls out of them is not announced, so it is deleted here.
Source: https://docs.kraken.com/api/docs/websocket-v1/book
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from models.market.tick import Side
from streams.days.importers.feeds.frame import FrameRows, Level, Unreadable, exact, seconds, side_of

_SILENT = frozenset({"heartbeat", "systemStatus", "subscriptionStatus", "pong"})
_SIDES = {"b": Side.BID, "s": Side.ASK}
_LEVELS = list[list[str]]  # price, volume, time, and r of a level that is published again


class _Event(msgspec.Struct):
    event: str
    status: str = ""
    errorMessage: str = ""


class _Book(msgspec.Struct):
    bs: _LEVELS | None = None
    as_: _LEVELS | None = msgspec.field(default=None, name="as")
    b: _LEVELS | None = None
    a: _LEVELS | None = None


class Kraken:
    def __init__(self) -> None:
        self._event = msgspec.json.Decoder(_Event).decode
        self._list = msgspec.json.Decoder(list[msgspec.Raw]).decode
        self._book = msgspec.json.Decoder(_Book).decode
        self._trades = msgspec.json.Decoder(list[tuple[str, str, str, str, str, str]]).decode
        self._books: dict[str, dict[Side, dict[Decimal, str]]] = {}  # price texts by price

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        if not text.startswith(b"["):
            said = self._event(text)
            if said.event not in _SILENT or said.status == "error":
                raise Unreadable(f"{said.event} {said.errorMessage}".strip())
            return said.event
        parts = self._list(text)
        if len(parts) < 4:
            raise Unreadable(f"a list of {len(parts)}")
        channel, pair = (msgspec.json.decode(part, type=str) for part in parts[-2:])
        symbol = f"kraken:{pair}"
        if channel == "trade":
            for price, volume, time, side, _, _ in self._trades(parts[1]):
                frame.trade(symbol, seconds(time), side=side_of(side, _SIDES), price=price, size=volume)
        elif channel.startswith("book-") and channel[5:].isdigit():
            self._take_book(symbol, [self._book(part) for part in parts[1:-2]], int(channel[5:]), frame)
        else:
            raise Unreadable(f"channel {channel!r}")
        return None

    def _take_book(self, symbol: str, books: list[_Book], depth: int, frame: FrameRows) -> None:
        if len(books) == 1 and books[0].bs is not None and books[0].as_ is not None:
            bids, asks = books[0].bs, books[0].as_
            self._books[symbol] = {Side.BID: {}, Side.ASK: {}}
            levels = _levels(Side.BID, bids) + _levels(Side.ASK, asks)
            self._apply(symbol, levels)
            frame.snapshot(symbol, _newest(bids + asks) or frame.ts_recv, levels)
            return
        if symbol not in self._books:
            raise Unreadable("an update of a book that had no snapshot")
        changed = [level for book in books for level in (book.b or []) + (book.a or [])]
        if not changed:
            raise Unreadable("a book without levels")
        levels = [
            level for book in books for level in _levels(Side.BID, book.b or []) + _levels(Side.ASK, book.a or [])
        ]
        self._apply(symbol, levels)
        frame.diff(symbol, _newest(changed), levels + self._out_of_depth(symbol, depth))

    def _apply(self, symbol: str, levels: list[Level]) -> None:
        for side, price, size in levels:
            book, key = self._books[symbol][Side(side)], exact(price)
            if size.strip("0."):
                book[key] = price
            else:
                book.pop(key, None)

    def _out_of_depth(self, symbol: str, depth: int) -> list[Level]:
        gone: list[Level] = []
        for side, worst in ((Side.BID, min), (Side.ASK, max)):
            book = self._books[symbol][side]
            while len(book) > depth:
                gone.append((side, book.pop(worst(book)), "0"))
        return gone


def _levels(side: Side, levels: _LEVELS) -> list[Level]:
    return [(side, level[0], level[1]) for level in levels]


def _newest(levels: _LEVELS) -> int:
    return max((seconds(level[2]) for level in levels), default=0)
