"""Files of lines in blocks of whole lines, unpacked on the way: plain, gzip, zstd, or a file inside a zip.

How a file is packed is seen from its first bytes. Memory is bounded whatever a file holds: by a block and the longest
line allowed.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from models.errors import UnreadableSource
from streams.days.importers.report import ImportReport

MAX_LINE_BYTES = 4 << 20
# Text of distinct times and numbers packs 5 to 40 times, deflate can 1,032 times, zstd many thousand times
MAX_RATIO = 250
_MIN_JUDGED_BYTES = 64 << 20  # what an unpacked file may reach at any ratio

_GZIP, _ZSTD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
DAMAGE = (EOFError, OSError, zlib.error, zipfile.BadZipFile)


class Block(NamedTuple):
    """Whole lines, without the last one's end; `line` is the number of the first, from 1."""

    line: int
    text: bytes


class PackedFile:
    """A file's bytes, unpacked.

    Args:
        member: name of the file inside a zip; None = its only one.

    Raises:
        UnreadableSource: a zip without its directory, or not with one file inside.
    """

    def __init__(self, path: Path, member: str | None = None) -> None:
        self.path, self.member = path, member
        with path.open("rb") as stream:
            start = stream.read(4)
        self._form = next((form for form in (_GZIP, _ZSTD, _ZIP) if start.startswith(form)), b"")
        if path.suffix == ".zip" and self._form != _ZIP:
            raise UnreadableSource(f"{path}: not a zip file")
        if self._form == _ZIP and member is None:
            names = members(path)
            if len(names) != 1:
                raise UnreadableSource(f"{path}: holds {len(names)} files, not one: {', '.join(names[:5])}")
            self.member = names[0]

    @property
    def name(self) -> str:
        """Of the file whose lines these are."""
        return self.member or self.path.name

    @property
    def is_packed(self) -> bool:
        """A packed file tells when it is cut."""
        return bool(self._form)

    def pieces(self, progress: Callable[[int], None], n_bytes: int) -> Iterator[bytes]:
        """The unpacked bytes in pieces of at most `n_bytes`.

        Raises:
            UnreadableSource: it unpacks to more than `MAX_RATIO` times its bytes.
            EOFError, OSError, zlib.error, BadZipFile: it is cut or damaged.
        """
        n_out = 0
        with ExitStack() as stack:
            raw = stack.enter_context(self.path.open("rb"))
            stream = self._open(raw, stack)
            while piece := stream.read(n_bytes):
                n_out += len(piece)
                n_in = raw.tell()
                if self._form and n_out > _MIN_JUDGED_BYTES and n_out > MAX_RATIO * n_in:
                    raise UnreadableSource(
                        f"{self.path}: {n_in} bytes unpack to more than {n_out}, {MAX_RATIO} times as much: a "
                        "decompression bomb, no recording of a market; unpack it yourself if you trust it"
                    )
                progress(n_in)
                yield piece

    def _open(self, raw: BinaryIO, stack: ExitStack) -> BinaryIO:
        if self._form == _GZIP:
            return stack.enter_context(gzip.open(raw, "rb"))  # type: ignore[return-value]
        if self._form == _ZSTD:
            packed = stack.enter_context(pa.PythonFile(raw, mode="r"))
            return stack.enter_context(pa.CompressedInputStream(packed, "zstd"))  # type: ignore[no-any-return]
        if self._form == _ZIP:
            archive = stack.enter_context(zipfile.ZipFile(raw))
            try:
                return stack.enter_context(archive.open(self.member or ""))  # type: ignore[return-value]
            except (RuntimeError, NotImplementedError, KeyError) as exc:  # a password, an odd method, another name
                raise UnreadableSource(f"{self.path}: {self.member} cannot be unpacked: {exc}") from exc
        return raw


class TextFile(PackedFile):
    """A file of lines; what cannot be a line goes to `report`."""

    def __init__(self, path: Path, report: ImportReport, *, member: str | None = None) -> None:
        super().__init__(path, member)
        self._report = report

    def blocks(self, progress: Callable[[int], None], block_bytes: int) -> Iterator[Block]:
        """Blocks of about `block_bytes`. A line over `MAX_LINE_BYTES` is refused and passed over.

        Raises:
            UnreadableSource: the file is damaged (unless the report's terms keep what is before), or a bomb.
        """
        line, held, skips = 1, b"", False
        pieces = self.pieces(progress, block_bytes)
        while True:
            try:
                piece = next(pieces, b"")
            except DAMAGE as exc:
                self._report.damaged(self.name, line, str(exc))
                return  # what is held is no whole line
            if not piece:
                break
            if skips:
                _, newline, piece = piece.partition(b"\n")
                if not newline:
                    continue
                skips = False
                line += 1
            end = len(held) + piece.find(b"\n")
            if end > max(MAX_LINE_BYTES, len(held)):
                self._too_long(line, held + piece[: end - len(held)])
                held, piece = b"", piece[end - len(held) + 1 :]
                line += 1
            whole, newline, held = (held + piece).rpartition(b"\n")
            if newline:
                yield Block(line, whole)
                line += whole.count(b"\n") + 1
            if len(held) > MAX_LINE_BYTES:
                self._too_long(line, held)
                held, skips = b"", True
        if held and self.is_packed:
            yield Block(line, held)
        elif held:
            reason = "the file ends inside this line, so it may be cut; a last line ends with a newline too"
            self._report.refuse(self.name, line, reason, held)

    def _too_long(self, line: int, text: bytes) -> None:
        self._report.refuse(self.name, line, f"a line of more than {MAX_LINE_BYTES} bytes", text)


def members(path: Path) -> list[str]:
    """Names of the files inside a zip. Raises: UnreadableSource when its directory is missing: the zip is cut."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as exc:
        raise UnreadableSource(f"{path}: the file is cut or damaged ({exc}); fetch it again") from exc
