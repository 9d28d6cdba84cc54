"""What all importers share: files as sources of rows, the account of lines that could not be read, writing the day."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from models.market.instruments import Instrument
from models.market.tick import TickArray
from streams.days.day import Day, DayWriter
from streams.days.manifest import Origin, file_entry
from streams.days.merge import merge

N_LISTED = 100
Progress = Callable[[int, int], None]  # bytes of the source files: done, in all


@dataclass
class ImportReport:
    """Counts of one import. `n_records` are the source's records that were read: Binance frames, LEAN lines.

    `problems` has `file:line: reason` of the first hundred that were not.
    """

    n_records: int = 0
    n_unreadable: int = 0
    problems: list[str] = field(default_factory=list)

    def refuse(self, file: str, line: int, reason: str) -> None:
        self.n_unreadable += 1
        if len(self.problems) < N_LISTED:
            self.problems.append(f"{file}:{line}: {reason}")


class Source(Protocol):
    """One file: rows in its own order, cut at ends of events; `progress` hears how many of its bytes are read."""

    path: Path

    def chunks(self, progress: Callable[[int], None]) -> Iterator[TickArray]: ...


def write_day(
    sources: Sequence[Source],
    out: Path,
    *,
    importer: str,
    name: str,
    instruments: Sequence[Instrument],
    progress: Progress | None,
) -> Day:
    """Merge the sources by time of receipt into a day at `out`; `instruments` may grow while they are read.

    Raises:
        FileExistsError: there is something at `out`.
    """
    read, total = [0] * len(sources), sum(source.path.stat().st_size for source in sources)

    def hear(index: int, n_bytes: int) -> None:
        read[index] = n_bytes
        if progress:
            progress(sum(read), total)

    origin = Origin(importer=importer, sources=tuple(file_entry(source.path) for source in sources))
    with DayWriter(out, name=name, origin=origin) as writer:
        chunks = [source.chunks(partial(hear, index)) for index, source in enumerate(sources)]
        for rows in merge(chunks):
            writer.append(rows)
        return writer.finish(instruments)


def day_name(importer: str, dates: Sequence[str]) -> str:
    """`importer-first[-last]`: the same for the same files, wherever the day is written."""
    first, last = min(dates), max(dates)
    return "-".join([importer, first] if first == last else [importer, first, last])
