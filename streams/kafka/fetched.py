"""What a fetch brought of a partition, kept as the broker sent it, and each batch checked before it is read.

aiokafka computes the checksum by tables, 0.45 ns a byte; google-crc32c lets the processor do it and is given the bytes
where they lie: 0.03 ns and 1.2 us a batch, which is less from 3 KB on; a busy partition's batches are 50 KB to 1 MB.

The check sits where aiokafka takes its next batch: in the thread that fetches, before any of the batch's records, and
not for an answer that a seek made void. aiokafka's own goes off in the same place, so no consumer of this process has
both or neither. Who reads the bytes another way (`record_columns`) asks `is_whole`.

Source: Kafka's protocol guide, "Record Batch" (message format v2, KIP-98); CRC-32C: RFC 3720, appendix B.4.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from google_crc32c import value as crc32c

OVERHEAD = 12  # base offset and length: what the length does not count
_HEAD = struct.Struct(">qiiBI")  # base offset, length, leader epoch, magic, crc: the checksum is of all bytes behind
_MAGIC = 16  # where it begins


class FetchedBatches(MemoryRecords):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's batches of a partition, with the bytes they came in."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw
        self.at = 0  # where the batch begins that `take_columns` has not taken yet
        self.tp: Any = None
        self._next = 0  # where the batch begins that aiokafka has not taken yet

    def next_batch(self) -> Any:
        """The next whole one, None when there is none.

        Raises:
            CorruptRecordException: bytes are damaged, or an answer mixes message formats.
        """
        if not self.has_next():
            return None
        raw, begin = self.raw, self._next
        if len(raw) < begin + _HEAD.size:
            return super().next_batch()  # which refuses it: too short for any format
        base, length, _, magic, crc = _HEAD.unpack_from(raw, begin)
        self._next = end = begin + OVERHEAD + length
        # No checksum covers the format's number, and aiokafka reads all of an answer in the format of its beginning.
        if magic != raw[_MAGIC] or magic > 2 or (magic == 2 and not is_whole(raw, begin, end, crc)):
            raise self._damaged(base)
        batch = super().next_batch()
        if magic < 2 and not batch.validate_crc():  # zlib's, which aiokafka leaves to zlib
            raise self._damaged(base)
        return batch

    def _damaged(self, offset: int) -> CorruptRecordException:
        return CorruptRecordException(f"{self.tp} at offset {offset}: bytes are damaged, or of more than one format")


class _PartitionRecords(PartitionRecords):  # type: ignore[misc]
    """aiokafka's, for batches that check themselves."""

    def __init__(
        self,
        tp: Any,
        records: Any,
        aborted_transactions: Any,
        fetch_offset: int,
        key_deserializer: Any,
        value_deserializer: Any,
        check_crcs: bool,
        isolation_level: int,
    ) -> None:
        if isinstance(records, FetchedBatches):  # not so of an answer that came before `keep_fetched`
            records.tp, check_crcs = tp, False
        super().__init__(
            tp, records, aborted_transactions, fetch_offset, key_deserializer, value_deserializer, check_crcs,
            isolation_level,
        )  # fmt: skip


def keep_fetched() -> None:
    """Make all consumers of this process keep what they fetched and check it so; repeating it is fine."""
    fetcher.MemoryRecords = FetchedBatches
    fetcher.PartitionRecords = _PartitionRecords


def is_whole(raw: bytes, begin: int, end: int, crc: int) -> bool:
    """Whether `raw[begin:end]`, a batch of format v2, has the checksum that its head says; copies nothing."""
    # Of views, google-crc32c takes NumPy's but not Python's.
    return bool(crc32c(np.frombuffer(raw, np.uint8)[begin + _HEAD.size : end]) == crc)
