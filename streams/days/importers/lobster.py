"""LOBSTER days: a file of L3 messages and, line by line beside it, the book's best levels after each.

The files are `<ticker>_<yyyy-mm-dd>_<start>_<end>_{message,orderbook}_<levels>.csv`, as a pair or together in a zip. A
file of few levels shows entries that no message made: a level behind the last one comes into view when a better one is
taken. The book's rows are therefore the difference between the orderbook file's lines.
Source: LOBSTER's description of its output, https://lobsterdata.com/info/DataStructure.php
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.errors import UnreadableSource
from models.market.depth import DepthView, Tables
from models.market.instruments import Instrument, validate
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.columns import csv_columns, integers, mantissas, read_block
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import write_day
from streams.days.importers.text import TextFile, members

_FILE = re.compile(r"([A-Za-z0-9.]+)_([0-9]{4}-[0-9]{2}-[0-9]{2})_[0-9]+_[0-9]+_(message|orderbook)_([0-9]{1,3})\.csv")
_PRICE_SCALE = 10**5  # dollars x 10,000, mantissas are at exponent -9
_SIZE_SCALE = 10**9
_MOST_SHARES = 9 * 10**9
_MOST_PRICE = 9 * 10**13
_NO_LEVEL = 9_999_999_999  # the price of a place without a level

_SUBMIT, _CANCEL, _DELETE, _EXECUTE, _EXECUTE_HIDDEN, _CROSS, _HALT = range(1, 8)
_MESSAGE = {
    "time": pa.decimal128(38, 13),  # real files hold 43002.632812672004: what is below a nanosecond is left out
    "type": pa.int64(),
    "order": pa.int64(),
    "size": pa.int64(),
    "price": pa.int64(),
    "direction": pa.int64(),
}
_STATUS = {-1: Action.DELETE, 0: Action.UPDATE, 1: Action.ADD}  # price of a halt message: halted, quotes, trades


class _Messages(NamedTuple):
    """Shape (n,) each; `line` is the number in the file."""

    line: NDArray[np.int64]
    ns: NDArray[np.int64]  # since midnight
    type: NDArray[np.int64]
    order: NDArray[np.int64]
    size: NDArray[np.int64]
    price: NDArray[np.int64]
    direction: NDArray[np.int64]


class _Side:
    """One file of the pair: the parsed lines not yet taken; line numbers up to `seen` are parsed or refused."""

    def __init__(self, blocks: Iterator[tuple[int, list[tuple[NDArray[np.int64], NDArray[np.int64]]]]]) -> None:
        self._blocks = blocks
        self._runs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self.seen = 0
        self.ended = False

    def more(self) -> None:
        last, runs = next(self._blocks, (self.seen, None))
        self.ended = runs is None
        self.seen = last
        self._runs += runs or []

    def take(self, upto: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Line numbers and values of the lines up to this one."""
        if not self._runs:
            return np.zeros(0, np.int64), np.zeros((0, 0), np.int64)
        lines, values = (np.concatenate(parts) for parts in zip(*self._runs, strict=True))
        cut = int(np.searchsorted(lines, upto, "right"))
        self._runs = [(lines[cut:], values[cut:])] if cut < len(lines) else []
        return lines[:cut], values[:cut]


class LobsterPair:
    """Rows of a message file and its orderbook file; `ts_recv` is `ts_event` because the source has no other.

    A message is refused, and the next one's rows make up for it in the book, if either line cannot be read, or the book
    does not change at its price by exactly its size.
    """

    def __init__(self, messages: TextFile, books: TextFile, instrument_id: int, report: ImportReport) -> None:
        self._messages, self._books, self._id, self._report = messages, books, instrument_id, report
        self.paths = tuple(dict.fromkeys([messages.path, books.path]))
        match = _FILE.fullmatch(messages.name)
        assert match is not None  # it was paired by its name
        self.date = match[2].replace("-", "")
        self._n_levels = int(match[4])
        midnight = datetime.strptime(self.date, "%Y%m%d").replace(tzinfo=ZoneInfo("America/New_York"))
        self._midnight_ns = int(midnight.timestamp()) * 10**9
        self._view = DepthView(self._n_levels)
        self._before: NDArray[np.int64] | None = None  # the last line of the orderbook file that was read, and
        self._before_line = 0  # its number
        self._started = False

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        read = [0, 0]

        def hear(index: int, n_bytes: int) -> None:
            read[index] = n_bytes
            progress(sum(read) if len(self.paths) == 2 else max(read))

        sides = [
            _Side(self._parsed(file, parse, block_bytes, index, hear))
            for index, (file, parse) in enumerate([(self._messages, _parse_messages), (self._books, self._parse_books)])
        ]
        while True:
            behind = min((side for side in sides if not side.ended), key=lambda side: side.seen, default=None)
            if behind is None:
                break
            behind.more()
            upto = min(side.seen for side in sides)
            yield self._rows(sides[0].take(upto), sides[1].take(upto))
        if sides[0].seen != sides[1].seen:
            raise UnreadableSource(
                f"{self._messages.name} has {sides[0].seen} lines and {self._books.name} {sides[1].seen}: they are not "
                "of one recording, or one is cut"
            )

    def _parsed(
        self,
        file: TextFile,
        parse: Callable[[bytes], NDArray[np.int64]],
        block_bytes: int,
        index: int,
        hear: Callable[[int, int], None],
    ) -> Iterator[tuple[int, list[tuple[NDArray[np.int64], NDArray[np.int64]]]]]:
        for block in file.blocks(lambda n_bytes: hear(index, n_bytes), block_bytes):
            runs = [
                (np.arange(first, first + len(values)), values)
                for first, values in read_block(block, parse, self._report, file.name)
            ]
            yield block.line + block.text.count(b"\n"), runs

    def _parse_books(self, text: bytes) -> NDArray[np.int64]:
        names = [f"{side}_{what}_{k}" for k in range(self._n_levels) for side in ("ask", "bid") for what in "ps"]
        table = csv_columns(text, dict.fromkeys(names, pa.int64()))
        most = {"p": _MOST_PRICE, "s": _MOST_SHARES}
        low = {"p": -_NO_LEVEL, "s": 0}
        return np.column_stack([integers(table, n, low[n.split("_")[1]], most[n.split("_")[1]]) for n in names])

    def _rows(
        self, messages: tuple[NDArray[np.int64], NDArray[np.int64]], books: tuple[NDArray[np.int64], NDArray[np.int64]]
    ) -> TickArray:
        both, of_message, of_book = np.intersect1d(messages[0], books[0], assume_unique=True, return_indices=True)
        for (lines, _), mine, theirs in ((messages, self._messages, self._books), (books, self._books, self._messages)):
            for line in np.setdiff1d(lines, both).tolist():
                self._report.refuse(mine.name, line, f"line {line} of {theirs.name} beside it cannot be read")
        if not len(both):
            return np.empty(0, TICK)
        taken = _Messages(both, *messages[1][of_message].T)
        tables = _tables(books[1][of_book], self._n_levels)
        good = self._agree(taken, tables)
        self._before, self._before_line = tables[-1], int(both[-1])
        taken, tables = _Messages(*(column[good] for column in taken)), tables[good]
        return self._events(taken, tables)

    def _agree(self, m: _Messages, tables: Tables) -> NDArray[np.bool_]:
        """Which messages the book beside them shows."""
        at_price = np.zeros((2, len(tables)), np.int64)  # before and after each message, on its side at its price
        first = tables[:1] if self._before is None else self._before[None]
        shown = np.concatenate([first, tables])
        for k, view in enumerate((shown[:-1], shown[1:])):
            side = np.where((m.direction == 1)[:, None, None], view[:, 0], view[:, 1])
            at_price[k] = (side[:, :, 1] * (side[:, :, 0] == (m.price * _PRICE_SCALE)[:, None])).sum(axis=1)
        expected = np.select([m.type == _SUBMIT, m.type <= _EXECUTE], [m.size, -m.size], 0) * _SIZE_SCALE
        before_line = np.append(self._before_line, m.line[:-1])
        checked = (m.type <= _EXECUTE) & (before_line == m.line - 1) & (m.line > 1)
        wrong = checked & (at_price[1] - at_price[0] != expected)
        for i in np.flatnonzero(wrong).tolist():
            self._report.refuse(
                self._messages.name,
                int(m.line[i]),
                f"the book beside it changes by {(at_price[1, i] - at_price[0, i]) // _SIZE_SCALE} at this price, the "
                f"message says {expected[i] // _SIZE_SCALE}",
            )
        agree: NDArray[np.bool_] = ~wrong
        return agree

    def _events(self, m: _Messages, tables: Tables) -> TickArray:
        changes = self._view.changes(np.zeros(len(tables), np.int32), tables)
        unordered = changes.n_changes < 0
        for line in m.line[unordered].tolist():
            self._report.refuse(self._books.name, line, "the levels are not best first")
        n_changes = np.where(unordered, 0, changes.n_changes)
        event = np.repeat(np.arange(len(tables)), n_changes)
        parts = [*_order_rows(m, ~unordered), _trade_rows(m, ~unordered)]
        if not self._started and not unordered.all():
            self._started = True
            start = int(np.argmin(unordered))
            parts.append((np.array([start]), _row(Kind.BOOK, Action.CLEAR, Flag.SNAPSHOT | Flag.MBP, n=1)))
            snapshot = event == start
        else:
            snapshot = np.zeros(len(event), bool)
        book = _row(Kind.BOOK, Action.UPDATE, Flag.MBP, n=len(event))
        book["side"], book["price"], book["size"] = changes.side, changes.price, changes.size
        book["action"] = np.select([snapshot, changes.size == 0], [Action.ADD, Action.DELETE], Action.UPDATE)
        book["flags"] |= np.where(snapshot, np.uint8(Flag.SNAPSHOT), np.uint8(0))
        parts.append((event, book))
        events = np.concatenate([at for at, _ in parts])
        order = np.argsort(events, kind="stable")
        rows = np.concatenate([part for _, part in parts])[order]
        events = events[order]
        rows["ts_recv"] = rows["ts_event"] = self._midnight_ns + m.ns[events]
        rows["instrument_id"] = self._id
        rows["flags"][np.append(events[1:] != events[:-1], True)[: len(rows)]] |= np.uint8(Flag.LAST)
        self._report.n_records += int((~unordered).sum())
        return rows


_Part = tuple[NDArray[np.int64], TickArray]  # the event of each row, and the rows


def _row(kind: Kind, action: Action, flags: int = 0, *, n: int) -> TickArray:
    rows = np.zeros(n, TICK)
    rows["kind"], rows["action"], rows["flags"] = kind, action, flags
    return rows


def _order_rows(m: _Messages, good: NDArray[np.bool_]) -> Iterator[_Part]:
    """L3: an order enters, some of it is executed, some of it is taken off, trading halts or goes on."""
    sides = np.where(m.direction == 1, np.uint8(Side.BID), np.uint8(Side.ASK))
    for action, wanted in (
        (Action.ADD, m.type == _SUBMIT),
        (Action.TRADE, m.type == _EXECUTE),
        (Action.DELETE, np.isin(m.type, (_CANCEL, _DELETE, _EXECUTE))),
    ):
        at = np.flatnonzero(wanted & good)
        rows = _row(Kind.ORDER, action, n=len(at))
        rows["side"], rows["ref_id"] = sides[at], m.order[at]
        rows["price"], rows["size"] = m.price[at] * _PRICE_SCALE, m.size[at] * _SIZE_SCALE
        yield at, rows
    for price, action in _STATUS.items():
        at = np.flatnonzero((m.type == _HALT) & (m.price == price) & good)
        yield at, _row(Kind.ORDER, action, n=len(at))


def _trade_rows(m: _Messages, good: NDArray[np.bool_]) -> _Part:
    """An execution of a resting sell order was the trade of a buyer; a cross has no aggressor."""
    at = np.flatnonzero(np.isin(m.type, (_EXECUTE, _EXECUTE_HIDDEN, _CROSS)) & good)
    rows = _row(Kind.TRADE, Action.TRADE, n=len(at))
    rows["side"] = np.select([m.type[at] == _CROSS, m.direction[at] == -1], [Side.NONE, Side.BID], Side.ASK)
    rows["price"], rows["size"] = m.price[at] * _PRICE_SCALE, m.size[at] * _SIZE_SCALE
    return at, rows


def _tables(lines: NDArray[np.int64], n_levels: int) -> Tables:
    """[n, side, level, (price, size)] of lines `ask price, ask size, bid price, bid size` a level."""
    tables = lines.reshape(-1, n_levels, 2, 2)[:, :, ::-1].transpose(0, 2, 1, 3).copy()
    tables[..., 1][np.abs(tables[..., 0]) == _NO_LEVEL] = 0
    tables *= np.array([_PRICE_SCALE, _SIZE_SCALE])
    return tables


def _parse_messages(text: bytes) -> NDArray[np.int64]:
    table = csv_columns(text, _MESSAGE)
    ns = mantissas(table.column("time"), "time", -13) // 10**4
    if len(ns) and (ns.min() < 0 or ns.max() >= 86_400 * 10**9):
        raise ValueError("the time is not within a day")
    kinds, direction = integers(table, "type", _SUBMIT, _HALT), integers(table, "direction", -1, 1)
    price = integers(table, "price", -1, _MOST_PRICE)
    if (np.where(kinds == _HALT, price > 1, price < 1)).any():
        raise ValueError("the price is not above 0, or of a halt not -1, 0 or 1")
    if ((direction == 0) & (kinds != _CROSS)).any():
        raise ValueError("the direction is not 1 or -1")
    size, order = integers(table, "size", 0, _MOST_SHARES), integers(table, "order", 0, 2**63 - 1)
    return np.column_stack([ns, kinds, order, size, price, direction])


def _pairs(sources: Sequence[Path], report: ImportReport) -> Iterator[tuple[str, TextFile, TextFile]]:
    """Ticker, message file and orderbook file, by name. Raises: UnreadableSource when one lacks the other."""
    found: dict[tuple[str, str], TextFile] = {}
    for path in sources:
        inside = members(path) if path.suffix == ".zip" else [None]
        named = [(member or path.name.removesuffix(".gz"), member) for member in inside]
        matches = [(match, member) for name, member in named if (match := _FILE.fullmatch(name))]
        if not matches:
            raise UnreadableSource(
                f"{path}: no file in it is named <ticker>_<yyyy-mm-dd>_<start>_<end>_{{message,orderbook}}_<levels>.csv"
            )
        for match, member in matches:
            found[match[0].replace(match[3], "*"), match[3]] = TextFile(path, report, member=member)
    for key in sorted({key for key, _ in found}):
        messages, books = found.get((key, "message")), found.get((key, "orderbook"))
        if messages is None or books is None:
            lacking = "message" if messages is None else "orderbook"
            raise UnreadableSource(f"{key.replace('*', lacking)} is missing: both files of a pair are needed")
        yield key.split("_")[0].upper(), messages, books


def import_lobster(sources: Sequence[Path], out: Path, *, terms: Terms | None = None) -> tuple[Day, ImportReport]:
    """Make a day of LOBSTER files, pairs or zips; their order does not matter. Instruments are `nasdaq.spot.X-USD`.

    Raises:
        InvalidInstrument: a ticker is none.
        FileExistsError, TooManyRejects, UnreadableSource: see `write_day`.
    """
    report = ImportReport.beside(out, terms)
    pairs = list(_pairs(sources, report))
    texts = sorted({f"{ticker}-USD" for ticker, _, _ in pairs})
    for symbol in texts:
        validate("nasdaq", "spot", symbol)
    files = [LobsterPair(messages, books, texts.index(f"{ticker}-USD"), report) for ticker, messages, books in pairs]
    day = write_day(
        files,
        out,
        importer="lobster",
        dates=[file.date for file in files],
        instruments=[Instrument("nasdaq", "spot", symbol) for symbol in texts],
        report=report,
    )
    return day, report
