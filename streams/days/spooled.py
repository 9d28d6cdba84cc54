"""A day made of a spool: each source's rows once, in order of receipt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptDay, CorruptFrame
from models.market.frame import Frame, decode
from models.market.tick import TICK, Action, Flag, Kind, TickArray
from streams.days.day import Day
from streams.days.manifest import CONTROLS, Origin, Recording
from streams.days.merge import merge
from streams.days.parquet import open_writer, to_table
from streams.days.spool import Spool
from streams.days.verify import verify_day
from streams.days.writer import DayWriter

_BATCH_ROWS = 65_536


def make_day(spool: Spool, path: Path) -> Day | None:
    """Write a spool's rows as a day and prove it; None when there is no row.

    Rows of a position that had come before are left out (protocol rule 2). Rows of one source keep their order; several
    sources are merged by time of receipt. Control rows of runs and planned faults go into a file of their own. Those
    that move a watermark are left out: a day's rows come in order of receipt, so each row's own `ts_recv` is as far as
    any watermark told before it, and they would decide nothing.

    Raises:
        FileExistsError: there is something at `path`.
        CorruptDay: the day that was written is not what its manifest says.
    """
    spool.flush()
    instruments = spool.instruments
    ids = {instrument.hash: number for number, instrument in enumerate(instruments)}
    counts = _Counts()
    streams = [_rows(spool, partition, source, ids, counts) for partition, source in spool.sources()]
    one_source = len({source for _, source in spool.sources()}) == 1
    with DayWriter(path, name=path.name, origin=Origin()) as writer:
        controls = _Controls(writer)
        for ticks in merge([_by_position(streams)] if one_source else [_grouped(stream) for stream in streams]):
            writer.append(controls.without(ticks, writer.rows))
        controls.close()
        if not writer.rows:
            return None
        head, ends = spool.head, spool.next_offsets
        writer.origin = Origin(
            recording=Recording(
                topic=head.topic,
                topic_id=head.topic_id,
                offsets={p: (head.offsets.get(p, end), end) for p, end in sorted(ends.items())},
                positions=spool.next_head().positions,
                rows_repeated=counts.repeated,
                rows_unknown=counts.unknown,
                frames_corrupt=spool.n_corrupt + counts.corrupt,
                gaps=spool.n_gaps,
                missing=spool.n_missing,
            )
        )
        day = writer.finish(instruments)
    proof = verify_day(path)
    if not proof.ok:
        raise CorruptDay(f"{path}: the recorded day is not what was written: {proof.problems[0]}")
    return day


class _Controls:
    """Control rows of a day to be, as they come; `seq` is that of the day's row they stand behind."""

    def __init__(self, writer: DayWriter) -> None:
        self._writer = writer
        self._parquet: Any = None
        self._held: list[TickArray] = []
        self._n_held = 0

    def without(self, ticks: TickArray, n_before: int) -> TickArray:
        """The rows of the market among these, behind `n_before` others; the others are kept."""
        market = ticks["kind"] != Kind.CONTROL
        if market.all():
            return ticks
        rows = ticks[~market]
        rows["seq"] = n_before + np.cumsum(market)[~market]
        rows["ts_recv"], rows["flags"] = rows["ts_event"], Flag.LAST  # what `_rows` took away, and merging added
        self._held.append(rows)
        self._n_held += len(rows)
        if self._n_held >= _BATCH_ROWS:
            self._write()
        of_market: TickArray = ticks[market]
        return of_market

    def close(self) -> None:
        """Write what is still held; a file is there if there was a row."""
        if self._n_held:
            self._write()
        if self._parquet is not None:
            self._parquet.close()

    def _write(self) -> None:
        if self._parquet is None:
            self._parquet = open_writer(self._writer.beside(CONTROLS))
        self._parquet.write_table(to_table(np.concatenate(self._held)))
        self._held, self._n_held = [], 0


class _Counts:
    """What was left out: rows seen before, rows of an instrument that nobody defined, frames that cannot be read."""

    def __init__(self) -> None:
        self.repeated = self.unknown = self.corrupt = 0


def _rows(spool: Spool, partition: int, source: int, ids: dict[int, int], counts: _Counts) -> Iterator[TickArray]:
    """Rows of one source in one partition, frame by frame, with the day's ids; `seq` is the position."""
    last = spool.head.positions.get(partition, {}).get(f"{source:x}", 0)
    for data in spool.frames(partition, source):
        try:
            frame = decode(data)
        except CorruptFrame:
            counts.corrupt += 1
            continue
        ticks = frame.ticks
        fresh = int(np.searchsorted(ticks["seq"], np.uint64(last), "right"))
        counts.repeated += fresh
        last = max(last, frame.header.last_position)
        ticks = ticks[fresh:]
        named = _ids(frame, ids)[ticks["instrument_id"]]
        market = ticks["kind"] != Kind.CONTROL
        counts.unknown += int((market & (named < 0)).sum())
        kept = np.where(market, named >= 0, ticks["action"] != Action.UPDATE)
        if kept.any():
            ticks, market = ticks[kept], market[kept]
            ticks["instrument_id"] = named[kept]
            ticks["ts_recv"][~market] = 0  # a control row's time is not a source's: it must not move what follows
            yield ticks


def _ids(frame: Frame, ids: dict[int, int]) -> NDArray[np.int32]:
    """By the frame's own index, and -1 at its end for rows without an instrument."""
    return np.array([*(ids.get(name, -1) for name in frame.instruments["hash"].tolist()), -1], np.int32)


def _by_position(streams: Sequence[Iterator[TickArray]]) -> Iterator[TickArray]:
    """Partitions of one source as the one stream that they were."""
    heads = [(stream, ticks) for stream in streams if (ticks := next(stream, None)) is not None]
    while heads:
        bound = min(int(ticks["seq"][-1]) for _, ticks in heads)
        parts: list[TickArray] = []
        left: list[tuple[Iterator[TickArray], TickArray]] = []
        for stream, held in heads:
            cut = int(np.searchsorted(held["seq"], np.uint64(bound), "right"))
            parts.append(held[:cut])
            rest = held[cut:] if cut < len(held) else next(stream, None)
            if rest is not None:
                left.append((stream, rest))
        rows = np.concatenate(parts)
        yield rows[np.argsort(rows["seq"])]
        heads = left


def _grouped(frames: Iterator[TickArray]) -> Iterator[TickArray]:
    """Small frames joined: merging costs a call for each array."""
    held, n = [np.empty(0, TICK)], 0
    for ticks in frames:
        held.append(ticks)
        n += len(ticks)
        if n >= _BATCH_ROWS:
            yield np.concatenate(held)
            held, n = [np.empty(0, TICK)], 0
    if n:
        yield np.concatenate(held)
