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

import rocksdict

from models.errors import CorruptStore, DiskFull
from streams.log import event

log = logging.getLogger(__name__)

DAMAGED = ".damaged"  # the newest damaged folder of a partition is kept under this ending, for people
_LOG_NEEDED = re.compile(r"\blog_number is (\d+),")


def scan(db: rocksdict.Rdict) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values, keys rising.

    Raises:
        CorruptStore: a block cannot be read; rocksdict's own iterators end there without a word.
    """
    cursor = db.iter()
    cursor.seek_to_first()
    while cursor.valid():
        yield cursor.key(), cursor.value()
        cursor.next()
    with store_errors(Path(db.path())):
        cursor.status()


def open_checked(path: Path, open_: Callable[[Path], rocksdict.Rdict]) -> rocksdict.Rdict:
    """Open a store, or make an empty one, and read all of it once.

    Raises:
        CorruptStore: it is damaged. The folder is closed and may be moved.
        DiskFull: there is no room to open it.
    """
    logs = {int(file.stem) for file in path.glob("*.log")} if path.exists() else None
    with store_errors(path):
        db = open_(path)
    try:
        if logs is not None:
            _check_logs(path, logs)
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


def _check_logs(path: Path, logs: set[int]) -> None:
    """The oldest write-ahead log that the MANIFEST needs was there: else it lost the tables that made it superfluous.

    RocksDB says in its LOG which one that is; nothing in its interface does.
    """
    found = _LOG_NEEDED.findall((path / "LOG").read_text(errors="replace"))
    needed = int(found[-1]) if found else 0
    if needed and needed not in logs:
        raise CorruptStore(f"{path}: the MANIFEST needs {needed:06d}.log, which is not there: it was cut")
