"""Columns of a fetch are what aiokafka's own records are, whatever was sent and however it was compressed."""

from __future__ import annotations

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from streams.kafka.fetched import FetchedBatches
from streams.kafka.record_columns import Record, RecordColumns, take_columns

TP = TopicPartition("md.json.v1", 3)
NONE, GZIP, LZ4, ZSTD = 0, 1, 3, 4
CONTROL, APPEND_TIME = 32, 8

Sent = list[tuple[int, bytes | None, bytes | None]]  # timestamp, key, value

MANY: Sent = [(1_000 + i * 7 % 50, b"key" * (i % 3), b"%d" % i * (i % 90)) for i in range(300)]
ODD: Sent = [(5, None, None), (0, b"", b""), (1 << 40, None, b"x" * 70_000), (7, b"k" * 300, b"last")]


def batch(sent: Sent, *, base: int, codec: int = NONE, attributes: int = 0, max_ms: int | None = None) -> bytes:
    """A record batch as the broker keeps it, from this offset on."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 22,
    )  # fmt: skip
    for offset, (timestamp, key, value) in enumerate(sent):
        assert builder.append(offset, timestamp=timestamp, key=key, value=value, headers=[("h", b"v"), ("n", None)])
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    raw[22] |= attributes
    if max_ms is not None:
        struct.pack_into(">q", raw, 35, max_ms)
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
    return bytes(raw)


def fetched(raw: bytes, offset: int = 0) -> FetchResult:
    """A fetch whose answer were these bytes, asked for from this offset on."""
    state = SubscriptionState()
    state.assign_from_user({TP})
    assignment = state.subscription.assignment
    assignment.state_value(TP).reset_to(offset)
    records = PartitionRecords(TP, FetchedBatches(raw), [], offset, None, None, True, 0)
    return FetchResult(TP, assignment=assignment, partition_records=records, backoff=0)


def taken(raw: bytes, offset: int = 0, most: int = 1 << 20) -> list[RecordColumns]:
    """All columns of an answer, each time taken anew."""
    found, columns = fetched(raw, offset), []
    while found.has_more():
        if (more := take_columns(found, TP, most)) is not None:
            columns.append(more)
    return columns


def records_of(columns: RecordColumns) -> list[Record]:
    return [columns.record(number) for number in range(len(columns))]


def as_aiokafka(raw: bytes, offset: int = 0) -> list[Record]:
    records = PartitionRecords(TP, MemoryRecords(raw), [], offset, None, None, True, 0)
    return [Record(r.topic, r.partition, r.offset, r.timestamp, r.value or b"") for r in records]


@pytest.mark.parametrize("codec", [NONE, GZIP, LZ4, ZSTD])
@pytest.mark.parametrize("sent", [MANY, ODD], ids=["many", "odd"])
async def test_columns_are_the_records_that_aiokafka_reads(codec: int, sent: Sent) -> None:
    raw = batch(sent, base=40, codec=codec) + batch(ODD, base=1 << 33)
    (columns,) = taken(raw, 40)
    assert records_of(columns) == as_aiokafka(raw, 40)
    assert len(columns) == len(sent) + len(ODD)


async def test_a_batch_stamped_by_the_log_gives_all_records_its_stamp() -> None:
    raw = batch(MANY, base=0, attributes=APPEND_TIME, max_ms=123_456)
    (columns,) = taken(raw)
    assert set(columns.timestamps.tolist()) == {123_456}
    assert records_of(columns) == as_aiokafka(raw)


async def test_a_fetch_that_begins_inside_a_batch_leaves_out_what_is_before() -> None:
    raw = batch(MANY, base=1_000, codec=LZ4)
    (columns,) = taken(raw, 1_250)
    assert columns.offsets.tolist() == list(range(1_250, 1_300))
    assert records_of(columns) == as_aiokafka(raw, 1_250)
    assert columns.since(0) is columns
    assert records_of(columns.since(1_299)) == records_of(columns)[-1:]
    assert len(columns.since(1_300)) == 0


async def test_a_large_answer_is_taken_in_parts_of_whole_batches_and_the_position_follows() -> None:
    raw = b"".join(batch(MANY, base=300 * k, codec=LZ4) for k in range(5))
    found = fetched(raw)
    sizes = []
    while found.has_more():
        columns = take_columns(found, TP, 500)
        assert columns is not None
        sizes.append(len(columns))
        assert found._assignment.state_value(TP).position == int(columns.offsets[-1]) + 1
    assert sizes == [600, 600, 300]


async def test_control_batches_and_a_batch_that_was_cut_are_passed_over() -> None:
    whole, control, cut = batch(MANY, base=0), batch(ODD[:1], base=300, attributes=CONTROL), batch(MANY, base=301)[:-1]
    found = fetched(whole + control + cut)
    columns = take_columns(found, TP)
    assert columns is not None
    assert len(columns) == 300
    assert not found.has_more()
    assert found._assignment.state_value(TP).position == 301
    assert taken(control, 300) == []
    assert len(taken(whole + cut[:30])[0]) == 300


async def test_the_position_goes_to_the_end_of_a_batch_whose_last_records_were_removed() -> None:
    raw = bytearray(batch(MANY, base=10))
    struct.pack_into(">i", raw, 23, 400 - 1)  # last offset delta
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
    found = fetched(bytes(raw), 10)
    columns = take_columns(found, TP)
    assert columns is not None
    assert len(columns) == 300
    assert found._assignment.state_value(TP).position == 410


async def test_what_was_fetched_before_a_seek_is_not_taken() -> None:
    found = fetched(batch(MANY, base=0))
    found._assignment.state_value(TP).seek(7)
    assert take_columns(found, TP) is None
    assert not found.has_more()


@pytest.mark.parametrize("at", [16, 22, 61, 200], ids=["magic", "attributes", "first record", "a value"])
async def test_damaged_bytes_are_refused(at: int) -> None:
    raw = bytearray(batch(MANY, base=9))
    raw[at] ^= 1
    with pytest.raises(CorruptRecordException, match="at offset 9"):
        taken(bytes(raw), 9)


@pytest.mark.parametrize(("at", "value"), [(61, 0xFF), (61, 0x01), (61, 0x7E), (65, 0xFE), (66, 0xFE), (60, 0x01)])
async def test_records_that_do_not_fill_their_batch_are_refused(at: int, value: int) -> None:
    raw = bytearray(batch([(0, b"", b"v" * 20)] * 3, base=9))
    raw[at] = value
    struct.pack_into(">I", raw, 17, calc_crc32c(bytes(raw[21:])))
    with pytest.raises(CorruptRecordException, match="do not fill"):
        taken(bytes(raw), 9)
