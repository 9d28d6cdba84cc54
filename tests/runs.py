"""What tests read of a run: its frames in Kafka, and the rows in them."""

from __future__ import annotations

import numpy as np

from models.market.digest import digest
from models.market.fold import OfflineFold
from models.market.frame import Frame, decode
from models.market.instruments import Instrument
from models.market.tick import TICK, Kind, TickArray
from streams.settings import Settings
from streams.topics import FRAMES
from tests.topics import records


async def frames_of(run: Settings) -> list[list[Frame]]:
    """Everything in a run's topic of frames, by partition."""
    found: list[list[Frame]] = [[] for _ in range(run.kafka.partitions)]
    for record in await records(run, FRAMES, run.kafka.partitions):
        found[record.partition].append(decode(record.value))
    return found


def rows_in(frames: list[Frame], instruments: list[Instrument]) -> TickArray:
    """The market rows of frames, `instrument_id` an index of `instruments`; `seq` is the position."""
    ids = {instrument.hash: index for index, instrument in enumerate(instruments)}
    parts = [np.empty(0, TICK)]
    for frame in frames:
        ticks = frame.ticks[frame.ticks["kind"] != Kind.CONTROL].copy()
        if len(ticks):
            of = np.array([ids[int(h)] for h in frame.instruments["hash"]], np.int32)
            ticks["instrument_id"] = of[ticks["instrument_id"]]
            parts.append(ticks)
    return np.concatenate(parts)


def all_rows(frames: list[list[Frame]], instruments: list[Instrument]) -> TickArray:
    """The market rows of all partitions by position."""
    rows = np.concatenate([rows_in(part, instruments) for part in frames])
    return rows[np.argsort(rows["seq"], kind="stable")]


def controls_in(frames: list[Frame]) -> TickArray:
    """The control rows of a partition's frames."""
    parts = [frame.ticks[frame.ticks["kind"] == Kind.CONTROL] for frame in frames]
    return np.concatenate([np.empty(0, TICK), *parts])


def folded(rows: TickArray, instruments: list[Instrument]) -> str:
    fold = OfflineFold([instrument.text for instrument in instruments])
    fold.update(rows)
    return digest(fold.finals())


def is_chained(frames: list[Frame]) -> bool:
    """Whether each frame follows the one before it, without a hole or a repetition."""
    before = 0
    for frame in frames:
        if frame.header.prev_position != before or frame.header.first_position <= before:
            return False
        before = frame.header.last_position
    return True
