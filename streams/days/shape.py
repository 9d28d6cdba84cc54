"""The shape of a day on disk, read once in batches."""

from __future__ import annotations

from collections.abc import Callable

from models.days.shape import Shape, ShapeOf
from models.errors import InvalidInstrument, NothingToMeasure
from streams.days.day import Day

Progress = Callable[[int, int], None]  # rows done, in all


def shape_of(day: Day, instrument: str | None = None, progress: Progress | None = None) -> Shape:
    """Measure one instrument's messages, by default those of the instrument with the most rows.

    Raises:
        CorruptDay: the ticks cannot be read.
        InvalidInstrument: the day does not have this instrument.
        NothingToMeasure: there is no message.
    """
    entries = day.manifest.instruments
    if instrument is None:
        chosen = max(range(len(entries)), key=lambda index: entries[index].rows, default=-1)
    else:
        chosen = next((entry.id for entry in entries if entry.text == instrument), -1)
        if chosen < 0:
            raise InvalidInstrument(f"{day.path} has no instrument {instrument!r}; `day info` lists those it has")
    if chosen < 0 or not entries[chosen].rows:
        raise NothingToMeasure(f"{day.path}: no messages of {instrument or 'any instrument'}, so there is no shape")
    shape, done = ShapeOf(chosen, len(entries)), 0
    for ticks in day.raw_batches():
        shape.add(ticks)
        done += len(ticks)
        if progress:
            progress(done, day.rows)
    return shape.finish()
