"""Plain tables of trades, quotes or level updates with a map of their columns: what CSV and Parquet files share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import InvalidInstrument, UnreadableSource
from models.market.instruments import parse
from models.market.tick import Side, TickArray
from streams.days.day import Day
from streams.days.importers.columns import (
    DECIMAL,
    N_EVIDENCE,
    coded,
    digits,
    encoded,
    evidence,
    integers,
    numbers,
)
from streams.days.importers.events import LevelUpdates, quote_rows, rows_at, trade_rows
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import NamedSource, import_named
from streams.days.importers.symbols import Symbols
from streams.days.importers.table_form import KINDS, TableForm
from streams.days.importers.times import UNITS, Times

NUMBERS = frozenset({"price", "size", "bid_price", "bid_size", "ask_price", "ask_size"})
_BID, _ASK = int(Side.BID), int(Side.ASK)
_SIDES = dict.fromkeys(("buy", "bid", "b"), _BID) | dict.fromkeys(("sell", "ask", "s", "a"), _ASK)


F = TypeVar("F", bound=NamedSource)


class Parsed(NamedTuple):
    """Good rows: times and instrument, numbers and codes by field; and the rows without an instrument."""

    rows: TickArray
    numbers: dict[str, NDArray[np.int64]]
    refused: dict[int, str]
    good: NDArray[np.intp]  # places of `rows` in the part


class TableFile:
    """Rows of one file; how they are read is a subclass's."""

    def __init__(self, path: Path, form: TableForm, symbols: Symbols, report: ImportReport) -> None:
        self.paths = (path,)
        self._form, self._symbols, self._report = form, symbols, report
        self._name = path.name
        self.date = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.partition(".")[0])
        self._times = Times(form.time_unit, form.tz)
        self._updates = LevelUpdates(need_snapshot=False)
        self._newest: dict[int, int] = {}  # seq by instrument
        self._fields: dict[str, str] = {}

    def _parse(self, table: pa.Table) -> Parsed:
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
            if name in NUMBERS:
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
        return Parsed(rows, values, refused, good)

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
        some = pa.table({name: columns[name] for name in columns.keys() & NUMBERS})
        some = some.take(pa.array(np.flatnonzero(wanted)[:N_EVIDENCE]))
        prices = sorted(name for name in some.column_names if name.endswith("price"))
        return evidence(some, prices), evidence(some, [name for name in some.column_names if name not in prices])

    def _rows(self, parsed: Parsed, refuse: Callable[[int, str], None]) -> TickArray:
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


def _lower(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_lower(column.cast(pa.string())).fill_null("")


def import_tables(
    importer: str,
    make: Callable[[Path, TableForm, Symbols, ImportReport], F],
    sources: Sequence[Path],
    out: Path,
    *,
    form: TableForm,
    terms: Terms | None,
    check: Callable[[Sequence[F]], None] = lambda files: None,
) -> tuple[Day, ImportReport]:
    """Make a day of files of one form.

    Args:
        importer: for the manifest.
        make: a file's rows.
        check: looks at all files before they are read; may raise UnreadableSource.

    Raises:
        FileExistsError, TooManyRejects, UnreadableSource: see `write_day`.
    """
    if form.kind not in KINDS or form.time_unit not in (None, *UNITS):
        raise UnreadableSource(f"a table is of kind {', '.join(KINDS)} and its times of unit {', '.join(UNITS)}")
    return import_named(
        importer,
        lambda path, symbols, report: make(path, form, symbols, report),
        sources,
        out,
        symbols=Symbols(parse if form.instrument is None else lambda name: form.instrument or parse(name), form.named),
        terms=terms,
        options=form.options(),
        check=check,
    )
