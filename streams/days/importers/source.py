"""What all importers share: files as sources of rows, and a day made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from models.errors import UnreadableSource
from models.market.instruments import Instrument
from models.market.tick import TickArray
from streams.days.day import Day
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.symbols import Symbols
from streams.days.manifest import Origin, file_entry
from streams.days.merge import merge
from streams.days.writer import DayWriter

MAX_SOURCES = 200  # each is an open file, and the rows of a block or of its largest event in memory
_BLOCKS_BYTES = 8 << 20  # of all sources together; with its rows and copies a block takes ten times its bytes
_BLOCK_BYTES = 1 << 20


F = TypeVar("F", bound="NamedSource")


class Source(Protocol):
    """One file, or files that belong together: rows in their own order, cut at ends of events.

    `progress` hears how many of the files' bytes are read, `block_bytes` is about what a chunk may be made of.
    """

    @property
    def paths(self) -> tuple[Path, ...]: ...

    def chunks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[TickArray]: ...


class NamedSource(Source, Protocol):
    """A source that finds its instruments by names; `date` (or what else tells it apart) is for the day's name."""

    @property
    def date(self) -> str: ...


def import_named(
    importer: str,
    make: Callable[[Path, Symbols, ImportReport], F],
    sources: Sequence[Path],
    out: Path,
    *,
    symbols: Symbols,
    terms: Terms | None,
    options: Mapping[str, str],
    check: Callable[[Sequence[F]], None] = lambda files: None,
) -> tuple[Day, ImportReport]:
    """Make a day of files whose instruments are found while they are read; their order does not matter.

    Args:
        importer, options: for the manifest.
        make: a file's rows.
        check: looks at all files before any row is read; may raise UnreadableSource.

    Raises:
        FileExistsError, TooManyRejects, UnreadableSource: see `write_day`.
    """
    report = ImportReport.beside(out, terms)
    files = [make(path, symbols, report) for path in sorted(sources, key=lambda path: path.name)]
    check(files)
    day = write_day(
        files,
        out,
        importer=importer,
        dates=[file.date for file in files],
        instruments=symbols.instruments,
        report=report,
        options=options,
    )
    return day, report


def write_day(
    sources: Sequence[Source],
    out: Path,
    *,
    importer: str,
    dates: Sequence[str],
    instruments: Sequence[Instrument],
    report: ImportReport,
    options: Mapping[str, str] | None = None,
) -> Day:
    """Merge the sources by time of receipt into a day at `out`; `instruments` may grow while they are read.

    Args:
        dates: of the sources, for the day's name.
        options: what the user said about the sources, kept in the manifest.

    Raises:
        FileExistsError: there is something at `out`.
        TooManyRejects: more is unreadable than the report's terms allow.
        UnreadableSource: a file is damaged, there are too many of them, or all together make no row.
    """
    if not 0 < len(sources) <= MAX_SOURCES:
        raise UnreadableSource(f"{len(sources)} files; an import takes 1 to {MAX_SOURCES}: make several days of them")
    paths = list(dict.fromkeys(path for source in sources for path in source.paths))
    read, total = [0] * len(sources), sum(path.stat().st_size for path in paths)
    progress = report.terms.progress
    block_bytes = min(_BLOCK_BYTES, _BLOCKS_BYTES // len(sources))

    def hear(index: int, n_bytes: int) -> None:
        read[index] = n_bytes
        if progress:
            progress(sum(read), total)

    def watched(index: int, source: Source) -> Iterator[TickArray]:
        for rows in source.chunks(partial(hear, index), block_bytes):
            report.check()
            yield rows

    entries = tuple(map(file_entry, paths))
    origin = Origin(importer=importer, sources=entries, options=dict(options or {}))
    try:
        name = report.terms.name or day_name(importer, dates)
        with DayWriter(out, name=name, origin=origin) as writer:
            for rows in merge([watched(index, source) for index, source in enumerate(sources)]):
                writer.append(rows)
            report.check(ended=True)
            if not writer.rows:
                raise UnreadableSource(f"no rows in {', '.join(entry.name for entry in entries[:3])}: nothing to make")
            return writer.finish(instruments)
    finally:
        report.close()


def day_name(importer: str, dates: Sequence[str]) -> str:
    """`importer-first[-last]`: the same for the same files, wherever the day is written."""
    first, last = min(dates), max(dates)
    return "-".join([importer, first] if first == last else [importer, first, last])
