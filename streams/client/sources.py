"""Files of ticks as batches of JSON ticks: NDJSON, CSV, Parquet; in bounded memory, off the event loop's back."""

from __future__ import annotations

import asyncio
import csv
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from models.errors import TickRefused, UnreadableSource
from models.market.json_refusals import MAX_BYTES, Refusal
from streams.client.columns import SourceBatch, fields_of, json_tick

FORMATS = ("ndjson", "csv", "parquet")
STDIN = "-"
_SUFFIXES = {".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv", ".parquet": "parquet"}
_BLOCK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


class TickSource:
    """A file, or standard input, of ticks.

    Args:
        path: a file, `-` for standard input.
        format: one of FORMATS; None = by the file's extension, NDJSON for standard input.

    Attributes:
        total: bytes (Parquet: rows) of the whole source, None when only its end will tell.

    Raises:
        UnreadableSource: no such file, or no format is known for its extension.
    """

    def __init__(self, path: str, format: str | None = None) -> None:
        self.path = path
        self.name = "standard input" if path == STDIN else path
        self.format = format or ("ndjson" if path == STDIN else _SUFFIXES.get(Path(path).suffix.lower(), ""))
        if self.format not in FORMATS:
            raise UnreadableSource(f"{path}: unknown extension; say --format {' | '.join(FORMATS)}")
        if path == STDIN and self.format == "parquet":
            raise UnreadableSource("Parquet is read from its end: give a file, not standard input")
        if path != STDIN and not Path(path).is_file():
            raise UnreadableSource(f"{path}: {'is a folder' if Path(path).is_dir() else 'no such file'}")
        self.total = None if path == STDIN else Path(path).stat().st_size or None

    async def batches(self) -> AsyncIterator[SourceBatch]:
        """The records in their order.

        Raises:
            UnreadableSource: the file cannot be read as its format, or lacks columns.
        """
        if self.format == "parquet":
            from streams.client.parquet import open_rows, read_rows  # noqa: PLC0415 - pyarrow loads in 0.3 s

            table = await asyncio.to_thread(open_rows, self.path)
            self.total = table.n_rows
            async for batch in read_rows(table):
                yield batch
            return
        number = done = 0
        fields: list[str | None] | None = None
        async for lines, n_bytes in _lines(self.path):
            done += n_bytes
            records = [(line, n) for n, line in enumerate(lines, number + 1) if line.strip()]
            number += len(lines)
            if self.format == "ndjson":
                ticks = [line for line, _ in records]
                yield SourceBatch(ticks, ticks, [n for _, n in records], [], done)
                continue
            if fields is None and records:
                fields = self._header(records.pop(0)[0])
            yield _csv_batch(fields or [], records, done)

    def _header(self, line: bytes) -> list[str | None]:
        try:
            return fields_of(_cells(line), self.name)
        except TickRefused as exc:
            raise UnreadableSource(f"{self.name}: its first line is no CSV header ({exc.detail})") from exc


def _csv_batch(fields: list[str | None], records: list[tuple[bytes, int]], done: int) -> SourceBatch:
    batch = SourceBatch([], [], [], [], done)
    for line, number in records:
        try:
            cells = _cells(line)
            if len(cells) != len(fields):
                raise TickRefused("bad_json", f"{len(cells)} cells where the header has {len(fields)}")
            batch.ticks.append(json_tick(fields, cells))
        except TickRefused as exc:
            batch.refused.append((line, number, Refusal(-1, exc.reason, exc.detail)))
        else:
            batch.originals.append(line)
            batch.numbers.append(number)
    return batch


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode()]), [])
    except (UnicodeDecodeError, csv.Error) as exc:
        raise TickRefused("bad_json", f"not a line of CSV: {exc}") from exc


async def _lines(path: str) -> AsyncIterator[tuple[list[bytes], int]]:
    """Whole lines without their ends, and how many bytes were read for them; an endless line is cut off."""
    rest, overlong = b"", False
    fd = sys.stdin.fileno() if path == STDIN else os.open(path, os.O_RDONLY)
    try:
        start = True
        async for block in _blocks(fd):
            lines = (rest + (block.removeprefix(_BOM) if start else block)).split(b"\n")
            start = False
            rest = lines.pop()
            if overlong and lines:
                lines, overlong = lines[1:], False  # the tail of a line that was handed out already
            elif overlong:
                rest = b""
            if len(rest) > MAX_BYTES:
                lines.append(rest[: MAX_BYTES + 1])
                rest, overlong = b"", True
            yield [line.removesuffix(b"\r") for line in lines], len(block)
        if rest and not overlong:
            yield [rest.removesuffix(b"\r")], 0
    finally:
        if path != STDIN:
            os.close(fd)


async def _blocks(fd: int) -> AsyncIterator[bytes]:
    waits = not stat.S_ISREG(os.fstat(fd).st_mode)
    while True:
        # A thread that sits in read() of a pipe cannot be cancelled, so a pipe is read once it is ready.
        if waits:
            waits = await _readable(fd)
        block = os.read(fd, _BLOCK_BYTES) if waits else await asyncio.to_thread(os.read, fd, _BLOCK_BYTES)
        if not block:
            return
        yield block


async def _readable(fd: int) -> bool:
    """Wait until `fd` has something to read; False if it is of a kind that cannot be waited for."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # epoll takes no regular files and no /dev/null
        return False
    try:
        await ready.wait()  # no timeout: standard input may rest for as long as its writer likes
    finally:
        loop.remove_reader(fd)
    return True
