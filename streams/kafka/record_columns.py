"""Records of a fetch as columns: offsets, times and where values lie, without a Python object a record.

aiokafka makes two objects a record, 1.9 us; a topic of small records (JSON ticks) is read here instead, by one compiled
loop over the bytes that the broker sent.

Source: Kafka's protocol guide, "Record Batch" and "Record" (message format v2, KIP-98).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np
from aiokafka.codec import gzip_decode, snappy_decode, zstd_decode
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import CorruptRecordException
from numpy.typing import NDArray

from streams.kafka.compression import unpack_lz4
from streams.kafka.fetched import OVERHEAD, FetchedBatches, is_whole

MOST_RECORDS = 8192  # of one partition at a time: parsing them holds the loop for some 6 ms

# base offset, length, leader epoch, magic, crc, attributes, last offset delta, first and max timestamp, producer id,
# producer epoch, base sequence, number of records
_HEADER = struct.Struct(">qiibIhiqqqhii")
_CODEC, _APPEND_TIME, _CONTROL = 7, 8, 32  # bits of the attributes
_DECODERS = {1: gzip_decode, 2: snappy_decode, 3: unpack_lz4, 4: zstd_decode}


class Record(NamedTuple):
    """One record, as far as a dead letter needs it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    value: bytes


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """Records of one partition, offsets rising.

    Attributes:
        data: uint8.
        starts, ends: int64[n], where each value begins and ends (exclusive) in `data`; a record without one is empty.
        offsets, timestamps: int64[n]; ms UTC, of the log's append or of creation as the topic says.
    """

    topic: str
    partition: int
    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def since(self, offset: int) -> RecordColumns:
        """Those at or above an offset."""
        first = int(np.searchsorted(self.offsets, offset))
        if not first:
            return self
        return RecordColumns(
            self.topic, self.partition, self.data, self.starts[first:], self.ends[first:], self.offsets[first:],
            self.timestamps[first:],
        )  # fmt: skip

    def record(self, number: int) -> Record:
        value = self.data[self.starts[number] : self.ends[number]].tobytes()
        return Record(self.topic, self.partition, int(self.offsets[number]), int(self.timestamps[number]), value)


def compile_walk() -> None:
    """Have the loop ready before the first record waits for it."""
    _walk(np.frombuffer(b"", np.uint8), np.empty((0, 5), np.int64), np.empty((4, 0), np.int64))


def take_columns(found: FetchResult, tp: Any, most: int = MOST_RECORDS) -> RecordColumns | None:
    """Take about `most` records of a fetched partition, whole batches; None when it has none that may be used.

    Raises:
        CorruptRecordException: bytes are damaged, or of a message format before v2 (Kafka 0.11).
    """
    if not found.check_assignment(tp) or not found.has_more():
        return None
    pending = found._partition_records
    columns, pending.next_fetch_offset, is_end = _read(pending._records, tp, pending.next_fetch_offset, most)
    found._update_position()
    if is_end:
        found._partition_records = None
    return columns if len(columns) else None


def _read(kept: FetchedBatches, tp: Any, first_offset: int, most: int) -> tuple[RecordColumns, int, bool]:
    """Columns of the next batches, the offset behind them, and whether they were the last."""
    raw, bodies, heads = kept.raw, [], []
    n_records, next_offset = 0, first_offset
    while n_records < most and kept.at < len(raw):
        end = kept.at + OVERHEAD + int.from_bytes(raw[kept.at + 8 : kept.at + OVERHEAD], "big")
        if kept.at + _HEADER.size > len(raw) or end > len(raw):  # the broker cuts the last batch where a fetch is full
            kept.at = len(raw)
            break
        base, _, _, magic, crc, attributes, last_delta, first_ms, max_ms, _, _, _, count = _HEADER.unpack_from(
            raw, kept.at
        )
        if magic != 2 or not is_whole(raw, kept.at, end, crc):
            raise CorruptRecordException(f"{tp} at offset {base}: bytes are damaged, or of a format before v2")
        if not attributes & _CONTROL:
            body, codec = raw[kept.at + _HEADER.size : end], attributes & _CODEC
            bodies.append(_DECODERS[codec](body) if codec else body)
            appended = attributes & _APPEND_TIME
            heads.append((len(bodies[-1]), count, base, max_ms if appended else first_ms, not appended))
            n_records += count
        kept.at, next_offset = end, base + last_delta + 1
    columns = _columns(tp, b"".join(bodies), np.array(heads, np.int64).reshape(-1, 5), n_records)
    return columns.since(first_offset), next_offset, kept.at >= len(raw)


def _columns(tp: Any, data: bytes, heads: NDArray[np.int64], n_records: int) -> RecordColumns:
    columns = np.empty((4, n_records), np.int64)
    found = np.frombuffer(data, np.uint8)
    if not _walk(found, heads, columns):
        raise CorruptRecordException(f"{tp} at offset {heads[0, 2]}: records do not fill their batch")
    return RecordColumns(tp.topic, tp.partition, found, *columns)


@numba.njit(cache=True, nogil=True)
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """A zigzag varint at `at` and where it ends; -1 = it does not end before `end`."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < 64:
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < 128:
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@numba.njit(cache=True, nogil=True)
def _walk(data, heads, columns):  # type: ignore[no-untyped-def]
    """Fill `columns` (starts, ends, offsets, timestamps); False if the bytes do not hold what the heads say.

    Args:
        heads: int64[batches, 5]: bytes, records, base offset, time, whether the records' own times count.
    """
    n, at = 0, np.int64(0)
    for batch in range(heads.shape[0]):
        batch_end = at + heads[batch, 0]
        for _ in range(heads[batch, 1]):
            length, at = _varint(data, at, batch_end)
            if at < 0 or length < 1 or length > batch_end - at:
                return False
            end = at + length
            later_ms, at = _varint(data, at + 1, end)  # behind the record's attributes, which mean nothing
            if at < 0:
                return False
            delta, at = _varint(data, at, end)
            if at < 0:
                return False
            key_bytes, at = _varint(data, at, end)
            if at < 0 or key_bytes > end - at:
                return False
            value_bytes, at = _varint(data, at + max(key_bytes, 0), end)
            if at < 0 or value_bytes > end - at:
                return False
            columns[0, n], columns[1, n] = at, at + max(value_bytes, 0)
            columns[2, n] = heads[batch, 2] + delta
            columns[3, n] = heads[batch, 3] + (later_ms if heads[batch, 4] else 0)
            n += 1
            at = end
        if at != batch_end:
            return False
    return True
