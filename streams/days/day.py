"""A recorded day: a folder with `ticks.parquet` and `manifest.json`, read in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.market.instruments import Instrument
from models.market.tick import TICK, Flag, Kind, TickArray
from streams.days.manifest import CONTROLS, TICKS, Manifest, read_manifest
from streams.days.parquet import groups_after, groups_within, read_ticks

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

    def controls(self) -> Iterator[TickArray]:
        """Control rows that a recorder found between the rows (docs/days.md, 'Recording'). Raises: CorruptDay."""
        if any(entry.name == CONTROLS for entry in self.manifest.files):
            yield from read_ticks(self.path / CONTROLS, BATCH)

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
