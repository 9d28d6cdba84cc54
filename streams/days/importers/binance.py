"""Binance captures: gzip files of `<local ns> <json>` lines, combined-stream frames and REST depth snapshots.

A file is named `{spot,usdm,cm}_<symbol>_<date>.gz` and holds one instrument. Files of one instrument on several days
follow one another: the book of the first goes on in the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidInstrument
from models.market.fixed_point import BAD_NUMBER, OK, describe, mantissas
from models.market.instruments import DEFAULT_EXPONENT, Instrument, validate
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.binance_frames import LIMIT, Diff, Frame, Quote, Snapshot, Trade
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import write_day
from streams.days.importers.symbols import split_pair
from streams.days.importers.text import Block, TextFile

BLOCK_BYTES = 1 << 20
_NOTHING = ("0", "0")  # price and size of a row of side 0
_SIDES = np.array([Side.NONE, Side.BID, Side.ASK], np.uint8)

_FILE = re.compile(r"(spot|usdm|cm)_([a-z0-9]+)(_perp)?_([0-9]{8})\.gz")
_MARKETS = {"spot": ("binance", "spot"), "usdm": ("binance", "perpetual"), "cm": ("binance-cm", "perpetual")}


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


_Taken = tuple[NDArray[np.int64], NDArray[np.int64]]  # events that stay, and price and size of their rows
_KIND, _SNAPSHOT = _Event._fields.index("kind"), _Event._fields.index("snapshot")


def instrument_of(path: Path) -> Instrument:
    """The instrument that a capture's file name stands for. COIN-M contracts (`cm`) are venue `binance-cm`.

    Raises:
        InvalidInstrument: the name is not of that form, or the symbol ends in no known quote currency.
    """
    match = _FILE.fullmatch(path.name.lower())
    if match is None:
        raise InvalidInstrument(f"{path.name} is not named {{spot,usdm,cm}}_<symbol>_<yyyymmdd>.gz", "bad_symbol")
    venue, market_type = _MARKETS[match[1]]
    symbol = split_pair(match[2].upper())
    validate(venue, market_type, symbol)
    return Instrument(venue, market_type, symbol)


class CaptureFile:
    """Rows of one capture file, in the file's order; `seq` is left 0.

    Bad lines go to `report`: no JSON, a field missing or of a wrong type, another symbol, an unknown stream, a number
    that is negative or does not fit, a diff or a trade whose id does not rise.
    """

    def __init__(self, path: Path, instrument_id: int, report: ImportReport) -> None:
        self.path, self._id, self._report = path, instrument_id, report
        self.paths = (path,)
        self._text = TextFile(path, report)
        self._block, self._lines = Block(1, b""), [b""]
        self._symbol = path.name.upper().split("_", 1)[1].rsplit("_", 1)[0]  # as the frames' `s`: BTCUSDT, BTCUSD_PERP
        self._frame = msgspec.json.Decoder(Frame).decode
        self._diff = msgspec.json.Decoder(Diff).decode
        self._quote = msgspec.json.Decoder(Quote).decode
        self._trade = msgspec.json.Decoder(Trade).decode
        self._snapshot = msgspec.json.Decoder(Snapshot).decode
        self._events: list[_Event] = []
        self._texts: list[str] = []  # price and size of each row
        self._newest = {Kind.BOOK: -1, Kind.TRADE: -1}  # last update id of a diff, last trade id

    def chunks(self, progress: Callable[[int], None], block_bytes: int = BLOCK_BYTES) -> Iterator[TickArray]:
        for block in self._text.blocks(progress, min(block_bytes, BLOCK_BYTES)):
            self._block, self._lines = block, block.text.split(b"\n")
            for number, line in enumerate(self._lines, block.line):
                self._take(number, line)
            yield self._rows()

    def _take(self, number: int, line: bytes) -> None:
        try:
            stamp, _, text = line.partition(b" ")
            if not (stamp.isdigit() and len(stamp) < 20 and 0 < (recv := int(stamp)) < LIMIT):
                raise _Unreadable("the line does not begin with a time in ns")
            self._events.append(self._event(number, recv, text))
        except (_Unreadable, msgspec.DecodeError, UnicodeDecodeError) as exc:
            self._report.refuse(self.path.name, number, str(exc), line)

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
        events, values = self._rising(events, values)
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

    def _numbers(self, events: NDArray[np.int64]) -> _Taken:
        """Exact mantissas [rows, 2] of what was read, and the events without those whose numbers are bad."""
        exponents = np.full(len(self._texts), DEFAULT_EXPONENT, np.int8)
        flat, status = mantissas(self._texts, exponents)
        values = flat.reshape(-1, 2)
        bad = np.flatnonzero((status != OK) | (flat < 0))
        if not len(bad):
            return events, values
        of_event = np.searchsorted(np.cumsum(2 * _n_rows(events)), bad, "right")
        refused, first = np.unique(of_event, return_index=True)
        reasons = [
            describe(self._texts[at], DEFAULT_EXPONENT, int(status[at]) or BAD_NUMBER) for at in bad[first].tolist()
        ]
        return self._without(events, values, refused, reasons)

    def _rising(self, events: NDArray[np.int64], values: NDArray[np.int64]) -> _Taken:
        """Without diffs and trades whose id their channel had before: they are there twice, or out of order."""
        refused: dict[int, str] = {}
        for kind, name in ((Kind.BOOK, "venue_seq"), (Kind.TRADE, "ref_id")):
            field = _Event._fields.index(name)
            at = np.flatnonzero((events[:, _KIND] == kind) & (events[:, _SNAPSHOT] == 0))
            ids = events[at, field]
            before = np.maximum.accumulate(np.append(self._newest[kind], ids))
            refused |= {
                int(at[i]): f"id {ids[i]} does not rise, {before[i]} was there before"
                for i in np.flatnonzero(ids <= before[:-1]).tolist()
            }
            self._newest[kind] = int(before[-1])
        if not refused:
            return events, values
        order = sorted(refused)
        return self._without(events, values, np.array(order), [refused[event] for event in order])

    def _without(
        self, events: NDArray[np.int64], values: NDArray[np.int64], refused: NDArray[np.intp], reasons: list[str]
    ) -> _Taken:
        for line, reason in zip(events[refused, 0].tolist(), reasons, strict=True):
            self._report.refuse(self.path.name, line, reason, self._lines[line - self._block.line])
        kept = np.ones(len(events), bool)
        kept[refused] = False
        return events[kept], values[np.repeat(kept, _n_rows(events))]


def _n_rows(events: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of each event."""
    return events[:, -3:].sum(axis=1)  # type: ignore[no-any-return]


def _venue_time(ms: int | None, recv_ns: int) -> int:
    """Spot book tickers and spot snapshots carry no time of the venue: the time of receipt stands for it."""
    if ms is None:
        return recv_ns
    if not 0 < ms < LIMIT // 1_000_000:
        raise _Unreadable(f"{ms} is not a time in ms")
    return ms * 1_000_000


def import_binance(sources: Sequence[Path], out: Path, *, terms: Terms | None = None) -> tuple[Day, ImportReport]:
    """Make a day of captures; their order does not matter.

    Raises:
        InvalidInstrument: a file's name does not say what it holds.
        FileExistsError, TooManyRejects, UnreadableSource: see `write_day`.
    """
    files = sorted(sources, key=lambda path: path.name)
    of_file = [instrument_of(path) for path in files]
    instruments = sorted(set(of_file), key=lambda instrument: instrument.text)
    report = ImportReport.beside(out, terms)
    day = write_day(
        [CaptureFile(path, instruments.index(which), report) for path, which in zip(files, of_file, strict=True)],
        out,
        importer="binance",
        dates=[path.name[-11:-3] for path in files],
        instruments=instruments,
        report=report,
    )
    return day, report
