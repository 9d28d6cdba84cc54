"""Traces: recorded sequences of requests in the forms of the literature, read for simulation.

Keys become whole numbers: those of the file, or, for texts, their order of appearance. Compression (gzip, xz, zstd) is
told by the first bytes, not by the name.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.errors import UnreadableSource

MAX_LINE_BYTES = 4096
MAX_REQUESTS = 100_000_000  # 8 bytes each; a few kB of zeros compressed can claim to be more than any memory holds
_MAX_RANGE = 1 << 20  # blocks that one line of an ARC trace may ask for
_MAX_KEY = (1 << 63) - 1
_BLOCK_BYTES = 1 << 18
_CHUNK = 1 << 16  # requests
_GZIP, _XZ, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"

Progress = Callable[[int, int], None]  # bytes of the file: done, in all


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A sequence of requests.

    Attributes:
        name: of the file.
        keys: int64[requests], in order.
        unique: how many different keys there are.
    """

    name: str
    keys: NDArray[np.int64]
    unique: int


def read_trace(
    path: Path, form: str, *, limit: int | None = None, progress: Progress = lambda done, total: None
) -> Trace:
    """Read a file's requests, or its first `limit`.

    Args:
        form: one of `FORMS`.

    Raises:
        UnreadableSource: it is absent, empty, not of this form, cut short, or longer than 100 M requests. The message
            says where.
    """
    most = MAX_REQUESTS if limit is None else limit
    total = 0
    chunks: list[NDArray[np.int64]] = []
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            source = _Source(_plain(file), path)  # named: Arrow's streams close their file once nobody holds them
            for chunk in FORMS[form](source):
                chunks.append(chunk[: most - total])
                progress(min(file.tell(), size), size)
                total += len(chunk)
                if total > most or (total == most and limit is not None):
                    break
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as exc:
        raise UnreadableSource(f"{path} cannot be read beyond request {total}: {exc}") from exc
    if total > most and limit is None:
        raise UnreadableSource(f"{path} has more than {MAX_REQUESTS:,} requests; read a part of it with --limit")
    if not total:
        raise UnreadableSource(f"{path} holds no request")
    keys = np.concatenate(chunks)
    return Trace(path.name, keys, len(np.unique(keys)))


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _plain(file: IO[bytes]) -> _Bytes:
    """The file's content, decompressed as it is read."""
    start = file.read(len(_XZ))
    file.seek(0)
    if start.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(_XZ):
        return lzma.LZMAFile(file)
    if start.startswith(_ZSTD):
        zstd: _Bytes = pa.CompressedInputStream(file, "zstd")
        return zstd
    return file


class _Source:
    """One trace's bytes, as blocks or as lines with their numbers."""

    def __init__(self, file: _Bytes, path: Path) -> None:
        self.path = path
        self._file = file

    def blocks(self) -> Iterator[bytes]:
        while block := self._file.read(_BLOCK_BYTES):
            yield block

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Lines that say something, stripped, numbered from 1 on. Raises: UnreadableSource (one is too long)."""
        number, rest = 0, b""
        for block in self.blocks():
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                number += 1
                yield from self._line(number, line)
            if len(rest) > MAX_LINE_BYTES:
                raise self.refused(number + 1, f"is longer than {MAX_LINE_BYTES} bytes")
        yield from self._line(number + 1, rest)

    def _line(self, number: int, line: bytes) -> Iterator[tuple[int, bytes]]:
        if len(line) > MAX_LINE_BYTES:
            raise self.refused(number, f"is longer than {MAX_LINE_BYTES} bytes")
        if line := line.strip():
            yield number, line

    def whole_number(self, number: int, text: bytes) -> int:
        if not text.isdigit() or len(text) > len(str(_MAX_KEY)) or int(text) > _MAX_KEY:
            raise self.refused(number, f"{text[:40].decode(errors='replace')!r} is no whole number of 0..2**63-1")
        return int(text)

    def refused(self, number: int, why: str) -> UnreadableSource:
        return UnreadableSource(f"{self.path}:{number}: {why}; is --format right?")


def _lirs(trace: _Source) -> Iterator[NDArray[np.int64]]:
    """One block number a line; lines that begin with `*` are remarks."""
    return _gathered(trace.whole_number(number, line) for number, line in trace.lines() if not line.startswith(b"*"))


def _arc(trace: _Source) -> Iterator[NDArray[np.int64]]:
    """`start count ignored sequence` a line: count blocks from start on."""
    for number, line in trace.lines():
        fields = line.split()
        if len(fields) < 2:
            raise trace.refused(number, "has no two numbers, start and count")
        start, count = (trace.whole_number(number, field) for field in fields[:2])
        if count > _MAX_RANGE or start + count > _MAX_KEY:
            raise trace.refused(number, f"asks for {count:,} blocks from {start} on; at most {_MAX_RANGE:,} are taken")
        yield np.arange(start, start + count, dtype=np.int64)


def _keys(trace: _Source) -> Iterator[NDArray[np.int64]]:
    """One key a line, any text."""
    numbers: dict[bytes, int] = {}
    return _gathered(numbers.setdefault(line, len(numbers)) for _, line in trace.lines())


def _whole_numbers(dtype: str) -> Callable[[_Source], Iterator[NDArray[np.int64]]]:
    """4-byte numbers of that byte order, nothing between them."""

    def read(trace: _Source) -> Iterator[NDArray[np.int64]]:
        rest = b""
        for block in trace.blocks():
            data = rest + block
            n_whole = len(data) // 4
            rest = data[4 * n_whole :]
            yield np.frombuffer(data, dtype, n_whole).astype(np.int64)
        if rest:
            raise UnreadableSource(f"{trace.path} ends inside a number: {len(rest)} bytes are left; is --format right?")

    return read


def _gathered(keys: Iterator[int]) -> Iterator[NDArray[np.int64]]:
    while len(chunk := array("q", islice(keys, _CHUNK))):
        yield np.frombuffer(chunk, np.int64)


FORMS: dict[str, Callable[[_Source], Iterator[NDArray[np.int64]]]] = {
    "lirs": _lirs,
    "cache2k": _whole_numbers(">i4"),
    "u32": _whole_numbers("<u4"),
    "keys": _keys,
    "arc": _arc,
}
