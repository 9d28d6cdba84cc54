"""A recorded day: a folder with `ticks.parquet` and `manifest.json`, read in batches and written all or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import CorruptDay
from models.market.instruments import Instrument
from models.market.tick import TICK, Flag, Kind, TickArray
from streams.days.manifest import (
    MANIFEST,
    TICKS,
    DayInstrument,
    Manifest,
    Origin,
    file_entry,
    read_manifest,
)

ROW_GROUP = 262_144  # 16 MiB of ticks: what reading a day costs in memory
BATCH = 65_536

_TIME = pa.timestamp("ns", tz="UTC")
_TYPES = {"ts_event": _TIME, "ts_recv": _TIME}
PARQUET = pa.schema(
    [pa.field(name, _TYPES.get(name) or pa.from_numpy_dtype(TICK[name]), nullable=False) for name in TICK.names or ()]
)
# Chosen by size on a crypto day, 6.4 bytes a row: prices and sizes repeat, a dense seq vanishes as deltas, and times
# and update ids are smallest plain (zstd finds an event's equal values; deltas hide them).
_DICTIONARY = ["price", "size", "instrument_id", "kind", "action", "side", "flags"]
_ENCODING = {"seq": "DELTA_BINARY_PACKED"}


class Day:
    """An opened day. Opening reads the manifest only; `verify_day` proves that the rows are what it says."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"<Day {self.manifest.name} rows={self.rows} instruments={len(self.manifest.instruments)}>"

    @classmethod
    def open(cls, path: str | Path) -> Day:
        """Raises: CorruptDay when there is no readable manifest."""
        return cls(Path(path), read_manifest(Path(path)))

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def rows(self) -> int:
        return self.manifest.rows

    @property
    def instruments(self) -> list[Instrument]:
        """Definitions in the order of the rows' `instrument_id`."""
        return [entry.instrument for entry in self.manifest.instruments]

    def batches(self, rows: int = BATCH) -> Iterator[TickArray]:
        """The day's rows in order (ts_recv, seq), in TICK arrays that end where an event ends.

        A batch has about `rows` rows, more only if one event is larger. Memory is bounded by a row group and a batch.

        Raises:
            CorruptDay: the file is missing or a page cannot be read.
        """
        held = np.empty(0, TICK)
        for batch in self.raw_batches(rows):
            ticks = np.concatenate([held, batch]) if len(held) else batch
            ends = np.flatnonzero(ticks["flags"] & Flag.LAST)
            cut = int(ends[-1]) + 1 if len(ends) else 0
            if cut:
                yield ticks[:cut]
            held = ticks[cut:]
        if len(held):
            yield held

    def raw_batches(self, rows: int = BATCH) -> Iterator[TickArray]:
        """As `batches`, but cut anywhere. Page checksums are checked. Raises: CorruptDay."""
        path = self.path / TICKS
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
                for batch in parquet.iter_batches(batch_size=rows, columns=PARQUET.names):
                    yield _to_ticks(batch)
        except FileNotFoundError as exc:
            raise CorruptDay(f"{path}: missing") from exc
        except (pa.ArrowException, OSError, KeyError) as exc:
            raise CorruptDay(f"{path}: cannot be read: {exc}") from exc


class DayWriter:
    """Writes a day beside its place and moves it there when the block ends without an error.

    A crash or an error leaves no folder at `path`. Rows must come in order of `ts_recv`; `seq` is given here, 1..N.

    Raises:
        FileExistsError: something is at `path` already; a day is never overwritten.
        ValueError: rows out of order, or an event cut at the day's end.
    """

    def __init__(self, path: str | Path, *, name: str, origin: Origin) -> None:
        self.path = Path(path)
        self._name, self._origin = name, origin
        self._temporary = self.path.with_name(f".{self.path.name}.part-{os.getpid()}")
        self._held: list[TickArray] = []
        self._n_held = self._rows = 0
        self._by_instrument = np.zeros(0, np.int64)
        self._by_kind = np.zeros(256, np.int64)
        self._recv: tuple[int, int] | None = None
        self._event: tuple[int, int] | None = None
        self._ended = True
        self._attached: list[str] = []

    def __enter__(self) -> DayWriter:
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists already")
        self._temporary.mkdir(parents=True, exist_ok=False)
        self._parquet = pq.ParquetWriter(
            self._temporary / TICKS,
            PARQUET,
            compression="zstd",
            compression_level=3,
            use_dictionary=_DICTIONARY,
            column_encoding=_ENCODING,
            data_page_version="2.0",
            write_page_checksum=True,
            sorting_columns=[pq.SortingColumn(PARQUET.get_field_index(n)) for n in ("ts_recv", "seq")],
        )
        return self

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return self._rows

    def append(self, ticks: TickArray) -> None:
        """Add rows, TICK[n] in order of receipt; their `seq` is ignored."""
        if not len(ticks):
            return
        recv = ticks["ts_recv"]
        if (self._recv and recv[0] < self._recv[1]) or (recv[1:] < recv[:-1]).any():
            raise ValueError("rows of a day must come in order of ts_recv")
        ticks = ticks.copy()
        ticks["seq"] = np.arange(self._rows + 1, self._rows + len(ticks) + 1)
        self._count(ticks)
        self._held.append(ticks)
        self._n_held += len(ticks)
        while self._n_held >= ROW_GROUP:
            self._write(ROW_GROUP)

    def _count(self, ticks: TickArray) -> None:
        ids = ticks["instrument_id"]
        counts = np.bincount(ids[ids >= 0], minlength=len(self._by_instrument))
        counts[: len(self._by_instrument)] += self._by_instrument
        self._by_instrument = counts
        self._by_kind += np.bincount(ticks["kind"], minlength=256)
        low, high = int(ticks["ts_event"].min()), int(ticks["ts_event"].max())
        self._event = (low, high) if self._event is None else (min(low, self._event[0]), max(high, self._event[1]))
        self._recv = (int(ticks["ts_recv"][0]) if self._recv is None else self._recv[0], int(ticks["ts_recv"][-1]))
        self._rows += len(ticks)
        self._ended = bool(ticks["flags"][-1] & Flag.LAST)

    def _write(self, n: int) -> None:
        held = np.concatenate(self._held)
        self._parquet.write_table(_to_table(held[:n]), row_group_size=ROW_GROUP)
        self._held, self._n_held = [held[n:]], len(held) - n

    def attach(self, name: str, content: bytes) -> None:
        """Put a further file beside the ticks; the manifest has its checksum."""
        (self._temporary / name).write_bytes(content)
        self._attached.append(name)

    def finish(self, instruments: Sequence[Instrument]) -> Day:
        """Write the manifest and move the day to its place; `instruments` in the order of the rows' ids."""
        if not self._ended:
            raise ValueError("the day's last event has no row with flag LAST")
        if len(self._by_instrument) > len(instruments):
            raise ValueError(f"rows name instrument {len(self._by_instrument) - 1}, {len(instruments)} are given")
        if self._n_held:
            self._write(self._n_held)
        self._parquet.close()
        per_instrument = [*self._by_instrument.tolist(), *[0] * (len(instruments) - len(self._by_instrument))]
        manifest = Manifest(
            name=self._name,
            origin=self._origin,
            rows=self._rows,
            ts_recv_min=self._recv[0] if self._recv else 0,
            ts_recv_max=self._recv[1] if self._recv else 0,
            ts_event_min=self._event[0] if self._event else 0,
            ts_event_max=self._event[1] if self._event else 0,
            kinds={kind.name.lower(): int(self._by_kind[kind]) for kind in Kind if self._by_kind[kind]},
            instruments=tuple(map(_entry, range(len(instruments)), instruments, per_instrument)),
            files=tuple(file_entry(self._temporary / name) for name in (TICKS, *self._attached)),
        )
        with (self._temporary / MANIFEST).open("wb") as stream:
            stream.write(manifest.encode())
            stream.flush()
            os.fsync(stream.fileno())
        for name in (TICKS, *self._attached):
            _sync(self._temporary / name)
        _sync(self._temporary)
        os.rename(self._temporary, self.path)
        _sync(self.path.parent)
        return Day.open(self.path)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._temporary.exists():  # `finish` was not reached
            self._parquet.close()
            shutil.rmtree(self._temporary)


def _entry(index: int, of: Instrument, rows: int) -> DayInstrument:
    return DayInstrument(index, of.text, of.venue, of.market_type, of.symbol, of.price_exp, of.size_exp, rows, of.tick)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_table(ticks: TickArray) -> pa.Table:
    columns = [pa.array(np.ascontiguousarray(ticks[field.name])).view(field.type) for field in PARQUET]
    return pa.Table.from_arrays(columns, schema=PARQUET)


def _to_ticks(batch: pa.RecordBatch) -> TickArray:
    ticks = np.empty(batch.num_rows, TICK)
    for name in PARQUET.names:
        column = batch.column(name)
        if column.null_count:
            raise KeyError(f"column {name} has {column.null_count} empty values")
        if name in _TYPES:
            column = column.view(pa.int64())
        ticks[name] = column.to_numpy(zero_copy_only=False)
    return ticks
