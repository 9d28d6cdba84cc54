"""One or several days as one stream of rows, with one list of instruments and one numbering."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.days.state import MarketState
from models.errors import InstrumentConflict, NothingSelected
from models.market.digest import digest
from models.market.fold import OfflineFold
from models.market.instruments import Instrument
from models.market.tick import RAW, TICK, TickArray
from streams.days.checkpoints import checkpoint_before, read_checkpoint
from streams.days.day import BATCH, Day
from streams.days.merge import merge


@dataclass(frozen=True)
class Selection:
    """The part of days that is wanted: all of them by default.

    Attributes:
        start_ns, stop_ns: events received in `[start_ns, stop_ns)`, UTC ns.
        instruments: texts; none = all.
        venues: names; none = all. With instruments as well, either suffices.
    """

    start_ns: int | None = None
    stop_ns: int | None = None
    instruments: tuple[str, ...] = ()
    venues: tuple[str, ...] = ()

    @property
    def ranged(self) -> bool:
        return self.start_ns is not None or self.stop_ns is not None

    def takes(self, instrument: Instrument) -> bool:
        if not (self.instruments or self.venues):
            return True
        return instrument.text in self.instruments or instrument.venue in self.venues

    def check(self, instruments: Sequence[Instrument]) -> None:
        """Raises: NothingSelected when a name is none of these instruments' texts or venues."""
        for what, wanted, known in (
            ("instrument", self.instruments, {i.text for i in instruments}),
            ("venue", self.venues, {i.venue for i in instruments}),
        ):
            if strange := sorted(set(wanted) - known):
                raise NothingSelected(f"the days have no {what} {', '.join(strange)}, but {_some(known)}")


EVERYTHING = Selection()


class DayFeed:
    """Rows of days in order of receipt; days that overlap in time are merged.

    A feed that begins inside the days opens with what stands at that instant (`models.days.state`), as rows received
    then: from the newest checkpoint before it, so that no more than its interval is read.

    Attributes:
        name: the days' names joined with `+`.
        instruments: those of the days that are wanted; what the rows' `instrument_id` indexes.
        rows: how many there are; None where only reading tells, because the feed begins or ends inside a day.
        first_ns, last_ns: `ts_recv` of the first and of the last row, or the bounds of the range.

    Raises:
        InstrumentConflict: two days give an instrument different exponents.
        NothingSelected: an instrument or a venue is not in the days, or no day has a row in the range.
    """

    def __init__(self, days: Sequence[Day], selection: Selection = EVERYTHING) -> None:
        if not days:
            raise ValueError("a feed needs a day")
        self._days, self.selection = list(days), selection
        self.name = "+".join(day.name for day in days)
        selection.check([instrument for day in days for instrument in day.instruments])
        self._set_range()
        self.instruments: list[Instrument] = []
        known: dict[str, int] = {}
        self._ids: list[NDArray[np.int32]] = []  # by day: its ids -> ids of the feed, -1 = not wanted
        for day in days:
            ids = [self._id(instrument, known) if selection.takes(instrument) else -1 for instrument in day.instruments]
            self._ids.append(np.array([*ids, -1], np.int32))  # the last is what a control row's -1 finds
        counts = [(entry.rows, selection.takes(entry.instrument)) for day in days for entry in day.manifest.instruments]
        self.rows = None if selection.ranged else sum(rows for rows, taken in counts if taken)
        self._as_it_is = len(days) == 1 and self.rows == days[0].rows

    def _set_range(self) -> None:
        filled = [day.manifest for day in self._days if day.rows]
        self.first_ns = min((manifest.ts_recv_min for manifest in filled), default=0)
        self.last_ns = max((manifest.ts_recv_max for manifest in filled), default=0)
        start, stop = self.selection.start_ns, self.selection.stop_ns
        if self.selection.ranged:
            begin, end = self.first_ns if start is None else start, self.last_ns + 1 if stop is None else stop
            if end <= begin or begin > self.last_ns or end <= self.first_ns:
                raise NothingSelected(
                    f"nothing was received in [{begin}, {end}) ns: the days have {self.first_ns} to {self.last_ns}"
                )
            self._opens = begin > self.first_ns
            self.first_ns, self.last_ns = max(begin, self.first_ns), min(end - 1, self.last_ns)
        else:
            self._opens = False

    def _id(self, instrument: Instrument, known: dict[str, int]) -> int:
        index = known.setdefault(instrument.text, len(self.instruments))
        if index == len(self.instruments):
            self.instruments.append(instrument)
        first = self.instruments[index]
        if (first.price_exp, first.size_exp) != (instrument.price_exp, instrument.size_exp):
            raise InstrumentConflict(
                f"the days give {instrument.text} different exponents and cannot be replayed as one"
            )
        return index

    def batches(self, rows: int = BATCH, *, after: int = 0) -> Iterator[TickArray]:
        """Whole events, `seq` dense 1..N over all days; control rows of a day are left out.

        Args:
            after: rows up to this `seq`, at which an event ends, need not come. One whole day is read from there on;
                where a row's number hangs on all before it, everything is read and comes.

        Raises:
            CorruptDay: a file is missing or a page cannot be read.
        """
        if self._as_it_is:
            yield from self._days[0].batches(rows, after=after)
            return
        taken = 0
        for ticks in self._selected(rows):
            ticks["seq"] = np.arange(taken + 1, taken + len(ticks) + 1)
            taken += len(ticks)
            yield ticks

    def _selected(self, rows: int) -> Iterator[TickArray]:
        if self._opens and len(standing := self._standing(rows)):
            yield standing
        start, stop = self.selection.start_ns, self.selection.stop_ns
        yield from merge(
            [
                self._renamed(day.batches(rows, start_ns=start, stop_ns=stop), ids)
                for day, ids in zip(self._days, self._ids, strict=True)
            ]
        )

    def _renamed(self, batches: Iterator[TickArray], ids: NDArray[np.int32]) -> Iterator[TickArray]:
        """The wanted rows, with the feed's ids."""
        for batch in batches:
            named = ids[batch["instrument_id"]]
            kept = named >= 0
            ticks = batch.copy() if kept.all() else batch.view(RAW)[kept].view(TICK)
            ticks["instrument_id"] = named[kept]
            yield ticks

    def _standing(self, rows: int) -> TickArray:
        """What stands when the feed begins."""
        state = MarketState()
        days = zip(self._days, self._ids, strict=True)
        for ticks in merge([self._renamed(self._until_start(day, rows), ids) for day, ids in days]):
            state.update(ticks)
        return state.rows(self.first_ns)

    def _until_start(self, day: Day, rows: int) -> Iterator[TickArray]:
        """A checkpoint, and the rows from there to the feed's begin."""
        checkpoint = checkpoint_before(day.manifest, self.first_ns)
        if checkpoint is not None:
            yield from read_checkpoint(day.path, checkpoint)
        begin = None if checkpoint is None else checkpoint.ts_recv
        yield from day.batches(rows, start_ns=begin, stop_ns=self.first_ns)

    def digest(self) -> str:
        """What a replay of these days must end in. Reads all rows: 0.1 us each, book rows 1.5 us."""
        return self.digest_of(self.batches(), np.zeros(len(self.instruments), np.int16))

    def digest_of(self, batches: Iterable[TickArray], partitions: NDArray[np.int16]) -> str:
        """As `digest`, of rows with the feed's ids that are not all as they were.

        Args:
            partitions: by the feed's instrument id. Each has a watermark of its own; that of rows whose `ts_recv` goes
                back is not the watermark of all.
        """
        texts = [instrument.text for instrument in self.instruments]
        folds = [OfflineFold(texts) for _ in range(int(partitions.max(initial=0)) + 1)]
        for ticks in batches:
            if len(folds) == 1:
                folds[0].update(ticks)
                continue
            market = ticks[ticks["instrument_id"] >= 0]
            where = partitions[market["instrument_id"]]
            for number, fold in enumerate(folds):
                fold.update(market[where == number])
        return digest(final for fold in folds for final in fold.finals())


def _some(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
