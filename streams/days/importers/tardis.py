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
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.errors import InvalidInstrument, UnreadableSource
from models.market.instruments import Instrument
from models.market.tick import Action, Flag, Kind, Side, TickArray
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
    mantissas,
    numbers,
    read_block,
)
from streams.days.importers.events import LevelUpdates, quote_rows, rows_at, snapshot_rows, trade_rows
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import write_day
from streams.days.importers.symbols import Symbols, told
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
        **dict.fromkeys(("funding_rate", "predicted_funding_rate", "open_interest"), DECIMAL),
        **dict.fromkeys(("last_price", "index_price", "mark_price"), DECIMAL),
    },
}
_TAKERS = {"buy": int(Side.BID), "sell": int(Side.ASK), "unknown": int(Side.NONE)}
_BOOK_SIDES = {"bid": int(Side.BID), "ask": int(Side.ASK)}


class _Lines(NamedTuple):
    """Good lines.

    Attributes:
        rows: one each, with times and instrument.
        table: their columns.
        numbers: mantissas of the columns of decimals; 0 where a field is empty.
        refused: lines beside them whose instrument is not known, by their place in the text, and why.
    """

    rows: TickArray
    table: pa.Table
    numbers: dict[str, NDArray[np.int64]]
    refused: dict[int, str]

    def has(self, name: str) -> NDArray[np.bool_]:
        """Which lines have something in this column."""
        there: NDArray[np.bool_] = self.table.column(name).is_valid().to_numpy().astype(bool)
        return there


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
        self._updates = LevelUpdates(need_snapshot=True)
        self._headed = False
        self._types = _HEAD | _columns_of(self._type)
        self._nullable = frozenset() if "id" in self._types or "is_snapshot" in self._types else frozenset(self._types)
        self._nullable -= _HEAD.keys()
        self._make: Callable[[_Lines], TickArray] = {
            "trades": self._trades,
            "liquidations": self._trades,
            "quotes": self._quotes,
            "book_ticker": self._quotes,
            "incremental_book_L2": self._levels,
            "derivative_ticker": self._ticker,
        }.get(self._type, self._snapshots)

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
        yield self._updates.finish()

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

    def _parse(self, text: bytes) -> _Lines:
        table = csv_columns(text, self._types, nullable=self._nullable)
        event, recv = (integers(table, name, _FIRST_US, _LAST_US) * 1000 for name in ("timestamp", "local_timestamp"))
        ids, refused = self._ids(table)
        rows = rows_at(event, recv, ids, Kind.TRADE)
        if refused:
            good = ids >= 0
            rows, table = rows[good], table.filter(pa.array(good))
        values = {name: self._number(table, rows, name) for name, kind in self._types.items() if kind == DECIMAL}
        lines = _Lines(rows, table, values, refused)
        for name in values:
            size = name.replace("price", "amount")
            if size in values and (lines.has(name) != lines.has(size)).any():
                raise ValueError(f"{name} and {size} are not both there")
        if "side" in self._types:
            coded(table.column("side"), _BOOK_SIDES if "is_snapshot" in self._types else _TAKERS, "side")
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
        return evidence(some, [n for n in self._types if "price" in n]), evidence(
            some, [n for n in self._types if "amount" in n]
        )

    def _number(self, table: pa.Table, rows: TickArray, name: str) -> NDArray[np.int64]:
        column, ids = table.column(name), rows["instrument_id"]
        if "rate" in name:
            return mantissas(column, name, -9)
        sizes = "amount" in name or name == "open_interest"
        return numbers(column, name, ids, self._symbols.instruments, sizes=sizes)

    def _rows(self, run: Run[bytes, _Lines]) -> TickArray:
        refused = run.parsed.refused
        if refused:
            lines = run.source.split(b"\n")
            for at in sorted(refused):
                self._report.refuse(self._text.name, run.first + at, refused[at], lines[at])
        self._report.n_records += len(run.parsed.rows)
        return self._make(run.parsed)

    def _trades(self, lines: _Lines) -> TickArray:
        rows, table, values = lines.rows, lines.table, lines.numbers
        liquidations = self._type == "liquidations"
        rows["kind"] = Kind.LIQUIDATION if liquidations else Kind.TRADE
        return trade_rows(
            rows,
            price=values["price"],
            size=values["amount"],
            side=coded(table.column("side"), _TAKERS, "side"),
            ref_id=0 if liquidations else digits(table.column("id")),
        )

    def _quotes(self, lines: _Lines) -> TickArray:
        lines.rows["kind"] = Kind.QUOTE
        values = lines.numbers
        bid, ask = ((values[f"{side}_price"], values[f"{side}_amount"]) for side in ("bid", "ask"))
        return quote_rows(lines.rows, bid=bid, ask=ask)

    def _levels(self, lines: _Lines) -> TickArray:
        rows, table = lines.rows, lines.table
        rows["kind"] = Kind.BOOK
        rows["side"] = coded(table.column("side"), _BOOK_SIDES, "side")
        rows["price"], rows["size"] = lines.numbers["price"], lines.numbers["amount"]
        made, n_early = self._updates.rows(rows, table.column("is_snapshot").to_numpy().astype(bool))
        if n_early:
            self._report.explained["updates before the first snapshot"] += n_early
        return made

    def _snapshots(self, lines: _Lines) -> TickArray:
        lines.rows["kind"] = Kind.BOOK
        places = [name.removesuffix(".price") for name in self._types if name.endswith(".price")]
        places.sort(key=lambda place: (place.startswith("asks"), int(place[5:-1])))
        price, size = (
            np.column_stack([lines.numbers[f"{place}.{what}"] for place in places]) for what in ("price", "amount")
        )
        side = np.array([Side.ASK if place.startswith("asks") else Side.BID for place in places], np.int64)
        return snapshot_rows(lines.rows, side, price, size, size > 0)

    def _ticker(self, lines: _Lines) -> TickArray:
        """Funding where there is a rate (with mark and index price), open interest where it is told."""
        rows, values = lines.rows, lines.numbers
        rate, interest = lines.has("funding_rate"), lines.has("open_interest")
        due = lines.table.column("funding_timestamp").fill_null(0).to_numpy() * 1000
        parts = []
        for field, name in enumerate(("funding_rate", "mark_price", "index_price")):
            at = np.flatnonzero(rate & lines.has(name))
            part = rows[at]
            part["kind"], part["side"], part["price"] = Kind.FUNDING, field, values[name][at]
            part["ref_id"] = due[at] if field == 0 else 0
            parts.append((2 * at, part))
        at = np.flatnonzero(interest)
        part = rows[at]
        part["kind"], part["size"] = Kind.OPEN_INTEREST, values["open_interest"][at]
        parts.append((2 * at + 1, part))
        event = np.concatenate([place for place, _ in parts])
        order = np.argsort(event, kind="stable")
        made, event = np.concatenate([part for _, part in parts])[order], event[order]
        made["action"] = Action.UPDATE
        made["flags"][np.append(event[1:] != event[:-1], True)[: len(made)]] = Flag.LAST
        if n_silent := int((~rate & ~interest).sum()):
            self._report.explained["ticker without funding rate and open interest"] += n_silent
        return made


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
        FileExistsError, TooManyRejects, UnreadableSource: see `write_day`.
    """
    report = ImportReport.beside(out, terms)
    symbols = Symbols(by_exchange, named)
    files = [TardisFile(path, symbols, report) for path in sorted(sources, key=lambda path: path.name)]
    day = write_day(
        files,
        out,
        importer="tardis",
        dates=[file.date for file in files],
        instruments=symbols.instruments,
        report=report,
        options=told(named or {}),
    )
    return day, report
