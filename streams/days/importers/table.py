"""Plain CSV (with a header) and Parquet files of trades, quotes or level updates, with a map of their columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.errors import InvalidInstrument, UnreadableSource
from models.market.instruments import parse
from models.market.tick import Side, TickArray
from streams.days.day import Day
from streams.days.importers.columns import (
    DECIMAL,
    N_EVIDENCE,
    Run,
    coded,
    csv_columns,
    digits,
    encoded,
    evidence,
    integers,
    numbers,
    read_block,
    read_parts,
)
from streams.days.importers.events import LevelUpdates, quote_rows, rows_at, trade_rows
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import write_day
from streams.days.importers.symbols import Symbols
from streams.days.importers.table_form import KINDS, TIMES, TableForm
from streams.days.importers.text import Block, TextFile
from streams.days.importers.times import UNITS, Times

_NUMBERS = frozenset({"price", "size", "bid_price", "bid_size", "ask_price", "ask_size"})
_BID, _ASK = int(Side.BID), int(Side.ASK)
_SIDES = dict.fromkeys(("buy", "bid", "b"), _BID) | dict.fromkeys(("sell", "ask", "s", "a"), _ASK)
_BATCH_ROWS = 65_536


class _Parsed(NamedTuple):
    """Good rows: times and instrument, numbers and codes by field; and the rows without an instrument."""

    rows: TickArray
    numbers: dict[str, NDArray[np.int64]]
    refused: dict[int, str]
    good: NDArray[np.intp]  # places of `rows` in the part


class TableFile:
    """Rows of one file."""

    def __init__(self, path: Path, form: TableForm, symbols: Symbols, report: ImportReport) -> None:
        self.paths = (path,)
        self._form, self._symbols, self._report = form, symbols, report
        self._name = path.name
        self._times = Times(form.time_unit, form.tz)
        self._updates = LevelUpdates(need_snapshot=False)
        self._newest: dict[int, int] = {}  # seq by instrument
        self._fields: dict[str, str] = {}
        self._types: dict[str, pa.DataType] = {}  # of a CSV's columns

    def _parse(self, table: pa.Table) -> _Parsed:
        """Raises: ArrowInvalid, ValueError with what is wrong in a row."""
        columns = {name: table.column(column) for name, column in self._fields.items()}
        event, recv = (
            self._times.instants(
                columns.get(name, columns.get("ts")), self._fields.get(name, self._fields.get("ts", ""))
            )
            for name in ("ts_event", "ts_recv")
        )
        ids, refused = self._ids(columns, len(event))
        good = np.flatnonzero(ids >= 0)
        rows = rows_at(event, recv, ids, KINDS[self._form.kind])[good]
        values = {}
        for name, column in columns.items():
            taken = column.take(pa.array(good)) if refused else column
            if name in _NUMBERS:
                if taken.null_count:
                    raise ValueError(f"{self._fields[name]} is empty")
                taken = taken.cast(DECIMAL)
                ids_of, instruments = rows["instrument_id"], self._symbols.instruments
                values[name] = numbers(taken, self._fields[name], ids_of, instruments, sizes=name.endswith("size"))
            elif name == "side":
                known = _SIDES if self._form.kind == "book" else _SIDES | {"": int(Side.NONE)}
                values[name] = coded(_lower(taken), known, self._fields[name])
            elif name == "trade_id":
                values[name] = digits(taken.cast(pa.string()).fill_null(""))
            elif name == "is_snapshot":
                values[name] = coded(_lower(taken), {"true": 1, "false": 0, "1": 1, "0": 0}, self._fields[name])
            elif name == "seq":
                if taken.null_count:
                    raise ValueError(f"{self._fields[name]} is empty")
                whole = pa.table({name: taken.cast(pa.int64())})
                values[name] = integers(whole, name, 0, 2**63 - 1)
        return _Parsed(rows, values, refused, good)

    def _ids(self, columns: Mapping[str, pa.ChunkedArray], n: int) -> tuple[NDArray[np.int32], dict[int, str]]:
        if self._form.instrument is not None:
            first = () if self._symbols.knows("") else self._first(columns, np.ones(n, bool))
            return np.full(n, self._symbols.id_of("", *first), np.int32), {}
        codes, names = encoded(columns["instrument"].cast(pa.string()).fill_null(""))
        ids, refused = np.full(len(names), -1, np.int32), dict[int, str]()
        for code, name in enumerate(names):
            try:
                first = () if self._symbols.knows(name) else self._first(columns, codes == code)
                ids[code] = self._symbols.id_of(name, *first)
            except InvalidInstrument as exc:
                refused |= dict.fromkeys(np.flatnonzero(codes == code).tolist(), str(exc.args[0]))
        return ids[codes], refused

    @staticmethod
    def _first(
        columns: Mapping[str, pa.ChunkedArray], wanted: NDArray[np.bool_]
    ) -> tuple[list[Decimal], list[Decimal]] | tuple[()]:
        """Prices and sizes of the first of these rows."""
        some = pa.table({name: columns[name] for name in columns.keys() & _NUMBERS})
        some = some.take(pa.array(np.flatnonzero(wanted)[:N_EVIDENCE]))
        prices = sorted(name for name in some.column_names if name.endswith("price"))
        return evidence(some, prices), evidence(some, [name for name in some.column_names if name not in prices])

    def _rows(self, parsed: _Parsed, refuse: Callable[[int, str], None]) -> TickArray:
        """Rows of the wire; `refuse` takes a row's place in the part and the reason."""
        refused = dict(parsed.refused)
        rows, values = parsed.rows, parsed.numbers
        if "seq" in values:
            kept = np.ones(len(rows), bool)
            for instrument in np.unique(rows["instrument_id"]).tolist():
                at = np.flatnonzero(rows["instrument_id"] == instrument)
                seq = values["seq"][at]
                before = np.maximum.accumulate(np.append(self._newest.get(instrument, -1), seq))
                self._newest[instrument] = int(before[-1])
                for k in np.flatnonzero(seq <= before[:-1]).tolist():
                    place = int(at[k])
                    kept[place] = False
                    refused[int(parsed.good[place])] = f"seq {seq[k]} does not rise, {before[k]} was there before"
            rows, values = rows[kept], {name: column[kept] for name, column in values.items()}
            rows["venue_seq"] = values["seq"]
        for bad in sorted(refused):
            refuse(bad, refused[bad])
        self._report.n_records += len(rows)
        none = np.zeros(len(rows), np.int64)
        if self._form.kind == "quote":
            bid, ask = ((values[f"{side}_price"], values[f"{side}_size"]) for side in ("bid", "ask"))
            return quote_rows(rows, bid=bid, ask=ask)
        price, size, side = values["price"], values["size"], values.get("side", none)
        if self._form.kind == "trade":
            return trade_rows(rows, price=price, size=size, side=side, ref_id=values.get("trade_id", none))
        rows["price"], rows["size"], rows["side"] = price, size, side
        return self._updates.rows(rows, values.get("is_snapshot", none).astype(bool))[0]


class CsvFile(TableFile):
    """A CSV with a header, plain or packed; fields may stand in quotation marks, but not go over lines."""

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        for block in TextFile(self.paths[0], self._report).blocks(progress, block_bytes):
            lines = block
            if not self._fields:
                header, newline, rest = block.text.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
                names = next(csv.reader([header.decode("utf-8", "backslashreplace").rstrip("\r")]), [])
                self._fields = self._form.fields(names, self._name)
                self._types = self._types_of(names)
                if not newline:
                    continue
                lines = Block(block.line + 1, rest)
            for run in read_block(lines, self._parse_text, self._report, self._name):
                yield self._rows(run.parsed, partial(self._refuse_at, run))
        yield self._updates.finish()

    def _parse_text(self, text: bytes) -> _Parsed:
        return self._parse(csv_columns(text, self._types, nullable=frozenset(self._types), quoted=True))

    def _types_of(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        types = dict.fromkeys(names, pa.string())
        for name, column in self._fields.items():
            if name in _NUMBERS or (name in TIMES and self._form.time_unit is not None):
                types[column] = DECIMAL
            elif name == "seq":
                types[column] = pa.int64()
        for name in TIMES:
            if name in self._fields:
                self._times.check(types[self._fields[name]], self._fields[name])
        return types

    def _refuse_at(self, run: Run[bytes, _Parsed], at: int, reason: str) -> None:
        self._report.refuse(self._name, run.first + at, reason, run.source.split(b"\n")[at])


class ParquetTable(TableFile):
    """A Parquet file, read in batches of its rows."""

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        path, row = self.paths[0], 1
        try:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as parquet:
                self._fields = self._form.fields(parquet.schema_arrow.names, self._name)
                self._check(parquet.schema_arrow)
                n_rows, n_bytes = parquet.metadata.num_rows, path.stat().st_size
                batches = parquet.iter_batches(batch_size=min(_BATCH_ROWS, block_bytes >> 5), columns=self._columns())
                for batch in batches:
                    part = pa.Table.from_batches([batch])
                    yield from self._read(row, part)
                    row += len(part)
                    progress(n_bytes * (row - 1) // n_rows)
        except (pa.ArrowException, OSError) as exc:
            self._report.damaged(self._name, row, str(exc).splitlines()[0])
        yield self._updates.finish()

    def _columns(self) -> list[str]:
        return sorted(set(self._fields.values()))

    def _check(self, schema: pa.Schema) -> None:
        for name, column in self._fields.items():
            kind = schema.field(column).type
            if name in TIMES:
                self._times.check(kind, column)
            elif name in _NUMBERS and pa.types.is_floating(kind):
                raise UnreadableSource(
                    f"{self._name}: column {column} is {kind}, and a float does not hold 0.1: cast it to "
                    "decimal128(38, 9) or string where the exact value is known"
                )

    def _read(self, first: int, part: pa.Table) -> Iterator[TickArray]:
        def halves(table: pa.Table) -> tuple[pa.Table, int, pa.Table] | None:
            half = len(table) // 2
            return (table.slice(0, half), half, table.slice(half)) if half else None

        def refuse(row: int, reason: str, table: pa.Table) -> None:
            self._report.refuse(self._name, row, reason, repr(table.to_pylist()[0]).encode())

        def refuse_at(run: Run[pa.Table, _Parsed], at: int, reason: str) -> None:
            refuse(run.first + at, reason, run.source.slice(at, 1))

        for run in read_parts(first, part, parse=self._parse, halves=halves, refuse=refuse):
            yield self._rows(run.parsed, partial(refuse_at, run))


def _lower(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_lower(column.cast(pa.string())).fill_null("")


def _import(
    importer: str,
    make: type[CsvFile] | type[ParquetTable],
    sources: Sequence[Path],
    out: Path,
    *,
    form: TableForm,
    terms: Terms | None,
) -> tuple[Day, ImportReport]:
    if form.kind not in KINDS or form.time_unit not in (None, *UNITS):
        raise UnreadableSource(f"a table is of kind {', '.join(KINDS)} and its times of unit {', '.join(UNITS)}")
    report = ImportReport.beside(out, terms)
    symbols = Symbols(parse if form.instrument is None else lambda name: form.instrument or parse(name), form.named)
    files = [make(path, form, symbols, report) for path in sorted(sources, key=lambda path: path.name)]
    day = write_day(
        files,
        out,
        importer=importer,
        dates=[re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.partition(".")[0]) for path in sources],
        instruments=symbols.instruments,
        report=report,
        options=form.options(),
    )
    return day, report


def import_csv(
    sources: Sequence[Path], out: Path, *, form: TableForm, terms: Terms | None = None
) -> tuple[Day, ImportReport]:
    """Make a day of CSV files of one form.

    Raises:
        FileExistsError, TooManyRejects, UnreadableSource: see `write_day`.
    """
    return _import("csv", CsvFile, sources, out, form=form, terms=terms)


def import_parquet(
    sources: Sequence[Path], out: Path, *, form: TableForm, terms: Terms | None = None
) -> tuple[Day, ImportReport]:
    """Make a day of Parquet files of one form. Raises: as `import_csv`."""
    return _import("parquet", ParquetTable, sources, out, form=form, terms=terms)
