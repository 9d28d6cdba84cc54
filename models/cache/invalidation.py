"""Invalidations: what changed after version `from` up to `to` in one source partition (docs/wire.md)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptFrame
from models.market.facets import BOOK, FACETS

MAGIC = b"MPI1"
WIRE_VERSION = 1
HAS_ROWS = 1  # flag
CHANGE = np.dtype([("hash", "<u8"), ("facets", "<u8")])  # bit of `facets` = facet number
STAMP = np.dtype([("due_ns", "<i8"), ("n_ticks", "<i8")])  # one source frame
ROW_BYTES = 72  # a state row as Redis holds it, without its version, which its last 5 bytes tell
NO_ROW = 255  # in the place of the facet: there is no row any more
MAX_AGE = (1 << 40) - 1  # of a carried row: the announced version less its own
MAX_KEY_BYTES = 0xFFFF

_HEADER = struct.Struct("<4sBBBBqqqqqIIII")  # 64 bytes
_KEY = struct.Struct("<BH")
_KNOWN_BITS = np.uint64((1 << len(FACETS)) - 1)
_ROW_BITS = np.uint64(int(_KNOWN_BITS) & ~(1 << BOOK))  # the book is no row


class RecordType(IntEnum):
    CHANGES = 0
    HEARTBEAT = 1
    OWNER = 2


class Source(IntEnum):
    """The topic that the versions of a record count in."""

    FRAMES = 0  # md.frames.v1
    WRITES = 1  # cache.writes.v1


class KeyOp(IntEnum):
    PUT = 1
    DELETE = 2
    TAG = 3
    NAMESPACE = 4
    FLUSH_ALL = 5  # its text is empty


_KEY_OPS = {int(op): op for op in KeyOp}  # a dict read is ten times as fast as calling the enum


@dataclass(frozen=True, slots=True, eq=False)
class Invalidation:
    """One record of `cache.invalidations.v1`; it announces `(from_version, to_version]`.

    Attributes:
        type: changes, heartbeat (`from_version == to_version` = what is applied) or a new owner.
        source: topic whose versions these are; the partition is the record's own.
        token: owner token; a reader ignores records below the newest it has seen (rule 1).
        watermark_ns: everything the source partition held at this broker time is applied; UTC ns, 0 = nothing proven.
        sent_ns: when the record was handed to Kafka, UTC ns.
        changes: dtype CHANGE, shape (n,), one row an instrument.
        stamps: dtype STAMP, shape (k,), one row a source frame, to measure latency from the due time.
        keys: generic keys, tags, namespaces that were named, in log order.
        rows: the new state rows, ROW_BYTES each, in the order of `changes` and of rising facet, book left out; None if
            the record carries none. See `models.cache.rows.unpack_carried`.
    """

    type: RecordType
    source: Source
    token: int
    from_version: int
    to_version: int
    watermark_ns: int = 0
    sent_ns: int = 0
    changes: NDArray[np.void] = field(default_factory=lambda: np.empty(0, CHANGE))
    stamps: NDArray[np.void] = field(default_factory=lambda: np.empty(0, STAMP))
    keys: tuple[tuple[KeyOp, str], ...] = ()
    rows: bytes | None = None


def count_rows(changes: NDArray[np.void]) -> int:
    """How many state rows belong to `changes` (dtype CHANGE): one a facet bit, the book's bit left out."""
    return rows_of_bits(changes["facets"])


def rows_of_bits(bits: NDArray[np.uint64]) -> int:
    """The same for the column `facets` alone."""
    return int(np.add.reduce(np.bitwise_count(bits & _ROW_BITS), dtype=np.int64))


def encode(record: Invalidation) -> bytes:
    """The record's bytes.

    Raises:
        ValueError: the record breaks the format: versions that fall, a key above 65,535 bytes, rows that do not fit
            the changes, an unknown facet, a number outside its field.
    """
    keys = [(op, text.encode()) for op, text in record.keys]
    try:
        header = _HEADER.pack(
            MAGIC,
            WIRE_VERSION,
            record.type,
            record.source,
            0 if record.rows is None else HAS_ROWS,
            record.token,
            record.from_version,
            record.to_version,
            record.watermark_ns,
            record.sent_ns,
            len(record.changes),
            len(keys),
            len(record.stamps),
            0,
        )
        packed_keys = b"".join(_KEY.pack(op, len(text)) + text for op, text in keys)
    except struct.error as exc:
        raise ValueError(f"a number of the invalidation does not fit its field: {exc}") from exc
    changes = np.ascontiguousarray(record.changes, CHANGE)
    if problem := _contradiction(record, changes):
        raise ValueError(f"invalidation: {problem}")
    stamps = np.ascontiguousarray(record.stamps, STAMP)
    return b"".join((header, changes.tobytes(), stamps.tobytes(), packed_keys, record.rows or b""))


def decode(data: bytes) -> Invalidation:
    """The record in `data`; its arrays are read-only views of `data`. Cost: a few us, plus one loop over the keys.

    Raises:
        CorruptFrame: not a whole invalidation of version 1; the message names what is wrong. No length in the header is
            trusted before it is compared with the bytes that are there.
    """
    if len(data) < _HEADER.size:
        raise CorruptFrame(f"invalidation of {len(data)} bytes is shorter than its header ({_HEADER.size})")
    magic, wire, kind, source, flags, token, start, end, watermark, sent, n_changes, n_keys, n_stamps, reserved = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise CorruptFrame(f"invalidation starts with {magic!r}, not {MAGIC!r}")
    if wire != WIRE_VERSION:
        raise CorruptFrame(f"invalidation of version {wire}; this code reads {WIRE_VERSION}")
    if kind > RecordType.OWNER or source > Source.WRITES or flags > HAS_ROWS or reserved:
        raise CorruptFrame(f"invalidation has type {kind}, source {source}, flags {flags}, reserved {reserved}")
    stamps_at = _HEADER.size + n_changes * CHANGE.itemsize
    keys_at = stamps_at + n_stamps * STAMP.itemsize
    if keys_at + n_keys * _KEY.size > len(data):
        raise CorruptFrame(
            f"invalidation names {n_changes} changes, {n_stamps} stamps and {n_keys} keys in {len(data)} bytes"
        )
    changes = np.frombuffer(data, CHANGE, n_changes, _HEADER.size)
    keys, rows_at = _decode_keys(data, keys_at, n_keys)
    record = Invalidation(
        RecordType(kind),
        Source(source),
        token,
        start,
        end,
        watermark,
        sent,
        changes,
        np.frombuffer(data, STAMP, n_stamps, stamps_at),
        keys,
        data[rows_at:] if flags & HAS_ROWS else None,
    )
    if problem := _contradiction(record, changes):
        raise CorruptFrame(f"invalidation: {problem}")
    if record.rows is None and rows_at != len(data):
        raise CorruptFrame(f"invalidation has {len(data) - rows_at} bytes after its end")
    return record


def facets_of(bits: int) -> Iterator[str]:
    """Names of the facets in a change's `facets`, by rising number."""
    return (name for number, name in enumerate(FACETS) if bits >> number & 1)


def changed_keys(record: Invalidation, text_of: Callable[[int], str | None] | None = None) -> Iterator[str]:
    """Keys of the instruments that changed, as people write them: `md:binance.spot.BTC-USDT:quote`.

    Args:
        text_of: gives an instrument's text for its hash; a hash it does not know stands as `#` and 16 hex digits.
    """
    for instrument, bits in record.changes.tolist():
        text = (text_of(instrument) if text_of else None) or f"#{instrument:016x}"
        for facet in facets_of(bits):
            yield f"md:{text}:{facet}"


def _decode_keys(data: bytes, at: int, n_keys: int) -> tuple[tuple[tuple[KeyOp, str], ...], int]:
    keys: list[tuple[KeyOp, str]] = []
    for _ in range(n_keys):
        if at + _KEY.size > len(data):
            raise CorruptFrame(f"invalidation ends at byte {len(data)}, inside key {len(keys)} of {n_keys}")
        op, length = _KEY.unpack_from(data, at)
        at += _KEY.size
        if op not in _KEY_OPS:
            raise CorruptFrame(f"invalidation's key {len(keys)} has the unknown op {op}")
        if at + length > len(data):
            raise CorruptFrame(f"invalidation ends at byte {len(data)}, inside key {len(keys)} of {n_keys}")
        try:
            text = data[at : at + length].decode()
        except UnicodeDecodeError as exc:
            raise CorruptFrame(f"invalidation's key {len(keys)} is not UTF-8: {exc}") from exc
        keys.append((_KEY_OPS[op], text))
        at += length
    return tuple(keys), at


def _contradiction(record: Invalidation, changes: NDArray[np.void]) -> str | None:
    """What both directions refuse beyond lengths and numbers."""
    if record.from_version > record.to_version:
        return f"its versions fall from {record.from_version} to {record.to_version}"
    if record.type is RecordType.HEARTBEAT and record.from_version != record.to_version:
        return f"a heartbeat spans versions {record.from_version} to {record.to_version}"
    facets = changes["facets"]
    if len(facets) and np.bitwise_or.reduce(facets) > _KNOWN_BITS:
        return f"a change names a facet above {len(FACETS) - 1}"
    if record.rows is not None and len(record.rows) != rows_of_bits(facets) * ROW_BYTES:
        return f"{rows_of_bits(facets)} rows of {ROW_BYTES} bytes were named, {len(record.rows)} bytes are there"
    return None
