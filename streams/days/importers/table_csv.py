"""CSV files with a header of trades, quotes or level updates."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from models.market.tick import TickArray
from streams.days.day import Day
from streams.days.importers.columns import DECIMAL, Run, csv_columns, read_block
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.symbols import Symbols
from streams.days.importers.table import NUMBERS, Parsed, TableFile, import_tables
from streams.days.importers.table_form import TIMES, TableForm
from streams.days.importers.text import Block, TextFile


class CsvFile(TableFile):
    """A CSV with a header, plain or packed; fields may stand in quotation marks, but not go over lines."""

    def __init__(self, path: Path, form: TableForm, symbols: Symbols, report: ImportReport) -> None:
        super().__init__(path, form, symbols, report)
        self._types: dict[str, pa.DataType] = {}  # of all columns, once the header is read

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

    def _parse_text(self, text: bytes) -> Parsed:
        return self._parse(csv_columns(text, self._types, nullable=frozenset(self._types), quoted=True))

    def _types_of(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        types = dict.fromkeys(names, pa.string())
        for name, column in self._fields.items():
            if name in NUMBERS or (name in TIMES and self._form.time_unit is not None):
                types[column] = DECIMAL
            elif name == "seq":
                types[column] = pa.int64()
        for name in TIMES:
            if name in self._fields:
                self._times.check(types[self._fields[name]], self._fields[name])
        return types

    def _refuse_at(self, run: Run[bytes, Parsed], at: int, reason: str) -> None:
        self._report.refuse(self._name, run.first + at, reason, run.source.split(b"\n")[at])


def import_csv(
    sources: Sequence[Path], out: Path, *, form: TableForm, terms: Terms | None = None
) -> tuple[Day, ImportReport]:
    """Make a day of CSV files of one form. Raises: as `import_tables`."""
    return import_tables("csv", CsvFile, sources, out, form=form, terms=terms)
