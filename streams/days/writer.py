"""Writing a recorded day: all of it, or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np

from models.market.instruments import Instrument
from models.market.tick import Flag, Kind, TickArray
from streams.days.checkpoints import CHECKPOINT_S, CheckpointWriter
from streams.days.day import Day
from streams.days.manifest import (
    CHECKPOINTS,
    MANIFEST,
    TICKS,
    DayInstrument,
    Manifest,
    Origin,
    file_entry,
)
from streams.days.parquet import open_writer, to_table

ROW_GROUP = 262_144  # 16 MiB of ticks: what reading a day costs in memory


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

    def beside(self, name: str) -> Path:
        """Where to write a further file of the day, until `finish`; the manifest has its checksum."""
        self._attached.append(name)
        return self._temporary / name

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
