"""lz4 as clients use it. It fails when aiokafka moves a function that `use_fast_lz4` replaces."""

from __future__ import annotations

import importlib
import random

import pytest
from aiokafka.codec import lz4_decode, lz4_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from cramjam import DecompressionError

from streams.kafka.compression import pack_lz4, unpack_lz4, use_fast_lz4

LZ4 = 3
BATCH_HEADER_BYTES = 61  # Kafka's record batch, version 2


def test_record_batches_are_packed_quickly_and_stay_readable() -> None:
    use_fast_lz4()
    use_fast_lz4()
    words = random.Random(1).choices([b"%d" % (i * i) for i in range(500)], k=40_000)
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=LZ4, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    builder.append(0, timestamp=1, key=None, value=b"".join(words), headers=[])
    body = bytes(builder.build())[BATCH_HEADER_BYTES:]
    records = bytes(lz4_decode(body))
    assert b"".join(words) in records
    assert body == pack_lz4(records)
    assert len(body) < 1.01 * len(lz4_encode(records, level=1))


def test_batches_of_any_size_are_unpacked_and_damaged_ones_refused() -> None:
    for n_bytes in (0, 1, 1 << 20, (1 << 20) + 1, 5 << 20):
        data = random.Random(n_bytes).randbytes(n_bytes)
        assert unpack_lz4(lz4_encode(data)) == data
        assert unpack_lz4(pack_lz4(data)) == data
        assert lz4_decode(pack_lz4(data)) == data
        assert len(pack_lz4(data)) <= n_bytes + 32
        assert lz4_decode(pack_lz4(b"ab" * n_bytes)) == b"ab" * n_bytes
    packed = bytearray(lz4_encode(b"some bytes" * 100))
    packed[20] ^= 1
    with pytest.raises(DecompressionError):
        unpack_lz4(bytes(packed))
    assert unpack_lz4(lz4_encode(b"after that")) == b"after that"


def test_readers_of_record_batches_unpack_so(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fast_lz4()
    records = importlib.import_module("aiokafka.record._crecords.default_records")
    assert records.lz4_decode is unpack_lz4
    seen: list[int] = []

    def counted(payload: bytes) -> bytes:
        seen.append(len(payload))
        return unpack_lz4(payload)

    monkeypatch.setattr(records, "lz4_decode", counted)
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=LZ4, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    builder.append(0, timestamp=1, key=None, value=b"value" * 100, headers=[])
    (record,) = MemoryRecords(bytes(builder.build())).next_batch()
    assert record.value == b"value" * 100
    assert seen
