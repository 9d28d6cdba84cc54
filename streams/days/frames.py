"""A replay inside the process, without Kafka: `async for frame in replay("days/btc", speed=10): ...`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.days.plan import FaultPlan
from models.days.received import Arrivals, Fate
from models.market.instruments import Instrument
from models.market.tick import TickArray
from streams.clock import Clock, now_ns
from streams.days.ahead import read_ahead
from streams.days.day import BATCH, Day
from streams.days.feed import EVERYTHING, DayFeed, Selection
from streams.days.pacing import RatePace, SpeedPace, check_pace, groups
from streams.days.stream import RunStream
from streams.days.waiting import doze

_PACED_BATCH = 8192
_MS = 1_000_000
_LONGEST_SLEEP_S = 60.0


class DayFrame(NamedTuple):
    """Rows that are due together.

    Attributes:
        ticks: TICK[n], whole events; `instrument_id` indexes the replay's `instruments`, `seq` is dense from 1.
        due_ns: when the last of them was due, UTC ns; at maximum speed, when they were read.
        late_ns: how much later than that they are handed out.
    """

    ticks: TickArray
    due_ns: int
    late_ns: int


class DayReplay:
    """Days as frames, each time it is iterated; see `replay`.

    Attributes:
        instruments: what the rows' `instrument_id` indexes.
    """

    def __init__(
        self,
        feed: DayFeed,
        stream: RunStream,
        *,
        speed: float | None,
        rate: float | None,
        frame_ms: float,
        clock: Clock,
    ) -> None:
        self.instruments: list[Instrument] = feed.instruments
        self._feed, self._stream, self._speed, self._rate = feed, stream, speed, rate
        self._window_ns, self._clock = int(frame_ms * _MS), clock

    async def __aiter__(self) -> AsyncIterator[DayFrame]:
        paced = self._speed is not None or self._rate is not None
        start_ns = self._clock()
        async with aclosing(read_ahead(self._stream.rows(_PACED_BATCH if paced else BATCH))) as batches:
            async for rows in batches:
                frames = self._paced(rows, start_ns) if paced else self._at_once(rows)
                async for frame in frames:
                    yield frame

    async def _at_once(self, rows: Arrivals) -> AsyncIterator[DayFrame]:
        for ticks in _delivered(rows.ticks, rows.fate):
            yield DayFrame(ticks, self._clock(), 0)

    async def _paced(self, rows: Arrivals, start_ns: int) -> AsyncIterator[DayFrame]:
        pace = (
            RatePace(start_ns, 1, self._rate)
            if self._rate is not None
            else SpeedPace(start_ns, self._feed.first_ns, self._speed or 1.0)
        )
        one_partition = np.zeros(len(rows.ticks), np.int64)
        for group in groups(rows, one_partition, pace.due(rows.arrival_ns, rows.ticks["seq"]), self._window_ns):
            due = int(group.due_ns[-1])
            while (left_ns := due - self._clock()) > 0:
                await doze(left_ns, _LONGEST_SLEEP_S)
            for ticks in _delivered(group.ticks, group.fate):
                yield DayFrame(ticks, due, self._clock() - due)


def replay(
    days: Day | str | Path | Sequence[Day | str | Path],
    *,
    speed: float | None = None,
    rate: float | None = None,
    selection: Selection = EVERYTHING,
    faults: FaultPlan | None = None,
    frame_ms: float = 7.0,
    clock: Clock = now_ns,
) -> DayReplay:
    """Days as an asynchronous stream of frames: open loop, nobody is waited for but whoever iterates.

    Args:
        days: one or more, or their folders; those that overlap in time are merged.
        speed: 1 = as it came, 10 = ten times as fast, None = as fast as it is taken.
        rate: rows a second instead, evenly.
        selection: the part of the days that is wanted.
        faults: what goes wrong; rows that are lost do not come, repeated ones come twice.
        frame_ms: rows due within so many milliseconds come together.
        clock: UTC ns.

    Raises:
        ValueError: speed or rate are not above 0, or both are given.
        CorruptDay, NothingSelected, InstrumentConflict, InvalidFaultPlan: as `DayFeed` and `RunStream`.
    """
    check_pace(speed, rate)
    given = [days] if isinstance(days, Day | str | Path) else list(days)
    feed = DayFeed([day if isinstance(day, Day) else Day.open(day) for day in given], selection)
    return DayReplay(feed, RunStream(feed, faults), speed=speed, rate=rate, frame_ms=frame_ms, clock=clock)


def _delivered(ticks: TickArray, fate: np.ndarray[tuple[int], np.dtype[np.uint8]] | None) -> list[TickArray]:
    """The rows that arrive, then those that arrive again."""
    if fate is None:
        return [ticks]
    arrived = ticks[fate != Fate.LOST]
    return [part for part in (arrived, ticks[fate == Fate.TWICE]) if len(part)]
