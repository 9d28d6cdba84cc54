"""lz4 as producers use it. It fails when aiokafka moves the function that `use_fast_lz4` replaces."""

from __future__ import annotations

import random

from aiokafka.codec import lz4_decode, lz4_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.kafka.compression import use_fast_lz4

LZ4 = 3
BATCH_HEADER_BYTES = 61  # Kafka's record batch, version 2


def test_record_batches_are_compressed_at_level_one_and_stay_readable() -> None:
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
    assert body == lz4_encode(records, level=1) != lz4_encode(records, level=9)
