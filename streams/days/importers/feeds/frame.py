"""Frames of exchanges' websockets as events: what all feeds share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidInstrument
from models.market.fixed_point import BAD_NUMBER, OK, describe, mantissas
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from streams.days.importers.symbols import Symbols

Level = tuple[int, str, str]  # side, price, size
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
_SCIENTIFIC = re.compile(r"-?[0-9](\.[0-9]{1,20})?[eE][+-]?[0-9]{1,2}")


class Unreadable(Exception):
    """A frame is not of the feed's form; says what is wrong with it."""


class Feed(Protocol):
    """The frames of one exchange's connection, in order; it may remember what earlier ones said."""

    def take(self, text: bytes, frame: FrameRows) -> str | None:
        """Put a frame's events into `frame`, or say what it is when it tells nothing about the market.

        Raises:
            Unreadable, msgspec.DecodeError: it is of no form that the exchange documents.
        """


class _Row(NamedTuple):
    line: int
    ts_recv: int
    ts_event: int
    venue_seq: int
    ref_id: int
    instrument_id: int
    kind: int
    action: int
    side: int
    flags: int


class FrameRows:
    """Collects the events of frames; a frame with a number that does not fit counts as unreadable as a whole."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._rows: list[_Row] = []
        self._texts: list[str] = []  # price and size of each row
        self._newest: dict[tuple[str, str], int] = {}
        self._ids: dict[str, int] = {}
        self._line = self.ts_recv = 0
        self._n_before = 0

    def begin(self, line: int) -> None:
        """What follows is of this line; its time of receipt is for the caller to set."""
        self._line, self._n_before = line, len(self._rows)

    def drop(self) -> None:
        """Forget what this line's frame gave so far."""
        del self._rows[self._n_before :]
        del self._texts[2 * self._n_before :]

    def trade(self, symbol: str, ts_event: int, *, side: Side, price: str, size: str, trade_id: int = 0) -> None:
        """`side` is the aggressor's."""
        self._event(symbol, ts_event, Kind.TRADE, 0, trade_id, [(Action.TRADE, side, price, size)], 0)

    def quote(self, symbol: str, ts_event: int, bid: tuple[str, str], ask: tuple[str, str], update_id: int = 0) -> None:
        """Price and size of both sides; a side of size 0 is empty."""
        rows = [(Action.UPDATE, side, *level) for side, level in ((Side.BID, bid), (Side.ASK, ask))]
        self._event(symbol, ts_event, Kind.QUOTE, update_id, 0, rows, Flag.TOB)

    def snapshot(self, symbol: str, ts_event: int, levels: Iterable[Level], update_id: int = 0) -> None:
        rows = [(Action.CLEAR, Side.NONE, "0", "0"), *((Action.ADD, *level) for level in levels)]
        self._event(symbol, ts_event, Kind.BOOK, update_id, 0, rows, Flag.MBP | Flag.SNAPSHOT)

    def diff(self, symbol: str, ts_event: int, levels: Sequence[Level], *, update_id: int = 0, before: int = 0) -> None:
        """Levels that changed; size 0 deletes. The diff covers the update ids `(before, update_id]`."""
        rows = [(Action.UPDATE, *level) for level in levels or [(Side.NONE, "0", "0")]]
        self._event(symbol, ts_event, Kind.BOOK, update_id, before, rows, Flag.MBP)

    def _event(
        self,
        symbol: str,
        ts_event: int,
        kind: Kind,
        venue_seq: int,
        ref_id: int,
        rows: Sequence[tuple[int, int, str, str]],
        flags: int,
    ) -> None:
        instrument_id = self._id_of(symbol, rows)
        last = len(rows) - 1
        for k, (action, side, price, size) in enumerate(rows):
            if action == Action.UPDATE and side and (size == "0" or not size.strip("0.")):
                action = Action.DELETE  # noqa: PLW2901 - a level or side of size 0 is gone
            ends = flags | Flag.LAST if k == last else flags
            self._rows.append(
                _Row(self._line, self.ts_recv, ts_event, venue_seq, ref_id, instrument_id, kind, action, side, ends)
            )
            self._texts += (price, size)

    def _id_of(self, symbol: str, rows: Sequence[tuple[int, int, str, str]]) -> int:
        """Raises: Unreadable when no instrument is known for the symbol."""
        if symbol not in self._ids:
            try:
                numbers = [(exact(price), exact(size)) for _, _, price, size in rows]
                self._ids[symbol] = self._symbols.id_of(symbol, *zip(*numbers, strict=True))
            except InvalidInstrument as exc:
                raise Unreadable(str(exc.args[0])) from exc
        return self._ids[symbol]

    def rising(self, symbol: str, what: str, number: int) -> None:
        """Raises: Unreadable when a number of this kind was as high before: the message is there twice, or late."""
        before = self._newest.get((symbol, what), -1)
        if number <= before:
            raise Unreadable(f"{what} {number} of {symbol} does not rise, {before} was there before")
        self._newest[symbol, what] = number

    def take(self) -> tuple[TickArray, dict[int, str]]:
        """The rows since the last call, `seq` 0, and why which lines were left out of them."""
        table = np.array(self._rows, np.int64).reshape(-1, len(_Row._fields))
        of = dict(zip(_Row._fields, table.T, strict=True))
        of_instrument = np.array([(i.price_exp, i.size_exp) for i in self._symbols.instruments], np.int8).reshape(-1, 2)
        exponents = of_instrument[of["instrument_id"]]
        flat, status = mantissas(self._texts, exponents.ravel())
        values = flat.reshape(-1, 2)
        bad = np.flatnonzero((status != OK) | (flat < 0))
        reasons: dict[int, str] = {}
        for at in bad.tolist():
            fault = int(status[at]) or BAD_NUMBER
            line = int(of["line"][at // 2])
            reasons.setdefault(line, describe(self._texts[at], int(exponents.ravel()[at]), fault))
        rows = np.zeros(len(table), TICK)
        for name in _Row._fields[1:]:
            rows[name] = of[name]
        rows["price"], rows["size"] = values.T
        self._rows, self._texts, self._n_before = [], [], 0
        return rows[~_among(of["line"], reasons)], reasons


def _among(lines: NDArray[np.int64], refused: dict[int, str]) -> NDArray[np.bool_]:
    return np.isin(lines, np.array(sorted(refused), np.int64))


def side_of(word: str, words: Mapping[str, Side]) -> Side:
    """Raises: Unreadable when it is none of the exchange's words."""
    if word not in words:
        raise Unreadable(f"side {word!r} is none of {', '.join(words)}")
    return words[word]


def exact(text: str) -> Decimal:
    """Raises: Unreadable when it is not a decimal such as -12.5."""
    if not _DECIMAL.fullmatch(text):
        raise Unreadable(f"{text[:40]!r} is not a decimal such as '-12.5'")
    return Decimal(text)


def plain(number: msgspec.Raw | bytes) -> str:
    """The digits of a JSON number or of a text that holds one, exactly as they came; `1e-05` is written out."""
    text = bytes(number).decode("ascii", "replace").strip('"')
    return format(Decimal(text), "f") if _SCIENTIFIC.fullmatch(text) else text


def ms(number: int) -> int:
    """Milliseconds as ns. Raises: Unreadable when they are no time of an exchange."""
    return ns(number, 1_000_000)


def ns(number: int, unit: int) -> int:
    """A time in units of so many ns. Raises: Unreadable."""
    if not 10**17 < number * unit < 2**63:
        raise Unreadable(f"{number} is not a time")
    return number * unit


def iso(text: str) -> int:
    """ISO time of at most microseconds, with its zone, as ns. Raises: Unreadable."""
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, TypeError) as exc:
        raise Unreadable(f"{text!r} is not a time with a zone") from exc
    return ns(since // timedelta(microseconds=1), 1000)


def seconds(text: str) -> int:
    """Seconds with at most nine decimals as ns. Raises: Unreadable."""
    whole, _, decimals = text.partition(".")
    if not (whole.isdigit() and len(whole) == 10 and len(decimals) <= 9 and (decimals.isdigit() or not decimals)):
        raise Unreadable(f"{text[:40]!r} is not a time in seconds")
    return int(whole) * 10**9 + int(decimals.ljust(9, "0"))
