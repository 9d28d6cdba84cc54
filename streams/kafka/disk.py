"""RocksDB folders: opened with every block checked, scanned without silence, set aside when they are damaged.

What a damaged store does by itself (RocksDB 10, each found by cutting and flipping files): a wrong block ends an
iteration as if there were no more keys, and a MANIFEST cut at its end opens without the newest tables, although the
write-ahead log after them is applied. Both would be wrong state; here both are errors.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import rocksdict

from models.errors import CorruptStore, DiskFull
from streams.log import event

log = logging.getLogger(__name__)

REWRITE = b"__marketprism\0rewrite__"  # there: all pages must be written again before anything is committed
UNFINISHED = b"__marketprism\0unfinished__"  # there: a recovery is not over: whole as of no version
DAMAGED = ".damaged"  # the newest damaged folder of a partition is kept under this ending, for people
_FROM_MANIFEST = re.compile(r"Recovered from manifest .*last_sequence is (\d+), log_number is (\d+),")


def scan(db: rocksdict.Rdict, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """All keys and values from `start` on, keys rising.

    Raises:
        CorruptStore: a block cannot be read; rocksdict's own iterators end there without a word.
    """
    cursor = db.iter()
    cursor.seek(start)
    while cursor.valid():
        yield cursor.key(), cursor.value()
        cursor.next()
    with store_errors(Path(db.path())):
        cursor.status()


def keys_of(db: rocksdict.Rdict, start: bytes) -> Iterator[bytes]:
    """Keys from `start` on, rising.

    Raises:
        CorruptStore: as `scan`.
    """
    cursor = db.iter()
    cursor.seek(start)
    while cursor.valid():
        yield cursor.key()
        cursor.next()
    with store_errors(Path(db.path())):
        cursor.status()


def open_checked(path: Path, open_: Callable[[Path], rocksdict.Rdict]) -> rocksdict.Rdict:
    """Open a store, or make an empty one, and read all of it once.

    Raises:
        CorruptStore: it is damaged. The folder is closed and may be moved.
        DiskFull: there is no room to open it.
    """
    before = _Files.in_(path)  # RocksDB deletes those that it knows nothing of
    with store_errors(path):
        db = open_(path)
    try:
        before.check(path, known_tables={int(Path(file["name"]).stem) for file in db.live_files()})
        for _ in scan(db):
            pass
    except CorruptStore:
        close(db)
        raise
    return db


def close(db: rocksdict.Rdict) -> None:
    """Close a store; what a damaged or full one says to that is known already."""
    try:
        db.close()
    except Exception as exc:
        event(log, "store_closed_with_error", level=logging.WARNING, detail=str(exc))


def set_aside(path: Path, reason: object) -> None:
    """Move a damaged folder out of the way, and say why."""
    aside = path.with_name(path.name + DAMAGED)
    event(log, "store_damaged", level=logging.WARNING, folder=str(path), kept=str(aside), reason=str(reason))
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """What rocksdict raises inside (bare exceptions with RocksDB's text) becomes an error of ours where it has one."""
    try:
        yield
    except Exception as exc:
        text = str(exc)
        if "No space left" in text or "Disk quota" in text or "File too large" in text:
            raise DiskFull(
                f"the disk of {path} is full: nothing was committed and nothing is lost; free space, the worker then "
                f"goes on where it was ({text})"
            ) from exc
        if text.startswith("Corruption") or "No such file" in text:
            raise CorruptStore(f"{path}: {text}") from exc
        raise


class _Files(NamedTuple):
    """What lay in a folder before it was opened, by the numbers in the files' names.

    RocksDB says in its LOG what it took from the MANIFEST; nothing in its interface does.

    Attributes:
        logs: sequence number of the first write in each write-ahead log, None where it has none.
    """

    tables: set[int]
    logs: dict[int, int | None]

    @classmethod
    def in_(cls, path: Path) -> Self:
        tables = {int(file.stem) for file in path.glob("*.sst")}
        return cls(tables, {int(file.stem): _first_sequence(file) for file in sorted(path.glob("*.log"))})

    def check(self, path: Path, known_tables: set[int]) -> None:
        """Raises: CorruptStore when the MANIFEST lost its end, or a log was lost before the one that was applied."""
        if (found := _FROM_MANIFEST.search((path / "LOG").read_text(errors="replace"))) is None:
            return  # a new store
        last_sequence, needed = int(found[1]), int(found[2])
        # A cut MANIFEST asks for a log that went when its rows became a table, and does not know this table any more.
        if needed not in self.logs and (lost := [n for n in self.tables - known_tables if n >= needed]):
            raise CorruptStore(f"{path}: the MANIFEST was cut: it misses {needed:06d}.log and {lost[0]:06d}.sst")
        firsts = [first for number, first in self.logs.items() if number >= needed and first is not None]
        if firsts and firsts[0] > last_sequence + 1:
            raise CorruptStore(f"{path}: a log was lost: writes from {last_sequence + 1} on to {firsts[0]} are missing")


def _first_sequence(file: Path) -> int | None:
    """A log's first record is a header of 7 bytes and a batch, which begins with its sequence number.

    Source: RocksDB wiki, Write Ahead Log File Format; record types 1 (whole) and 2 (first part).
    """
    with file.open("rb") as log_file:
        start = log_file.read(15)
    return int.from_bytes(start[7:15], "little") if len(start) == 15 and start[6] in {1, 2} else None
