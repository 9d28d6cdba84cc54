"""Checkpoints: what stood in every market at moments of a day, so that a reader can begin there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.days.state import MarketState
from models.market.tick import TICK, Flag, TickArray
from streams.days.manifest import CHECKPOINTS, Checkpoint, Manifest
from streams.days.parquet import open_writer, read_ticks, to_table

CHECKPOINT_S = 900.0
_S = 10**9


class CheckpointWriter:
    """Follows a day as it is written; each `interval_s` of market time, from its first row on, is a checkpoint.

    Where nothing was received for several intervals only the last of them has one. The file begins to exist with the
    first checkpoint.

    Args:
        interval_s: None = never.
    """

    def __init__(self, path: Path, interval_s: float | None = CHECKPOINT_S) -> None:
        self._path = path
        self._interval_ns = None if interval_s is None else int(interval_s * _S)
        self._state = MarketState()
        self._held = np.empty(0, TICK)  # an event whose end is still to come
        self._begin_ns = 0  # ts_recv of the day's first event
        self._interval = -1  # number of the interval that is going on; -1 = no event yet
        self._rows = 0  # taken into the state
        self._made: list[Checkpoint] = []
        self._parquet: Any = None
        self._groups = 0

    def add(self, ticks: TickArray) -> None:
        """Take further rows of the day, in order; an event may come in parts."""
        if self._interval_ns is None:
            return
        ticks = np.concatenate([self._held, ticks]) if len(self._held) else ticks
        ends = np.flatnonzero(ticks["flags"] & np.uint8(Flag.LAST))
        if not len(ends):
            self._held = ticks
            return
        self._held = ticks[int(ends[-1]) + 1 :].copy()
        recv = ticks["ts_recv"][ends]
        if self._interval < 0:
            self._begin_ns, self._interval = int(recv[0]), 0
        numbers = (recv - self._begin_ns) // self._interval_ns
        begin = 0
        for at in np.flatnonzero(np.diff(numbers, prepend=self._interval)).tolist():
            end = int(ends[at - 1]) + 1 if at else 0
            self._take(ticks[begin:end])
            self._write(self._begin_ns + int(numbers[at]) * self._interval_ns)
            begin = end
        self._interval = int(numbers[-1])
        self._take(ticks[begin : int(ends[-1]) + 1])

    def close(self) -> tuple[Checkpoint, ...]:
        """What was made; the file is complete."""
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None
        return tuple(self._made)

    def _take(self, ticks: TickArray) -> None:
        self._state.update(ticks)
        self._rows += len(ticks)

    def _write(self, ts_recv: int) -> None:
        rows = self._state.rows(ts_recv)
        rows["seq"] = np.arange(1, len(rows) + 1)
        if len(rows) and self._parquet is None:
            self._parquet = open_writer(self._path)
        if len(rows):
            self._parquet.write_table(to_table(rows), row_group_size=len(rows))
            self._groups += 1
        self._made.append(Checkpoint(ts_recv, self._rows, self._groups - 1 if len(rows) else -1))


def checkpoint_before(manifest: Manifest, ts_recv: int) -> Checkpoint | None:
    """The newest checkpoint at or before an instant, None if the day has none there."""
    made = manifest.checkpoints or ()
    return max((c for c in made if c.ts_recv <= ts_recv), key=lambda c: c.ts_recv, default=None)


def read_checkpoint(folder: Path, checkpoint: Checkpoint) -> Iterator[TickArray]:
    """Its rows, received at `checkpoint.ts_recv`, with the day's instrument ids. Raises: CorruptDay."""
    if checkpoint.group >= 0:
        yield np.concatenate(list(read_ticks(folder / CHECKPOINTS, 1 << 20, [checkpoint.group])))


def false_checkpoints(folder: Path, manifest: Manifest, batches: Iterable[TickArray]) -> Iterator[str]:
    """What is wrong with a day's checkpoints, by folding its rows (whole events) again. Raises: CorruptDay."""
    state, rows = MarketState(), 0
    ahead, ticks = iter(batches), np.empty(0, TICK)
    for checkpoint in manifest.checkpoints or ():
        while rows + len(ticks) < checkpoint.seq and (more := next(ahead, None)) is not None:
            state.update(ticks)
            rows, ticks = rows + len(ticks), more
        cut = checkpoint.seq - rows
        state.update(ticks[:cut])
        rows, ticks = rows + len(ticks[:cut]), ticks[cut:]
        found = next(read_checkpoint(folder, checkpoint), np.empty(0, TICK))
        wanted = state.rows(checkpoint.ts_recv)
        wanted["seq"] = np.arange(1, len(wanted) + 1)
        early = len(ticks) and int(ticks["ts_recv"][0]) < checkpoint.ts_recv and bool(ticks["flags"][0] & Flag.LAST)
        if early or not np.array_equal(found, wanted):
            yield f"{CHECKPOINTS}: the checkpoint at row {checkpoint.seq} is not what the rows before it say"
            return
