"""What a fetch brought of a partition, kept as the broker sent it, and each batch checked before it is read.

aiokafka computes the checksum by tables, 0.43 ns a byte; google-crc32c lets the processor do it, 0.03 ns, and is given
the bytes where they lie. The check sits where aiokafka takes its next batch: in the thread that fetches, once a batch,
before any of its records, and not for an answer that a seek made void. aiokafka's own goes off in the same place, so no
consumer of this process has both or neither. Who reads the bytes another way (`record_columns`) asks `is_whole`.

Source: Kafka's protocol guide, "Record Batch" (message format v2, KIP-98); CRC-32C: RFC 3720, appendix B.4.
"""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords

OVERHEAD = 12  # base offset and length: what the length does not count
_MAGIC, _CRC, _CHECKED = 16, 17, 21  # where they begin; the checksum is of all bytes from there on
_V2 = b"\x02"


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
        begin, self._next = self._next, end_of_batch(self.raw, self._next)
        # No checksum covers the format's number, and aiokafka reads all of an answer in the format of its beginning.
        magic, first = self.raw[begin + _MAGIC : begin + _CRC], self.raw[_MAGIC:_CRC]
        if magic != first or magic > _V2 or (magic == _V2 and not is_whole(self.raw, begin, self._next)):
            raise self._damaged(begin)
        batch = super().next_batch()
        if magic < _V2 and not batch.validate_crc():  # zlib's, which aiokafka leaves to zlib
            raise self._damaged(begin)
        return batch

    def _damaged(self, begin: int) -> CorruptRecordException:
        offset = int.from_bytes(self.raw[begin : begin + 8], "big")
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


def end_of_batch(raw: bytes, begin: int) -> int:
    """Where the batch at `begin` ends (exclusive), which may be beyond what was sent."""
    return begin + OVERHEAD + int.from_bytes(raw[begin + 8 : begin + OVERHEAD], "big")


def is_whole(raw: bytes, begin: int, end: int) -> bool:
    """Whether a batch of format v2 has the checksum that it was given; nothing is copied."""
    # Of views, google-crc32c takes NumPy's but not Python's.
    checked = np.frombuffer(raw, np.uint8)[begin + _CHECKED : end]
    return bool(google_crc32c.value(checked) == int.from_bytes(raw[begin + _CRC : begin + _CHECKED], "big"))
