"""Binance captures: gzip files of `<local ns> <json>` lines, combined-stream frames and REST depth snapshots.

A file is named `{spot,usdm,cm}_<symbol>_<date>.gz` and holds one instrument. Files of one instrument on several days
follow one another: the book of the first goes on in the second.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidInstrument
from models.market.fixed_point import BAD_NUMBER, OK, describe, mantissas
from models.market.instruments import DEFAULT_EXPONENT, Instrument, validate
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.source import ImportReport, Progress, day_name, write_day

CHUNK_LINES = 4096
_LIMIT = 2**63
_NOTHING = ("0", "0")  # price and size of a row of side 0
_SIDES = np.array([Side.NONE, Side.BID, Side.ASK], np.uint8)

_FILE = re.compile(r"(spot|usdm|cm)_([a-z0-9]+)(_perp)?_([0-9]{8})\.gz")
_MARKETS = {"spot": ("binance", "spot"), "usdm": ("binance", "perpetual"), "cm": ("binance-cm", "perpetual")}
_QUOTES = ("USDT", "USDC", "BUSD", "BTC", "ETH", "BNB", "USD", "EUR", "GBP", "JPY", "DAI", "TUSD")

Levels = list[tuple[str, str]]
_Natural = Annotated[int, msgspec.Meta(ge=0, le=_LIMIT - 1)]


class _Frame(msgspec.Struct):
    stream: str
    data: msgspec.Raw


class _Diff(msgspec.Struct):
    E: _Natural
    s: str
    U: _Natural
    u: _Natural
    b: Levels
    a: Levels
    T: _Natural | None = None
    pu: _Natural | None = None


class _Quote(msgspec.Struct):
    s: str
    u: _Natural
    b: str
    B: str
    a: str
    A: str
    T: _Natural | None = None


class _Trade(msgspec.Struct):
    s: str
    t: _Natural
    p: str
    q: str
    T: _Natural
    m: bool


class _Snapshot(msgspec.Struct):
    lastUpdateId: _Natural
    bids: Levels
    asks: Levels
    T: _Natural | None = None


class _Unreadable(Exception):
    pass


class _Event(NamedTuple):
    """One line that was read; its rows are first those of side 0, then bids, then asks."""

    line: int
    ts_recv: int
    ts_event: int
    venue_seq: int
    ref_id: int
    kind: int
    snapshot: int
    n_neither: int
    n_bids: int
    n_asks: int


def instrument_of(path: Path) -> Instrument:
    """The instrument that a capture's file name stands for. COIN-M contracts (`cm`) are venue `binance-cm`.

    Raises:
        InvalidInstrument: the name is not of that form, or the symbol ends in no known quote currency.
    """
    match = _FILE.fullmatch(path.name.lower())
    if match is None:
        raise InvalidInstrument(f"{path.name} is not named {{spot,usdm,cm}}_<symbol>_<yyyymmdd>.gz", "bad_symbol")
    market, pair = match[1], match[2].upper()
    for quote in _QUOTES:
        if pair.endswith(quote) and len(pair) > len(quote):
            venue, market_type = _MARKETS[market]
            instrument = Instrument(venue, market_type, f"{pair.removesuffix(quote)}-{quote}")
            validate(instrument.venue, instrument.market_type, instrument.symbol)
            return instrument
    raise InvalidInstrument(f"{path.name}: {pair} ends in none of {' '.join(_QUOTES)}", "bad_symbol")


class CaptureFile:
    """Rows of one capture file, TICK arrays of about `CHUNK_LINES` lines, in the file's order; `seq` is left 0.

    Bad lines go to `report`: no JSON, a field missing or of a wrong type, another symbol, an unknown stream, a number
    that is negative or does not fit.
    """

    def __init__(self, path: Path, instrument_id: int, report: ImportReport) -> None:
        self.path, self._id, self._report = path, instrument_id, report
        self._symbol = path.name.upper().split("_", 1)[1].rsplit("_", 1)[0]  # as the frames' `s`: BTCUSDT, BTCUSD_PERP
        self._frame = msgspec.json.Decoder(_Frame).decode
        self._diff = msgspec.json.Decoder(_Diff).decode
        self._quote = msgspec.json.Decoder(_Quote).decode
        self._trade = msgspec.json.Decoder(_Trade).decode
        self._snapshot = msgspec.json.Decoder(_Snapshot).decode
        self._events: list[_Event] = []
        self._texts: list[str] = []  # price and size of each row

    def chunks(self, progress: Callable[[int], None]) -> Iterator[TickArray]:
        number = 0
        with self.path.open("rb") as raw, gzip.open(raw, "rb") as lines:
            try:
                for number, line in enumerate(lines, 1):
                    self._take(number, line)
                    if number % CHUNK_LINES == 0:
                        progress(raw.tell())
                        yield self._rows()
            except (EOFError, OSError, zlib.error) as exc:
                self._report.refuse(self.path.name, number + 1, f"the compressed data is damaged: {exc}")
        yield self._rows()

    def _take(self, number: int, line: bytes) -> None:
        try:
            stamp, _, text = line.partition(b" ")
            if not (stamp.isdigit() and len(stamp) < 20 and 0 < (recv := int(stamp)) < _LIMIT):
                raise _Unreadable("the line does not begin with a time in ns")
            self._events.append(self._event(number, recv, text))
        except (_Unreadable, msgspec.DecodeError, UnicodeDecodeError) as exc:
            self._report.refuse(self.path.name, number, str(exc))

    def _event(self, line: int, recv: int, text: bytes) -> _Event:
        push = self._texts.extend
        if not text.startswith(b'{"stream"'):
            book = self._snapshot(text)
            event = _Event(
                line,
                recv,
                _venue_time(book.T, recv),
                book.lastUpdateId,
                0,
                Kind.BOOK,
                1,
                1,
                len(book.bids),
                len(book.asks),
            )
            push(_NOTHING)
            push(chain.from_iterable(book.bids))
            push(chain.from_iterable(book.asks))
            return event
        frame = self._frame(text)
        channel = frame.stream.partition("@")[2]
        if channel == "bookTicker":
            quote = self._quote(frame.data)
            self._check(quote.s)
            event = _Event(line, recv, _venue_time(quote.T, recv), quote.u, 0, Kind.QUOTE, 0, 0, 1, 1)
            push((quote.b, quote.B, quote.a, quote.A))
            return event
        if channel.startswith("depth"):
            diff = self._diff(frame.data)
            self._check(diff.s)
            at = _venue_time(diff.E if diff.T is None else diff.T, recv)
            before = diff.U - 1 if diff.pu is None else diff.pu
            empty = not (diff.b or diff.a)
            event = _Event(line, recv, at, diff.u, before, Kind.BOOK, 0, empty, len(diff.b), len(diff.a))
            push(_NOTHING if empty else ())
            push(chain.from_iterable(diff.b))
            push(chain.from_iterable(diff.a))
            return event
        if channel == "trade":
            trade = self._trade(frame.data)
            self._check(trade.s)
            event = _Event(
                line, recv, _venue_time(trade.T, recv), 0, trade.t, Kind.TRADE, 0, 0, not trade.m, trade.m
            )  # `m`: the buyer was the maker, so the aggressor sold
            push((trade.p, trade.q))
            return event
        raise _Unreadable(f"unknown stream {frame.stream!r}")

    def _check(self, symbol: str) -> None:
        if symbol != self._symbol:
            raise _Unreadable(f"a frame of {symbol} in the file of {self._symbol}")

    def _rows(self) -> TickArray:
        events = np.array(self._events, np.int64).reshape(-1, len(_Event._fields))
        events, values = self._numbers(events)
        self._events, self._texts = [], []
        self._report.n_records += len(events)
        of = dict(zip(_Event._fields, events.T, strict=True))
        sides = events[:, -3:]
        per_event = sides.sum(axis=1)
        rows = np.zeros(len(values), TICK)
        for name in ("ts_recv", "ts_event", "venue_seq", "ref_id", "kind"):
            rows[name] = np.repeat(of[name], per_event)
        rows["instrument_id"] = self._id
        rows["price"], rows["size"] = values[:, 0], values[:, 1]
        side = np.repeat(np.tile(_SIDES, len(events)), sides.ravel())
        rows["side"] = side
        kind, snapshot = rows["kind"], np.repeat(of["snapshot"], per_event).astype(bool)
        rows["action"] = np.select(
            [kind == Kind.TRADE, snapshot & (side == Side.NONE), snapshot, (rows["size"] == 0) & (side != Side.NONE)],
            [Action.TRADE, Action.CLEAR, Action.ADD, Action.DELETE],
            Action.UPDATE,
        )
        last = np.zeros(len(rows), np.uint8)
        last[np.cumsum(per_event) - 1] = Flag.LAST
        rows["flags"] = last | np.select(
            [kind == Kind.QUOTE, snapshot, kind == Kind.BOOK],
            [np.uint8(Flag.TOB), np.uint8(Flag.SNAPSHOT | Flag.MBP), np.uint8(Flag.MBP)],
            np.uint8(0),
        )
        return rows

    def _numbers(self, events: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Exact mantissas [rows, 2] of what was read, and the events without those whose numbers are bad."""
        exponents = np.full(len(self._texts), DEFAULT_EXPONENT, np.int8)
        flat, status = mantissas(self._texts, exponents)
        values = flat.reshape(-1, 2)
        bad = np.flatnonzero((status != OK) | (flat < 0))
        if not len(bad):
            return events, values
        per_event = events[:, -3:].sum(axis=1)
        of_event = np.searchsorted(np.cumsum(2 * per_event), bad, "right")
        refused, first = np.unique(of_event, return_index=True)
        for event, at in zip(refused.tolist(), bad[first].tolist(), strict=True):
            fault = int(status[at]) or BAD_NUMBER
            self._report.refuse(
                self.path.name, int(events[event, 0]), describe(self._texts[at], DEFAULT_EXPONENT, fault)
            )
        kept = np.ones(len(events), bool)
        kept[refused] = False
        return events[kept], values[np.repeat(kept, per_event)]


def _venue_time(ms: int | None, recv_ns: int) -> int:
    """Spot book tickers and spot snapshots carry no time of the venue: the time of receipt stands for it."""
    if ms is None:
        return recv_ns
    if not 0 < ms < _LIMIT // 1_000_000:
        raise _Unreadable(f"{ms} is not a time in ms")
    return ms * 1_000_000


def import_binance(
    sources: Sequence[Path], out: Path, *, name: str | None = None, progress: Progress | None = None
) -> tuple[Day, ImportReport]:
    """Make a day of captures; their order does not matter.

    Raises:
        InvalidInstrument: a file's name does not say what it holds.
        FileExistsError: there is something at `out`.
    """
    files = sorted(sources, key=lambda path: path.name)
    of_file = [instrument_of(path) for path in files]
    instruments = sorted(set(of_file), key=lambda instrument: instrument.text)
    report = ImportReport()
    day = write_day(
        [CaptureFile(path, instruments.index(which), report) for path, which in zip(files, of_file, strict=True)],
        out,
        importer="binance",
        name=name or day_name("binance", [path.name[-11:-3] for path in files]),
        instruments=instruments,
        progress=progress,
    )
    return day, report
