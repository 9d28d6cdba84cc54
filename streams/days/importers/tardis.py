"""Tardis CSV datasets: trades, liquidations, quotes, book_ticker, incremental_book_L2, book_snapshot_N and tickers.

Times are microseconds since 1970, `timestamp` the venue's (`ts_event`), `local_timestamp` the receipt's (`ts_recv`).
Files are named as Tardis names them, `<exchange>_<data type>_<yyyy-mm-dd>_<symbol>.csv.gz`: trades and liquidations
have the same columns, so only the name tells.
Source: https://docs.tardis.dev/downloadable-csv-files/data-types
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.errors import InvalidInstrument, UnreadableSource
from models.market.instruments import Instrument
from models.market.tick import Kind, TickArray
from streams.days.day import Day
from streams.days.importers.columns import (
    DECIMAL,
    N_EVIDENCE,
    Run,
    coded,
    csv_columns,
    encoded,
    evidence,
    integers,
    mantissas,
    numbers,
    read_block,
)
from streams.days.importers.events import rows_at
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import import_named
from streams.days.importers.symbols import Symbols, told
from streams.days.importers.tardis_rows import BOOK_SIDES, TAKERS, Lines, TardisRows
from streams.days.importers.text import Block, TextFile
from streams.days.importers.venues import by_exchange

_FILE = re.compile(
    r"(?:.*_)?(trades|liquidations|quotes|book_ticker|incremental_book_L2|book_snapshot_[0-9]+|derivative_ticker)"
    r"_([0-9]{4}-[0-9]{2}-[0-9]{2})_.*\.csv(?:\.gz|\.zst)?"
)
_FIRST_US, _LAST_US = 1_230_940_800 * 10**6, 4_102_444_800 * 10**6  # 2009-01-03, 2100-01-01
_HEAD = {"exchange": pa.string(), "symbol": pa.string(), "timestamp": pa.int64(), "local_timestamp": pa.int64()}
_TRADE = {"id": pa.string(), "side": pa.string(), "price": DECIMAL, "amount": DECIMAL}
_QUOTE = dict.fromkeys(("ask_amount", "ask_price", "bid_price", "bid_amount"), DECIMAL)
_COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "trades": _TRADE,
    "liquidations": _TRADE,
    "quotes": _QUOTE,
    "book_ticker": _QUOTE,
    "incremental_book_L2": {"is_snapshot": pa.bool_(), "side": pa.string(), "price": DECIMAL, "amount": DECIMAL},
    "derivative_ticker": {
        "funding_timestamp": pa.int64(),
        **dict.fromkeys(("funding_rate", "open_interest", "index_price", "mark_price"), DECIMAL),
        **dict.fromkeys(("predicted_funding_rate", "last_price"), pa.string()),  # not kept, so they need not fit
    },
}


class TardisFile:
    """Rows of one file.

    Raises:
        UnreadableSource: its name does not say what it holds.
    """

    def __init__(self, path: Path, symbols: Symbols, report: ImportReport) -> None:
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise UnreadableSource(
                f"{path.name} is not named <exchange>_<data type>_<yyyy-mm-dd>_<symbol>.csv.gz with a data type of "
                f"{', '.join(_COLUMNS)} or book_snapshot_N"
            )
        self.paths = (path,)
        self.date = match[2].replace("-", "")
        self._type, self._symbols, self._report = match[1], symbols, report
        self._text = TextFile(path, report)
        self._make = TardisRows(self._type, report)
        self._headed = False
        self._types = _HEAD | _columns_of(self._type)
        self._nullable = frozenset() if "id" in self._types or "is_snapshot" in self._types else frozenset(self._types)
        self._nullable -= _HEAD.keys()

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        for block in self._text.blocks(progress, block_bytes):
            lines = block
            if not self._headed:
                header, newline, rest = block.text.partition(b"\n")
                self._check_header(header.decode("utf-8", "backslashreplace").rstrip("\r").split(","))
                if not newline:
                    continue
                lines = Block(block.line + 1, rest)
            for run in read_block(lines, self._parse, self._report, self._text.name):
                yield self._rows(run)
        yield self._make.finish()

    def _check_header(self, names: Sequence[str]) -> None:
        """Columns may stand in any order, but each must be known and none missing."""
        unknown, missing = [n for n in names if n not in self._types], [n for n in self._types if n not in names]
        if unknown or missing or len(set(names)) != len(names):
            raise UnreadableSource(
                f"{self._text.name}: not the columns of {self._type}: "
                + "; ".join(
                    f"{what} {', '.join(map(repr, found[:5]))}"
                    for what, found in (
                        ("unknown", unknown),
                        ("missing", missing),
                        ("twice", sorted({n for n in names if names.count(n) > 1})),
                    )
                    if found
                )
            )
        self._types = {name: self._types[name] for name in names}
        self._headed = True

    def _parse(self, text: bytes) -> Lines:
        table = csv_columns(text, self._types, nullable=self._nullable)
        event, recv = (integers(table, name, _FIRST_US, _LAST_US) * 1000 for name in ("timestamp", "local_timestamp"))
        ids, refused = self._ids(table)
        rows = rows_at(event, recv, ids, Kind.TRADE)
        if refused:
            good = ids >= 0
            rows, table = rows[good], table.filter(pa.array(good))
        values = {name: self._number(table, rows, name) for name, kind in self._types.items() if kind == DECIMAL}
        lines = Lines(rows, table, values, refused)
        for name in values:
            size = name.replace("price", "amount")
            if size in values and (lines.has(name) != lines.has(size)).any():
                raise ValueError(f"{name} and {size} are not both there")
        if "side" in self._types:
            coded(table.column("side"), BOOK_SIDES if "is_snapshot" in self._types else TAKERS, "side")
        return lines

    def _ids(self, table: pa.Table) -> tuple[NDArray[np.int32], dict[int, str]]:
        (exchange, exchanges), (symbol, texts) = (encoded(table.column(name)) for name in ("exchange", "symbol"))
        _, first, of = np.unique(exchange * len(texts) + symbol, return_index=True, return_inverse=True)
        ids, refused = np.full(len(first), -1, np.int32), dict[int, str]()
        for i in np.argsort(first).tolist():
            at = int(first[i])
            name = f"{exchanges[exchange[at]]}:{texts[symbol[at]]}"
            try:
                ids[i] = self._symbols.id_of(name, *(() if self._symbols.knows(name) else self._first(table, of == i)))
            except InvalidInstrument as exc:
                refused |= dict.fromkeys(np.flatnonzero(of == i).tolist(), str(exc.args[0]))
        return ids[of], refused

    def _first(self, table: pa.Table, wanted: NDArray[np.bool_]) -> tuple[list[Decimal], list[Decimal]]:
        """Prices and sizes of the first of these lines."""
        some = table.take(pa.array(np.flatnonzero(wanted)[:N_EVIDENCE]))
        exact = [name for name, kind in self._types.items() if kind == DECIMAL]
        prices, sizes = ([name for name in exact if what in name] for what in ("price", "amount"))
        return evidence(some, prices), evidence(some, sizes)

    def _number(self, table: pa.Table, rows: TickArray, name: str) -> NDArray[np.int64]:
        column, ids = table.column(name), rows["instrument_id"]
        if "rate" in name:
            return mantissas(column, name, -9)
        sizes = "amount" in name or name == "open_interest"
        return numbers(column, name, ids, self._symbols.instruments, sizes=sizes)

    def _rows(self, run: Run[bytes, Lines]) -> TickArray:
        refused = run.parsed.refused
        if refused:
            lines = run.source.split(b"\n")
            for at in sorted(refused):
                self._report.refuse(self._text.name, run.first + at, refused[at], lines[at])
        self._report.n_records += len(run.parsed.rows)
        return self._make.rows(run.parsed)


def _columns_of(data_type: str) -> dict[str, pa.DataType]:
    if data_type in _COLUMNS:
        return _COLUMNS[data_type]
    levels = range(int(data_type.rpartition("_")[2]))
    return {f"{side}[{k}].{what}": DECIMAL for k in levels for side in ("asks", "bids") for what in ("price", "amount")}


def import_tardis(
    sources: Sequence[Path],
    out: Path,
    *,
    named: Mapping[str, Instrument] | None = None,
    terms: Terms | None = None,
) -> tuple[Day, ImportReport]:
    """Make a day of Tardis files; their order does not matter.

    Args:
        named: instruments of symbols whose exchange or form is not known here, or that stand for something else.

    Raises:
        FileExistsError, TooManyRejects, UnreadableSource: as `import_named`.
    """
    return import_named(
        "tardis",
        TardisFile,
        sources,
        out,
        symbols=Symbols(by_exchange, named),
        terms=terms,
        options=told(named or {}),
    )
