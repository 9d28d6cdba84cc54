"""Databento's DBN files: trades, TBBO, MBP-1, MBP-10 and MBO records, plain or zstd.

Source: https://databento.com/docs/schemas-and-data-formats
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidInstrument, UnreadableSource
from models.market.instruments import Instrument
from models.market.tick import TICK, TickArray
from streams.days.day import Day
from streams.days.importers.dbn_rows import DbnRows
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.source import import_named
from streams.days.importers.symbols import Symbols, told
from streams.days.importers.text import DAMAGE, PackedFile

_PIECE_BYTES = 1 << 20  # a record's object takes several times its bytes
_DAY_NS = 86_400 * 10**9
_SPOKEN = (dbn.TradeMsg, dbn.MBP1Msg, dbn.MBP10Msg, dbn.MBOMsg)
_PUBLISHER = re.compile(r"publisher_id=[A-Z0-9]+\.[A-Z0-9]+\.([A-Z0-9]+) \([0-9]+\)")


class DbnNames(NamedTuple):
    """What DBN does not say about its symbols: the market type, the currency of prices, or whole instruments."""

    market_type: str | None = None
    quote: str | None = None
    named: Mapping[str, Instrument] = {}


class _Rule:
    """The instrument of `<venue>:<symbol>`."""

    def __init__(self, names: DbnNames) -> None:
        self._names = names
        self._venue_of: dict[str, str] = {}

    def __call__(self, name: str) -> Instrument:
        names = self._names
        venue, _, symbol = name.partition(":")
        if symbol in names.named:
            first = self._venue_of.setdefault(symbol, venue)
            if first != venue:
                raise InvalidInstrument(f"{symbol} comes from {first} and from {venue}, but has one --symbol")
            return names.named[symbol]
        if names.market_type is None or names.quote is None:
            raise InvalidInstrument(
                f"DBN does not say what {symbol} is: say --market-type and --quote, or --symbol {symbol}=INSTRUMENT"
            )
        return Instrument(venue, names.market_type, f"{symbol}-{names.quote}")


class _Mapping:
    """Symbols of instrument numbers, by UTC date."""

    def __init__(self, metadata: Any) -> None:
        self._intervals: dict[int, list[tuple[date, date, str]]] = {}
        self._live: dict[int, str] = {}
        to_number = str(metadata.stype_out) == str(dbn.SType.INSTRUMENT_ID)
        for raw, intervals in metadata.mappings.items():
            for interval in intervals:
                number, symbol = (interval["symbol"], raw) if to_number else (raw, interval["symbol"])
                if number.isdigit():
                    span = (interval["start_date"], interval["end_date"], symbol)
                    self._intervals.setdefault(int(number), []).append(span)

    def learn(self, record: Any) -> None:
        self._live[record.instrument_id] = record.stype_out_symbol or record.stype_in_symbol

    def symbol(self, number: int, day: int) -> str | None:
        """Days since 1970; an interval's end is not part of it."""
        at = date(1970, 1, 1) + timedelta(days=day)
        found = (symbol for start, end, symbol in self._intervals.get(number, ()) if start <= at < end)
        return next(found, None) or self._live.get(number)


class DbnFile:
    """Rows of one file. Records of other schemas are refused; system and symbol mapping records are explained.

    Raises:
        UnreadableSource: it does not begin with DBN's metadata.
    """

    def __init__(self, path: Path, symbols: Symbols, report: ImportReport) -> None:
        self.paths = (path,)
        self._file, self._symbols, self._report = PackedFile(path), symbols, report
        self._make = DbnRows()
        start = self._decoded(ImportReport(), lambda n_bytes: None, 1 << 16)
        metadata = next((record for records in start for record in records), None)
        if not isinstance(metadata, dbn.Metadata):
            raise UnreadableSource(f"{path}: does not begin with DBN metadata; cut, or no DBN file")
        self._mapping = _Mapping(metadata)
        self._is_tbbo = metadata.schema == dbn.Schema.TBBO
        self._dataset = metadata.dataset.lower().replace(".", "-")
        self._venues: dict[int, str] = {}
        self.date = datetime.fromtimestamp(metadata.start / 1e9, UTC).strftime("%Y%m%d")

    def _decoded(self, report: ImportReport, progress: Callable[[int], None], n_bytes: int) -> Iterator[list[Any]]:
        decoder, n = dbn.DBNDecoder(), 0
        try:
            for piece in self._file.pieces(progress, n_bytes):
                try:
                    records = decoder.write_and_decode(piece)
                except (KeyboardInterrupt, SystemExit, GeneratorExit):
                    raise
                except BaseException as exc:  # the library also panics, and its panic is no Exception
                    report.damaged(self._file.name, n + 1, str(exc).splitlines()[0])
                    return
                n += len(records)
                yield records
        except DAMAGE as exc:
            report.damaged(self._file.name, n, str(exc))
            return
        if left := len(decoder.buffer()):
            report.damaged(self._file.name, n, f"{left} bytes of an unfinished record")

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]:
        n = 0  # metadata is not counted, so a record's number is 1 for the first
        for records in self._decoded(self._report, progress, min(block_bytes, _PIECE_BYTES)):
            of_kind = [record for record in records if not isinstance(record, dbn.Metadata)]
            parts = []
            for kind, group in groupby(of_kind, type):
                same = list(group)
                parts.append(self._rows(kind, same, n + 1))
                n += len(same)
            yield self._make.seal(np.concatenate(parts) if parts else np.empty(0, TICK))
        yield self._make.seal(np.empty(0, TICK), ended=True)

    def _rows(self, kind: Any, records: list[Any], first: int) -> TickArray:
        if kind is dbn.SymbolMappingMsg:
            for record in records:
                self._mapping.learn(record)
        if kind in (dbn.SymbolMappingMsg, dbn.SystemMsg):
            self._report.explained[kind.__name__] += len(records)
            self._report.n_records += len(records)
            return np.empty(0, TICK)
        if kind not in _SPOKEN:
            for number, record in enumerate(records, first):
                self._refuse(number, f"{kind.__name__} is none of trades, tbbo, mbp-1, mbp-10, mbo", record)
            return np.empty(0, TICK)
        size = kind.size_hint
        table = np.frombuffer(b"".join(bytes(record)[:size] for record in records), np.dtype(kind._dtypes))
        reasons: dict[int, str] = {}
        ids = self._ids(table, records, reasons)
        rows = self._make.rows(table, ids, reasons, quotes_first=self._is_tbbo)
        for at in sorted(reasons):
            self._refuse(first + at, reasons[at], records[at])
        self._report.n_records += len(records) - len(reasons)
        return rows

    def _refuse(self, number: int, reason: str, record: Any) -> None:
        self._report.refuse(self._file.name, number, reason, bytes(record).hex().encode())

    def _ids(self, table: NDArray[np.void], records: list[Any], reasons: dict[int, str]) -> NDArray[np.int32]:
        """Instrument of each record; -1 and a reason where none is known."""
        bad = np.maximum(table["ts_recv"], table["ts_event"]) >= np.uint64(1 << 63)
        reasons |= dict.fromkeys(np.flatnonzero(bad).tolist(), "no time")
        days = np.where(bad, 0, table["ts_recv"] // np.uint64(_DAY_NS)).astype(np.int64)
        publishers = table["publisher_id"].astype(np.int64)
        _, coarse = np.unique(publishers << 32 | days, return_inverse=True)
        _, first, of = np.unique(coarse << 32 | table["instrument_id"], return_index=True, return_inverse=True)
        ids = np.full(len(first), -1, np.int32)
        for i in np.argsort(first).tolist():
            at_first = first[i]
            publisher, number, day = (int(x[at_first]) for x in (publishers, table["instrument_id"], days))
            symbol = self._mapping.symbol(number, day)
            if symbol is None:
                on = date(1970, 1, 1) + timedelta(days=day)
                reason = f"the metadata name no symbol of instrument {number} on {on}"
            else:
                try:
                    ids[i] = self._symbols.id_of(f"{self._venue(publisher, records[first[i]])}:{symbol}")
                    continue
                except InvalidInstrument as exc:
                    reason = str(exc.args[0])
            for at in np.flatnonzero(of == i).tolist():
                reasons.setdefault(at, reason)
        return ids[of]

    def _venue(self, publisher: int, record: Any) -> str:
        """The publisher's own venue (a dataset may join several): `xnas`, as the library names it."""
        if publisher not in self._venues:
            match = _PUBLISHER.search(repr(record))
            self._venues[publisher] = match[1].lower() if match else f"{self._dataset}-p{publisher}"
        return self._venues[publisher]


def import_dbn(
    sources: Sequence[Path], out: Path, *, names: DbnNames | None = None, terms: Terms | None = None
) -> tuple[Day, ImportReport]:
    """Make a day of DBN files. Instruments are `<venue>.<market type>.<symbol>-<quote>`.

    Raises:
        FileExistsError, TooManyRejects, UnreadableSource: as `import_named`.
    """
    names = names or DbnNames()
    options = {"market_type": names.market_type, "quote": names.quote}
    return import_named(
        "dbn",
        DbnFile,
        sources,
        out,
        symbols=Symbols(_Rule(names)),
        terms=terms,
        options={name: value for name, value in options.items() if value} | told(names.named),
    )
