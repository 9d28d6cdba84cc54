"""A recorded day: a folder with `ticks.parquet` and `manifest.json`, read in batches and written all or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from models.market.instruments import Instrument
from models.market.tick import TICK, Flag, Kind, TickArray
from streams.days.checkpoints import CHECKPOINT_S, CheckpointWriter
from streams.days.manifest import (
    CHECKPOINTS,
    MANIFEST,
    TICKS,
    DayInstrument,
    Manifest,
    Origin,
    file_entry,
    read_manifest,
)
from streams.days.parquet import groups_after, groups_within, open_writer, read_ticks, to_table

ROW_GROUP = 262_144  # 16 MiB of ticks: what reading a day costs in memory
BATCH = 65_536


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

    def batches(
        self, rows: int = BATCH, *, start_ns: int | None = None, stop_ns: int | None = None, after: int = 0
    ) -> Iterator[TickArray]:
        """The day's rows in order (ts_recv, seq), in TICK arrays that end where an event ends.

        A batch has about `rows` rows, more only if one event is larger. Memory is bounded by a row group and a batch.

        Args:
            start_ns, stop_ns: only events received (their last row) in `[start_ns, stop_ns)`, UTC ns; what lies more
                than a row group before or after is not read.
            after: only rows behind this one, at which an event ends; row groups before it are not read. Without a
                range of time only.

        Raises:
            CorruptDay: the file is missing or a page cannot be read.
        """
        path, groups = self.path / TICKS, None
        if after:
            groups, before = groups_after(path, after)
            if groups:
                yield from _whole_events(_without(read_ticks(path, rows, groups), after - before))
            return
        start, stop = -(2**63) if start_ns is None else start_ns, 2**63 - 1 if stop_ns is None else stop_ns
        ranged = start_ns is not None or stop_ns is not None
        if ranged and not (groups := groups_within(path, start, stop)):
            return
        for ticks in _whole_events(read_ticks(path, rows, groups)):
            if not ranged:
                yield ticks
                continue
            ends = np.flatnonzero(ticks["flags"] & Flag.LAST)
            first, last = np.searchsorted(ticks["ts_recv"][ends], [start, stop])
            if first < last:
                yield ticks[int(ends[first - 1]) + 1 if first else 0 : int(ends[last - 1]) + 1]

    def to_arrow(
        self,
        columns: Sequence[str] | None = None,
        *,
        start_ns: int | None = None,
        stop_ns: int | None = None,
        instruments: Sequence[str] = (),
        kinds: Sequence[str | Kind] = (),
        batch_rows: int = BATCH,
    ) -> Any:
        """The day's rows as a `pyarrow.RecordBatchReader`: a stream, of which a row group is in memory at a time.

        Args:
            columns: those of `md.tick.v1`, or made of them: `instrument` (its text), `price_value` and `size_value`
                (float64, exponents applied). All of `md.tick.v1` and `instrument` by default.
            start_ns, stop_ns: rows received in `[start_ns, stop_ns)`, UTC ns; row groups outside are not read.
            instruments: texts; none = all.
            kinds: `trade`, `quote`, `book` and so on, or `Kind`; none = all.

        Raises:
            NothingSelected: there is no such column, instrument or kind.
            CorruptDay: while it is read, the file is missing or a page cannot be read.
        """
        from streams.days.arrow import day_to_arrow  # noqa: PLC0415  pyarrow.compute takes 60 ms to import

        return day_to_arrow(
            self.path,
            self.manifest,
            columns=columns,
            start_ns=start_ns,
            stop_ns=stop_ns,
            instruments=instruments,
            kinds=kinds,
            batch_rows=batch_rows,
        )

    def raw_batches(self, rows: int = BATCH) -> Iterator[TickArray]:
        """As `batches`, but cut anywhere. Page checksums are checked. Raises: CorruptDay."""
        return read_ticks(self.path / TICKS, rows)


def _without(batches: Iterator[TickArray], n: int) -> Iterator[TickArray]:
    """All but the first n rows."""
    for batch in batches:
        cut, n = min(n, len(batch)), max(n - len(batch), 0)
        if cut < len(batch):
            yield batch[cut:]


def _whole_events(batches: Iterator[TickArray]) -> Iterator[TickArray]:
    held = np.empty(0, TICK)
    for batch in batches:
        ticks = np.concatenate([held, batch]) if len(held) else batch
        ends = np.flatnonzero(ticks["flags"] & Flag.LAST)
        cut = int(ends[-1]) + 1 if len(ends) else 0
        if cut:
            yield ticks[:cut]
        held = ticks[cut:]
    if len(held):
        yield held


class DayWriter:
    """Writes a day beside its place and moves it there when the block ends without an error.

    A crash or an error leaves no folder at `path`. Rows must come in order of `ts_recv`; `seq` is given here, 1..N.

    Args:
        checkpoint_s: seconds of market time from one checkpoint to the next; None = no checkpoints.
        row_group: rows of a row group, the least that a reader who begins inside the day has to read.

    Raises:
        FileExistsError: something is at `path` already; a day is never overwritten.
        ValueError: rows out of order, or an event cut at the day's end.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        origin: Origin,
        checkpoint_s: float | None = CHECKPOINT_S,
        row_group: int = ROW_GROUP,
    ) -> None:
        self.path = Path(path)
        self._checkpoint_s, self._row_group = checkpoint_s, row_group
        self._name, self.origin = name, origin  # the origin may be completed until `finish`
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
        self._parquet = open_writer(self._temporary / TICKS)
        self._checkpoints = CheckpointWriter(self._temporary / CHECKPOINTS, self._checkpoint_s)
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
        self._checkpoints.add(ticks)
        self._held.append(ticks)
        self._n_held += len(ticks)
        while self._n_held >= self._row_group:
            self._write(self._row_group)

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
        self._parquet.write_table(to_table(held[:n]), row_group_size=self._row_group)
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
        checkpoints = self._checkpoints.close()
        names = [TICKS, *([CHECKPOINTS] if any(c.group >= 0 for c in checkpoints) else []), *self._attached]
        per_instrument = [*self._by_instrument.tolist(), *[0] * (len(instruments) - len(self._by_instrument))]
        manifest = Manifest(
            name=self._name,
            origin=self.origin,
            rows=self._rows,
            ts_recv_min=self._recv[0] if self._recv else 0,
            ts_recv_max=self._recv[1] if self._recv else 0,
            ts_event_min=self._event[0] if self._event else 0,
            ts_event_max=self._event[1] if self._event else 0,
            kinds={kind.name.lower(): int(self._by_kind[kind]) for kind in Kind if self._by_kind[kind]},
            instruments=tuple(map(_entry, range(len(instruments)), instruments, per_instrument)),
            files=tuple(file_entry(self._temporary / name) for name in names),
            checkpoints=checkpoints or msgspec.UNSET,
        )
        with (self._temporary / MANIFEST).open("wb") as stream:
            stream.write(manifest.encode())
            stream.flush()
            os.fsync(stream.fileno())
        for name in names:
            _sync(self._temporary / name)
        _sync(self._temporary)
        os.rename(self._temporary, self.path)
        _sync(self.path.parent)
        return Day.open(self.path)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._temporary.exists():  # `finish` was not reached
            self._parquet.close()
            self._checkpoints.close()
            shutil.rmtree(self._temporary)


def _entry(index: int, of: Instrument, rows: int) -> DayInstrument:
    return DayInstrument(index, of.text, of.venue, of.market_type, of.symbol, of.price_exp, of.size_exp, rows, of.tick)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
