"""A spool: frames as they came out of Kafka, on disk before the recorder goes on; a day is made of it later.

The folder holds `head.json` (where it begins), `instruments.jsonl` (definitions, before the first frame that needs
them) and `frames.bin`: records of `partition u32 · offset i64 · append_ms i64 · length u32 · crc32 u32` little-endian
and the frame. A record that a crash cut short fails its checksum, and the file ends before it.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec

from models.errors import CorruptDay, CorruptFrame
from models.market.frame import HEADER, FrameHeader, decode_header
from models.market.instruments import Instrument
from models.market.listing import unpack_listing

_RECORD = struct.Struct("<IqqII")
_READ_BYTES = 8 << 20
HEAD, INSTRUMENTS, FRAMES = "head.json", "instruments.jsonl", "frames.bin"


class SpoolHead(msgspec.Struct, frozen=True):
    """Where a spool begins.

    Attributes:
        topic, topic_id: full name, and Kafka's id: a topic that was made anew has other offsets.
        offsets: partition -> the first that belongs here.
        positions: partition -> source hash in hex -> its last position in earlier spools.
    """

    topic: str
    topic_id: str
    offsets: dict[int, int]
    positions: dict[int, dict[str, int]] = {}


class Spool:
    """Frames of one day to be. Made by `create`, or found again by `open`.

    Attributes:
        next_offsets: partition -> offset that comes next.
        positions: partition -> source -> last position, this spool included.
        n_frames, n_bytes: of all that is kept.
        n_corrupt: records among them that are no frames: they are kept for their offsets.
        n_missing: offsets that the log no longer had.
        n_gaps: holes in the positions of dense sources.
        first_ms, last_ms: log-append times of the first and the last frame; 0 = none.
    """

    def __init__(self, folder: Path, head: SpoolHead) -> None:
        self.folder, self.head = folder, head
        self.next_offsets = dict(head.offsets)
        self.positions = {
            partition: {int(source, 16): position for source, position in known.items()}
            for partition, known in head.positions.items()
        }
        self.n_frames = self.n_bytes = self.n_corrupt = self.n_missing = self.n_gaps = 0
        self.first_ms = self.last_ms = 0
        self._hashes: dict[int, Instrument] = {}
        self._places: dict[tuple[int, int], array[int]] = {}  # (partition, source) -> where its records begin
        self._end = 0
        self._frames = (folder / FRAMES).open("ab")
        self._instruments = (folder / INSTRUMENTS).open("ab")

    def __repr__(self) -> str:
        return f"<Spool {self.folder} frames={self.n_frames} bytes={self.n_bytes}>"

    @classmethod
    def create(cls, folder: Path, head: SpoolHead) -> Spool:
        """Raises: FileExistsError when there is something."""
        making = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(making, ignore_errors=True)  # of a start that was killed before this very line's successor
        making.mkdir(parents=True)
        with (making / HEAD).open("wb") as stream:
            stream.write(msgspec.json.encode(head))
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(making, folder)
        return cls(folder, head)

    @classmethod
    def open(cls, folder: Path) -> Spool:
        """A spool that somebody left, up to its last whole record; what follows that is cut off.

        Raises:
            CorruptDay: it has no readable head.
        """
        spool = cls(folder, read_head(folder))
        spool._read_instruments()
        for at, partition, offset, append_ms, data in spool._records():
            spool._note(at, partition, offset, append_ms, data)
        spool._frames.truncate(spool._end)
        return spool

    @property
    def instruments(self) -> list[Instrument]:
        """Those that its frames name, by text."""
        return sorted(self._hashes.values(), key=lambda instrument: instrument.text)

    def unknown(self, data: bytes, header: FrameHeader) -> list[int]:
        """Hashes that a frame names and no definition here has."""
        refs = unpack_listing(data, HEADER.size, header.n_instruments)
        return [name for name in refs["hash"].tolist() if name not in self._hashes]

    def define(self, instrument: Instrument) -> None:
        """Keep a definition; before the first frame that needs it."""
        self._hashes[instrument.hash] = instrument
        self._instruments.write(msgspec.json.encode(instrument) + b"\n")
        self._instruments.flush()

    def append(self, partition: int, offset: int, append_ms: int, data: bytes) -> None:
        """Keep a record. It outlives this process at the next `flush`, the machine at the next `sync`."""
        crc = zlib.crc32(data, zlib.crc32(struct.pack("<Iqq", partition, offset, append_ms)))
        self._frames.write(_RECORD.pack(partition, offset, append_ms, len(data), crc) + data)
        self._note(self._end, partition, offset, append_ms, data)

    def flush(self) -> None:
        self._frames.flush()

    def sync(self) -> None:
        for stream in (self._instruments, self._frames):
            stream.flush()
            os.fsync(stream.fileno())

    def close(self) -> None:
        self._frames.close()
        self._instruments.close()

    def next_head(self) -> SpoolHead:
        """Where the next spool begins."""
        positions = {p: {f"{source:x}": last for source, last in known.items()} for p, known in self.positions.items()}
        return SpoolHead(self.head.topic, self.head.topic_id, dict(self.next_offsets), positions)

    def sources(self) -> list[tuple[int, int]]:
        """Partitions and sources that have frames here."""
        return sorted(self._places)

    def frames(self, partition: int, source: int) -> Iterator[bytes]:
        """A source's frames in one partition, in order, repetitions among them; only their headers were looked at."""
        with (self.folder / FRAMES).open("rb") as stream:
            for at in self._places[partition, source]:
                stream.seek(at)
                length = _RECORD.unpack(stream.read(_RECORD.size))[3]
                yield stream.read(length)

    def _note(self, at: int, partition: int, offset: int, append_ms: int, data: bytes) -> None:
        self.n_missing += max(0, offset - self.next_offsets.get(partition, offset))
        self.next_offsets[partition] = offset + 1
        if (header := header_of(data)) is None:
            self.n_corrupt += 1
        else:
            self._note_positions(partition, header)
            self._places.setdefault((partition, header.source), array("q")).append(at)
        self.n_frames += 1
        self.n_bytes += len(data)
        self.first_ms, self.last_ms = self.first_ms or append_ms, append_ms
        self._end = at + _RECORD.size + len(data)

    def _note_positions(self, partition: int, header: FrameHeader) -> None:
        known = self.positions.setdefault(partition, {})
        last = known.get(header.source)
        if header.dense and last is not None and header.prev_position > last:
            self.n_gaps += 1
        known[header.source] = max(last or 0, header.last_position)

    def _records(self) -> Iterator[tuple[int, int, int, int, bytes]]:
        """Whole records from the beginning: place, partition, offset, append time, frame."""
        at = 0
        with (self.folder / FRAMES).open("rb", buffering=_READ_BYTES) as stream:
            while len(head := stream.read(_RECORD.size)) == _RECORD.size:
                partition, offset, append_ms, length, crc = _RECORD.unpack(head)
                data = stream.read(length)
                if len(data) < length or zlib.crc32(data, zlib.crc32(head[:20])) != crc:
                    return
                yield at, partition, offset, append_ms, data
                at += _RECORD.size + length

    def _read_instruments(self) -> None:
        for line in (self.folder / INSTRUMENTS).read_bytes().split(b"\n"):
            try:
                instrument = msgspec.json.decode(line, type=Instrument)
            except msgspec.DecodeError:
                continue  # the line that a crash cut: no frame that needs it was written
            self._hashes[instrument.hash] = instrument


def read_head(folder: Path) -> SpoolHead:
    """Raises: CorruptDay when there is no readable one."""
    try:
        return msgspec.json.decode((folder / HEAD).read_bytes(), type=SpoolHead)
    except (OSError, msgspec.DecodeError) as exc:
        raise CorruptDay(f"{folder}: no spool of a recording: {exc}") from exc


def header_of(data: bytes | None) -> FrameHeader | None:
    """The header of a record that is a frame, None if it is none."""
    try:
        return decode_header(data or b"")
    except CorruptFrame:
        return None
