"""Parquet files of trades, quotes or level updates, in memory that does not hang on how they were written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import UnreadableSource
from models.market.tick import TickArray
from streams.days.day import Day
from streams.days.importers.columns import Run, read_parts
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.symbols import Symbols
from streams.days.importers.table import NUMBERS, Parsed, TableFile, import_tables
from streams.days.importers.table_form import TIMES, TableForm
from streams.days.pages import MAX_RATIO, is_bomb, pages_of

_BATCH_ROWS = 65_536
_TEXT_TYPES = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary
_BUFFER_BYTES = 1 << 20  # of each column: a row group is not read as a whole
MAX_PAGES_BYTES = 64 << 20  # of all files: unpacked pages and what is made of them take several times this
MAX_TEXT_BYTES = 1024  # a dictionary's entry stands in few bytes for any number of rows


class ParquetTable(TableFile):
    """A Parquet file, read in batches of its rows.

    Attributes:
        page_bytes: what the largest pages of its columns unpack to together.

    Raises:
        UnreadableSource: a column is missing or of no use, or the file is a decompression bomb.
    """

    def __init__(self, path: Path, form: TableForm, symbols: Symbols, report: ImportReport) -> None:
        super().__init__(path, form, symbols, report)
        self.page_bytes, self._n_rows = 0, 0
        self._texts: list[str] = []
        self._groups: list[int] = []  # row groups that can be read
        self._damage = ""  # what is wrong with the one behind them
        n_bytes, unpacked = path.stat().st_size, 0
        try:
            with pq.ParquetFile(path) as parquet:
                self._fields = form.fields(parquet.schema_arrow.names, self._name)
                self._check(parquet.schema_arrow)
                for pages in pages_of(path, parquet.metadata, self._columns()):
                    self._groups.append(len(self._groups))
                    self.page_bytes, unpacked = max(self.page_bytes, pages.largest), unpacked + pages.unpacked
        except (pa.ArrowException, OSError, ValueError) as exc:
            self._damage = str(exc).splitlines()[0]
        if is_bomb(n_bytes, unpacked):
            raise UnreadableSource(
                f"{path}: {n_bytes} bytes unpack to {unpacked}, more than {MAX_RATIO} times as much: a decompression "
                "bomb, no recording of a market; write it anew without compression if you trust it"
            )

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        row = 1
        try:
            for part in self._parts(min(_BATCH_ROWS, block_bytes >> 5)) if self._groups else ():
                yield from self._read(row, self._decoded(row, part))
                row += len(part)
                progress(self.paths[0].stat().st_size * (row - 1) // self._n_rows)
        except (pa.ArrowException, OSError) as exc:
            self._damage = str(exc).splitlines()[0]
        if self._damage:
            self._report.damaged(self._name, row, self._damage)
        yield self._updates.finish()

    def _parts(self, n_rows: int) -> Iterator[pa.Table]:
        """Texts stay as numbers into a dictionary: each of its entries is in memory once."""
        names, path = self._columns(), self.paths[0]
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES, read_dictionary=self._texts) as parquet:
            self._n_rows = parquet.metadata.num_rows
            for batch in parquet.iter_batches(batch_size=n_rows, row_groups=self._groups, columns=names):
                yield pa.Table.from_batches([batch])

    def _decoded(self, row: int, part: pa.Table) -> pa.Table:
        """With texts as texts. Raises: UnreadableSource when one is longer than any that says something."""
        for number, field in enumerate(part.schema):
            if pa.types.is_dictionary(field.type):
                column = part.column(number)
                for chunk in column.chunks:
                    longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
                    if longest > MAX_TEXT_BYTES:
                        raise UnreadableSource(
                            f"{self._name}: column {field.name} has a text of {longest} bytes from row {row} on, and "
                            f"{MAX_TEXT_BYTES} are allowed"
                        )
                part = part.set_column(number, field.name, column.cast(field.type.value_type))
        return part

    def _columns(self) -> list[str]:
        return sorted(set(self._fields.values()))

    def _check(self, schema: pa.Schema) -> None:
        for name, column in self._fields.items():
            kind = schema.field(column).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
                raise UnreadableSource(f"{self._name}: column {column} is {kind}: neither numbers, times nor texts")
            if any(is_text(kind) for is_text in _TEXT_TYPES):
                self._texts.append(column)
            if name in TIMES:
                self._times.check(kind, column)
            elif name in NUMBERS and pa.types.is_floating(kind):
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

        def refuse_at(run: Run[pa.Table, Parsed], at: int, reason: str) -> None:
            refuse(run.first + at, reason, run.source.slice(at, 1))

        for run in read_parts(first, part, parse=self._parse, halves=halves, refuse=refuse):
            yield self._rows(run.parsed, partial(refuse_at, run))


def _check_pages(files: Sequence[ParquetTable]) -> None:
    """Raises: UnreadableSource when the files' pages do not fit into memory together."""
    if (n_bytes := sum(file.page_bytes for file in files)) > MAX_PAGES_BYTES:
        largest = max(files, key=lambda file: file.page_bytes)
        raise UnreadableSource(
            f"{largest.paths[0]}: a page of each column unpacks to {largest.page_bytes} bytes, those of all files to "
            f"{n_bytes}, and {MAX_PAGES_BYTES} are allowed: write it with smaller pages, or import fewer files at once"
        )


def import_parquet(
    sources: Sequence[Path], out: Path, *, form: TableForm, terms: Terms | None = None
) -> tuple[Day, ImportReport]:
    """Make a day of Parquet files of one form. Raises: as `import_tables`."""
    return import_tables("parquet", ParquetTable, sources, out, form=form, terms=terms, check=_check_pages)
