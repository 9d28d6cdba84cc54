"""One or several days as one stream of rows, with one list of instruments and one numbering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from models.errors import InstrumentConflict
from models.market.digest import digest
from models.market.fold import OfflineFold
from models.market.instruments import Instrument
from models.market.tick import TickArray
from streams.days.day import BATCH, Day
from streams.days.merge import merge


class DayFeed:
    """Rows of days in order of receipt; days that overlap in time are merged.

    Attributes:
        name: the days' names joined with `+`.
        instruments: all of the days' instruments; what the rows' `instrument_id` indexes.
        rows: how many there are.
        first_ns, last_ns: `ts_recv` of the first and of the last row.

    Raises:
        InstrumentConflict: two days give an instrument different exponents.
    """

    def __init__(self, days: Sequence[Day]) -> None:
        if not days:
            raise ValueError("a feed needs a day")
        self._days = list(days)
        self.name = "+".join(day.name for day in days)
        self.rows = sum(day.rows for day in days)
        filled = [day.manifest for day in days if day.rows]
        self.first_ns = min((manifest.ts_recv_min for manifest in filled), default=0)
        self.last_ns = max((manifest.ts_recv_max for manifest in filled), default=0)
        self.instruments: list[Instrument] = []
        known: dict[str, int] = {}
        self._ids: list[NDArray[np.int32]] = []  # by day: its ids -> ids of the feed
        for day in days:
            self._ids.append(np.array([self._id(instrument, known) for instrument in day.instruments], np.int32))

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

    def batches(self, rows: int = BATCH) -> Iterator[TickArray]:
        """Whole events, `seq` dense 1..N over all days. Raises: CorruptDay."""
        if len(self._days) == 1:
            yield from self._days[0].batches(rows)
            return
        taken = 0
        for ticks in merge([self._renamed(day, ids, rows) for day, ids in zip(self._days, self._ids, strict=True)]):
            ticks["seq"] = np.arange(taken + 1, taken + len(ticks) + 1)
            taken += len(ticks)
            yield ticks

    def _renamed(self, day: Day, ids: NDArray[np.int32], rows: int) -> Iterator[TickArray]:
        for ticks in day.batches(rows):
            ticks["instrument_id"] = np.where(ticks["instrument_id"] >= 0, ids[ticks["instrument_id"]], -1)
            yield ticks

    def digest(self) -> str:
        """What a replay of these days must end in. Reads all rows: 0.1 us each, book rows 1.5 us."""
        fold = OfflineFold([instrument.text for instrument in self.instruments])
        for ticks in self.batches():
            fold.update(ticks)
        return digest(fold.finals())
