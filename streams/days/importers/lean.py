"""US equity ticks in LEAN's form: zip files with one CSV each, trades or one-sided quotes of one symbol and day.

The CSV is named `<yyyymmdd>_<symbol>_{Trade,Quote}_Tick.csv` and has no header. An instrument is a symbol at a venue
letter, `us-n.spot.IBM-USD`; a row without a letter goes to venue `us-unknown`, because `us-x` is a real venue. Sale and
quote conditions and the mark of suspicion have no place in a tick and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from models.errors import InvalidInstrument
from models.market.instruments import Instrument, validate
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import write_day
from streams.days.importers.text import TextFile

_PRICE_SCALE = 10**5  # prices come x 10,000, mantissas are at exponent -9
_SIZE_SCALE = 10**9
_DAY_MS = 86_400_000

_CSV = re.compile(r"([0-9]{8})_([a-z0-9]+)_(trade|quote)_tick\.csv")
_LETTER = re.compile(r"[A-Z]?")
# Numbers short enough that their mantissas stay inside int64
_LINE = {
    "trade": re.compile(rb"[0-9]{1,8},[0-9]{1,13},[0-9]{1,9},[A-Z]?,[^,]*,[01]\r?"),
    "quote": re.compile(rb"[0-9]{1,8}(,[0-9]{1,13},[0-9]{1,9}){2},[A-Z]?,[^,]*,[01]\r?"),
}
_NUMBERS = {
    "trade": {"ms": _DAY_MS, "price": 10**13, "size": 10**9},
    "quote": {"ms": _DAY_MS, "bid": 10**13, "bid_size": 10**9, "ask": 10**13, "ask_size": 10**9},
}  # columns and what they stay below
_TEXTS = ("venue", "condition", "suspicious")

Columns = dict[str, NDArray[np.int64]]


class VenueLetters:
    """Instruments by symbol and venue letter, numbered in order of appearance."""

    def __init__(self) -> None:
        self.instruments: list[Instrument] = []
        self._ids: dict[tuple[str, str], int] = {}

    def id_of(self, symbol: str, letter: str) -> int:
        key = symbol, letter
        if key not in self._ids:
            instrument = Instrument(f"us-{letter.lower() or 'unknown'}", "spot", f"{symbol}-USD")
            validate(instrument.venue, instrument.market_type, instrument.symbol)
            self._ids[key] = len(self.instruments)
            self.instruments.append(instrument)
        return self._ids[key]


class TickFile:
    """Rows of one zip file; `seq` is left 0, and `ts_recv` is `ts_event` because the source has no other.

    Raises:
        InvalidInstrument: the CSV's name does not say what it holds.
    """

    def __init__(self, path: Path, letters: VenueLetters, report: ImportReport) -> None:
        self.paths, self._letters, self._report = (path,), letters, report
        self._text = TextFile(path, report)
        self.member = self._text.name
        match = _CSV.fullmatch(self.member.lower())
        if match is None:
            form = "<yyyymmdd>_<symbol>_{Trade,Quote}_Tick.csv"
            raise InvalidInstrument(f"{path} holds {self.member}, which is not named {form}", "bad_symbol")
        self.date, self._symbol, self._type = match[1], match[2].upper(), match[3]
        # Times count from midnight in New York, whose clocks change on Sundays only, when no exchange is open
        midnight = datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=ZoneInfo("America/New_York"))
        self._midnight_ns = int(midnight.timestamp()) * 10**9

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        for line, text in self._text.blocks(progress, block_bytes):
            yield self._block(line, text)

    def _block(self, line: int, text: bytes) -> TickArray:
        """Rows of whole lines, of which the first is number `line`."""
        try:
            columns, ids = self._parse(text)
        except (pa.ArrowInvalid, ValueError):  # rare, so lines are looked at one by one only now
            good = []
            for number, candidate in enumerate(text.split(b"\n"), line):
                if _LINE[self._type].fullmatch(candidate) and int(candidate.partition(b",")[0]) < _DAY_MS:
                    good.append(candidate)
                else:
                    self._report.refuse(self.member, number, f"not a {self._type}", candidate)
            if not good:
                return np.empty(0, TICK)
            columns, ids = self._parse(b"\n".join(good))
        self._report.n_records += len(ids)
        at = self._midnight_ns + columns["ms"] * 1_000_000
        return _trades(columns, at, ids) if self._type == "trade" else _quotes(columns, at, ids)

    def _parse(self, text: bytes) -> tuple[Columns, NDArray[np.int32]]:
        """Numbers and instrument ids of the lines. Raises: ArrowInvalid, ValueError when any line is bad."""
        limits = _NUMBERS[self._type]
        types = dict.fromkeys(limits, pa.int64()) | dict.fromkeys(_TEXTS, pa.string())
        table = csv.read_csv(
            pa.BufferReader(text),
            read_options=csv.ReadOptions(column_names=list(types), use_threads=False, block_size=len(text) + 1),
            parse_options=csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
        columns: Columns = {}
        for name, limit in limits.items():
            if table.column(name).null_count:
                raise ValueError(f"{name} is empty")
            columns[name] = table.column(name).to_numpy()
            if columns[name].min() < 0 or columns[name].max() >= limit:
                raise ValueError(f"{name} is not in 0..{limit}")
        coded = table.column("venue").combine_chunks().dictionary_encode()
        letters = coded.dictionary.to_pylist()
        if not all(map(_LETTER.fullmatch, letters)):
            raise ValueError("a venue is not a letter")
        ids = np.array([self._letters.id_of(self._symbol, letter) for letter in letters], np.int32)
        return columns, ids[coded.indices.to_numpy()]


def _trades(columns: Columns, at: NDArray[np.int64], ids: NDArray[np.int32]) -> TickArray:
    rows = np.zeros(len(at), TICK)
    rows["ts_event"] = rows["ts_recv"] = at
    rows["instrument_id"] = ids
    rows["kind"], rows["action"], rows["flags"] = Kind.TRADE, Action.TRADE, Flag.LAST
    rows["price"], rows["size"] = columns["price"] * _PRICE_SCALE, columns["size"] * _SIZE_SCALE
    return rows


def _quotes(columns: Columns, at: NDArray[np.int64], ids: NDArray[np.int32]) -> TickArray:
    """A line tells one side, and the other is 0; a line with both or with neither is about both sides."""
    bid, ask = columns["bid"] > 0, columns["ask"] > 0
    both = bid == ask
    of_bid, of_ask = np.flatnonzero(bid | both), np.flatnonzero(ask | both)
    line = np.concatenate([of_bid, of_ask])
    rows = np.zeros(len(line), TICK)
    rows["ts_event"] = rows["ts_recv"] = at[line]
    rows["instrument_id"] = ids[line]
    rows["kind"], rows["flags"] = Kind.QUOTE, Flag.TOB
    rows["side"] = np.repeat(np.array([Side.BID, Side.ASK], np.uint8), [len(of_bid), len(of_ask)])
    rows["price"] = np.concatenate([columns["bid"][of_bid], columns["ask"][of_ask]]) * _PRICE_SCALE
    rows["size"] = np.concatenate([columns["bid_size"][of_bid], columns["ask_size"][of_ask]]) * _SIZE_SCALE
    rows["action"] = np.where((rows["price"] == 0) | (rows["size"] == 0), Action.DELETE, Action.UPDATE)
    order = np.argsort(line, kind="stable")
    rows, line = rows[order], line[order]
    rows["flags"][np.append(line[1:] != line[:-1], True)] |= np.uint8(Flag.LAST)
    return rows


def import_lean(sources: Sequence[Path], out: Path, *, terms: Terms | None = None) -> tuple[Day, ImportReport]:
    """Make a day of zip files; their order does not matter.

    Raises:
        InvalidInstrument: a CSV's name does not say what it holds.
        FileExistsError, TooManyRejects, UnreadableSource: see `write_day`.
    """
    letters, report = VenueLetters(), ImportReport.beside(out, terms)
    # by the CSV's name: the zip files of all symbols have the same names
    files = sorted((TickFile(path, letters, report) for path in sources), key=lambda file: file.member)
    day = write_day(
        files,
        out,
        importer="lean",
        dates=[file.date for file in files],
        instruments=letters.instruments,
        report=report,
    )
    return day, report
