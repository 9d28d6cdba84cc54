"""The rows of a run, in the order in which they are received: days, a plan of faults applied to them, positions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.days.faults import FaultStream
from models.days.plan import FaultCode, FaultPlan
from models.days.received import Arrivals, Fate, clean
from models.market.tick import Flag, Kind, TickArray
from streams.days.day import BATCH
from streams.days.feed import DayFeed
from streams.days.report import FaultDone

_ABOUT_ROWS = int(FaultCode.REORDER)  # control rows of faults up to this code name positions


class RunStream:
    """A feed with its faults, which may be read again and again.

    Raises:
        InvalidFaultPlan: the plan names what the feed does not have.
    """

    def __init__(self, feed: DayFeed, plan: FaultPlan | None) -> None:
        self._feed, self._plan = feed, plan
        self._faults = self._begun()

    @property
    def faulty(self) -> bool:
        return self._plan is not None

    @property
    def length(self) -> int | None:
        """Rows of a reading; None where only reading tells."""
        return None if self.faulty else self._feed.rows

    def rows(self, size: int, *, after: int = 0) -> Iterator[Arrivals]:
        """Batches of about `size` rows, `seq` dense from 1.

        Args:
            after: as of `DayFeed.batches`; with faults everything comes, because they hang on what was before.

        Raises:
            CorruptDay: a day cannot be read.
        """
        self._faults = faults = self._begun()
        if faults is None:
            yield from map(clean, self._feed.batches(size, after=after))
            return
        batches = map(faults.apply, self._feed.batches(size))
        yield from (rows for rows in batches if len(rows.ticks))
        if len((rest := faults.finish()).ticks):
            yield rest

    def positioned(self, size: int, base: int, *, after: int = 0) -> Iterator[Arrivals]:
        """As `rows`; `seq` is the position, that of the stream's first row `base` + 2. Raises: CorruptDay."""
        for rows in self.rows(size, after=after):
            ticks = rows.ticks
            ticks["seq"] += np.uint64(base + 1)
            if self.faulty:
                about = (ticks["kind"] == Kind.CONTROL) & (ticks["side"] <= _ABOUT_ROWS)
                ticks["price"][about] += base + 1
                ticks["size"][about] += base + 1
            yield rows

    def delivered(self) -> Iterator[TickArray]:
        """The rows that reach the log, each once. Raises: CorruptDay."""
        for rows in self.rows(BATCH):
            yield rows.ticks if rows.fate is None else rows.ticks[rows.fate != Fate.LOST]

    def faults_done(self) -> list[FaultDone]:
        """What each fault did in the last reading."""
        if self._faults is None:
            return []
        faults, events, rows = self._faults.plan.faults, self._faults.n_events.tolist(), self._faults.n_rows.tolist()
        return [
            FaultDone(number, fault.code.name.lower(), events[number - 1], rows[number - 1])
            for number, fault in enumerate(faults, 1)
        ]

    def _begun(self) -> FaultStream | None:
        if self._plan is None:
            return None
        return FaultStream(self._plan, self._feed.instruments, self._feed.first_ns)


def end_of(rows: Arrivals, position: int) -> int:
    """How many rows there are up to the end of the event with the row at `position`."""
    ends = np.flatnonzero(rows.ticks["flags"] & np.uint8(Flag.LAST))
    return int(ends[np.searchsorted(rows.ticks["seq"][ends], np.uint64(position))]) + 1


def sliced(rows: Arrivals, part: slice) -> Arrivals:
    fate = None if rows.fate is None else rows.fate[part]
    return Arrivals(rows.ticks[part], rows.owner[part], rows.arrival_ns[part], fate)
