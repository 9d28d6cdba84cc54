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
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from models.errors import UnreadableSource
from models.market.depth import DepthView, Tables
from models.market.instruments import Instrument, validate
from models.market.tick import TICK, Action, Flag, Kind, TickArray
from streams.days.day import Day
from streams.days.importers.columns import read_block
from streams.days.importers.lobster_rows import (
    EXECUTE,
    PRICE_SCALE,
    SIZE_SCALE,
    SUBMIT,
    Messages,
    order_rows,
    parse_books,
    parse_messages,
    row,
    tables_of,
    trade_rows,
)
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import write_day
from streams.days.importers.text import TextFile, members

_FILE = re.compile(r"([A-Za-z0-9.]+)_([0-9]{4}-[0-9]{2}-[0-9]{2})_[0-9]+_[0-9]+_(message|orderbook)_([0-9]{1,3})\.csv")


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

        parse_levels = partial(parse_books, n_levels=self._n_levels)
        sides = [
            _Side(self._parsed(self._messages, parse_messages, block_bytes, partial(hear, 0))),
            _Side(self._parsed(self._books, parse_levels, block_bytes, partial(hear, 1))),
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
        progress: Callable[[int], None],
    ) -> Iterator[tuple[int, list[tuple[NDArray[np.int64], NDArray[np.int64]]]]]:
        for block in file.blocks(progress, block_bytes):
            runs = [
                (np.arange(run.first, run.first + len(run.parsed)), run.parsed)
                for run in read_block(block, parse, self._report, file.name)
            ]
            yield block.line + block.text.count(b"\n"), runs

    def _rows(
        self, messages: tuple[NDArray[np.int64], NDArray[np.int64]], books: tuple[NDArray[np.int64], NDArray[np.int64]]
    ) -> TickArray:
        both, of_message, of_book = np.intersect1d(messages[0], books[0], assume_unique=True, return_indices=True)
        for (lines, _), mine, theirs in ((messages, self._messages, self._books), (books, self._books, self._messages)):
            for line in np.setdiff1d(lines, both).tolist():
                self._report.refuse(mine.name, line, f"line {line} of {theirs.name} beside it cannot be read")
        if not len(both):
            return np.empty(0, TICK)
        taken = Messages(both, *messages[1][of_message].T)
        tables = tables_of(books[1][of_book], self._n_levels)
        good = self._agree(taken, tables)
        self._before, self._before_line = tables[-1], int(both[-1])
        taken, tables = Messages(*(column[good] for column in taken)), tables[good]
        return self._events(taken, tables)

    def _agree(self, m: Messages, tables: Tables) -> NDArray[np.bool_]:
        """Which messages the book beside them shows."""
        at_price = np.zeros((2, len(tables)), np.int64)  # before and after each message, on its side at its price
        first = tables[:1] if self._before is None else self._before[None]
        shown = np.concatenate([first, tables])
        for k, view in enumerate((shown[:-1], shown[1:])):
            side = np.where((m.direction == 1)[:, None, None], view[:, 0], view[:, 1])
            at_price[k] = (side[:, :, 1] * (side[:, :, 0] == (m.price * PRICE_SCALE)[:, None])).sum(axis=1)
        expected = np.select([m.type == SUBMIT, m.type <= EXECUTE], [m.size, -m.size], 0) * SIZE_SCALE
        before_line = np.append(self._before_line, m.line[:-1])
        checked = (m.type <= EXECUTE) & (before_line == m.line - 1) & (m.line > 1)
        wrong = checked & (at_price[1] - at_price[0] != expected)
        for i in np.flatnonzero(wrong).tolist():
            self._report.refuse(
                self._messages.name,
                int(m.line[i]),
                f"the book beside it changes by {(at_price[1, i] - at_price[0, i]) // SIZE_SCALE} at this price, the "
                f"message says {expected[i] // SIZE_SCALE}",
            )
        agree: NDArray[np.bool_] = ~wrong
        return agree

    def _events(self, m: Messages, tables: Tables) -> TickArray:
        changes = self._view.changes(np.zeros(len(tables), np.int32), tables)
        unordered = changes.n_changes < 0
        for line in m.line[unordered].tolist():
            self._report.refuse(self._books.name, line, "the levels are not best first")
        n_changes = np.where(unordered, 0, changes.n_changes)
        event = np.repeat(np.arange(len(tables)), n_changes)
        parts = [*order_rows(m, ~unordered), trade_rows(m, ~unordered)]
        if not self._started and not unordered.all():
            self._started = True
            start = int(np.argmin(unordered))
            parts.append((np.array([start]), row(Kind.BOOK, Action.CLEAR, Flag.SNAPSHOT | Flag.MBP, n=1)))
            snapshot = event == start
        else:
            snapshot = np.zeros(len(event), bool)
        book = row(Kind.BOOK, Action.UPDATE, Flag.MBP, n=len(event))
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
