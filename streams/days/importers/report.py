"""The account of an import: what was read, what was not and why, and when that is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from models.errors import TooManyRejects, UnreadableSource

N_LISTED = 100
MAX_REJECTS = 0.001
N_BEFORE_STOPPING = 1000  # rejects; from here on an import above its share does not wait for the end
_MAX_TEXT = 4096  # bytes of a refused line that are kept

Progress = Callable[[int, int], None]  # bytes of the source files: done, in all


@dataclass(frozen=True)
class Terms:
    """What an import may lose, what its day is called, and who watches.

    Attributes:
        name: of the day; None = importer and dates.
        max_rejects: share of the records, 0..1, that may be unreadable.
        keep_cut: import what stands before the cut of a damaged file, instead of nothing.
        progress: hears the bytes read and in all.
    """

    name: str | None = None
    max_rejects: float = MAX_REJECTS
    keep_cut: bool = False
    progress: Progress | None = None


class Reject(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a reject file. `line` counts from 1 (records or rows in files without lines).

    `text` is the line as it came, bytes that are no UTF-8 as `\\xNN`; of a longer one the first 4096 bytes, and then
    `bytes` is its length.
    """

    file: str
    line: int
    reason: str
    text: str
    bytes: int = 0


class ImportReport:
    """Counts of one import; refused lines go to a reject file as they come.

    Attributes:
        n_records: the source's records that were read: Binance frames, LEAN lines, LOBSTER messages.
        n_unreadable: records that were refused.
        problems: `file:line: reason` of the first hundred of those.
        explained: records that say nothing about the market (heartbeats, acknowledgements), by type; they are read.
        rejects: the reject file, which is made with the first refused record; None = nobody wants one.
    """

    def __init__(self, terms: Terms | None = None, rejects: Path | None = None) -> None:
        self.terms = terms or Terms()
        self.n_records = self.n_unreadable = 0
        self.problems: list[str] = []
        self.explained: Counter[str] = Counter()
        self.rejects = rejects
        self._stream: BinaryIO | None = None

    @classmethod
    def beside(cls, out: Path, terms: Terms | None) -> ImportReport:
        """A report whose reject file is `<day>.rejects.ndjson`; one of an earlier attempt is removed.

        Raises:
            FileExistsError: there is something at `out`; nothing was touched.
        """
        if out.exists():
            raise FileExistsError(f"{out} exists already")
        path = out.with_name(out.name + ".rejects.ndjson")
        path.unlink(missing_ok=True)
        return cls(terms, path)

    def refuse(self, file: str, line: int, reason: str, text: bytes = b"") -> None:
        """Count a record that cannot be read."""
        self.n_unreadable += 1
        if len(self.problems) < N_LISTED:
            self.problems.append(f"{file}:{line}: {reason}")
        if self.rejects is None:
            return
        if self._stream is None:
            self.rejects.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.rejects.open("wb")
        shown = text[:_MAX_TEXT].decode("utf-8", "backslashreplace")
        reject = Reject(file, line, reason, shown, len(text) if len(text) > _MAX_TEXT else 0)
        self._stream.write(msgspec.json.encode(reject) + b"\n")

    def damaged(self, file: str, line: int, what: str) -> None:
        """A file cannot be read from this line on.

        Raises:
            UnreadableSource: unless cut files are to be kept; then it counts as one refused record.
        """
        if not self.terms.keep_cut:
            raise UnreadableSource(
                f"{file}: the file is cut or damaged from line {line} on ({what}); fetch it again, or import what "
                "stands before with --keep-cut"
            )
        self.refuse(file, line, f"the file is cut or damaged from here on: {what}")

    def check(self, *, ended: bool = False) -> None:
        """Raises: TooManyRejects when more than the agreed share is refused, at the end or once 1,000 are."""
        if self.n_unreadable < (1 if ended else N_BEFORE_STOPPING):
            return
        share = self.n_unreadable / (self.n_records + self.n_unreadable)
        if share > self.terms.max_rejects:
            where = f"; all are in {self.rejects}" if self.rejects else ""
            n = self.n_records + self.n_unreadable
            raise TooManyRejects(
                f"{self.n_unreadable} of {n} records cannot be read, {share:.2%} where "
                f"{self.terms.max_rejects:.2%} are allowed (--max-rejects); the first is {self.problems[0]}{where}"
            )

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
