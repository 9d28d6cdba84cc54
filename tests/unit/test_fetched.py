"""Batches of a fetch: whole ones are given as aiokafka gives them, and none that was damaged."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from streams.kafka.fetched import FetchedBatches, PartitionRecords, is_whole, keep_fetched

TP = TopicPartition("md.frames.v1", 3)
TELLS = r"topic='md.frames.v1', partition=3\) at offset 9: bytes are damaged"


def batch(base: int, *, codec: int = 0, value: bytes = b"value" * 30, n: int = 3) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 26,
    )  # fmt: skip
    for offset in range(n):
        assert builder.append(offset, timestamp=5, key=b"key", value=value, headers=[])
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    return bytes(raw)


def old_batch(base: int, magic: int, codec: int = 0) -> bytes:
    """Of the formats before v2."""
    builder = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=1 << 16)
    assert builder.append(0, timestamp=5 if magic else None, key=b"key", value=b"value" * 30)
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    return bytes(raw)


def flipped(raw: bytes, at: int, bits: int = 1) -> bytes:
    return raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """aiokafka's own names, whatever tests before this one made of them; afterwards ours."""
    fetcher.MemoryRecords, fetcher.PartitionRecords = MemoryRecords, PartitionRecords
    yield
    keep_fetched()


def records(raw: bytes, offset: int = 0) -> Any:
    """Records of an answer, read as the fetcher does it."""
    return fetcher.PartitionRecords(TP, fetcher.MemoryRecords(raw), [], offset, None, None, True, 0)


WHOLE = {
    "v2": batch(4) + batch(9, codec=3) + batch(12, codec=1, n=400),
    "v1": old_batch(4, 1) + old_batch(9, 1, codec=1),
    "v0": old_batch(4, 0) + old_batch(9, 0),
}


@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE)
def test_whole_batches_give_the_records_that_aiokafka_gives(raw: bytes) -> None:
    theirs: list[ConsumerRecord] = list(records(raw))
    keep_fetched()
    assert list(records(raw)) == theirs
    assert len(theirs) >= 2


@pytest.mark.parametrize(("at", "bits"), [
    (16, 1), (16, 2), (16, 3), (16, 128), (17, 1), (20, 128), (21, 64), (22, 1), (43, 1), (61, 1), (-1, 128),
])  # fmt: skip
def test_a_batch_with_a_bit_flipped_gives_no_record_and_those_before_it_are_given(at: int, bits: int) -> None:
    keep_fetched()
    damaged = batch(9, codec=3)
    found = records(batch(4) + flipped(damaged, at % len(damaged), bits) + batch(12), 4)
    assert [next(found).offset for _ in range(3)] == [4, 5, 6]
    with pytest.raises(CorruptRecordException, match=TELLS):
        next(found)
    assert list(found) == [], "and none after it"


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("at", [12, 16, 17, 30, 60])
def test_a_damaged_batch_of_an_old_format_is_refused_too(magic: int, at: int) -> None:
    keep_fetched()
    with pytest.raises(CorruptRecordException, match=TELLS):
        list(records(old_batch(4, magic) + flipped(old_batch(9, magic), at, 2)))


@pytest.mark.parametrize(
    "raw", [batch(4) + old_batch(9, 1), old_batch(4, 1) + batch(9), old_batch(4, 0) + old_batch(9, 1)]
)
def test_an_answer_of_two_formats_is_refused(raw: bytes) -> None:
    """aiokafka would read the second in the format of the first."""
    keep_fetched()
    with pytest.raises(CorruptRecordException, match=r"at offset 9: .* more than one format"):
        list(records(raw))


def test_a_format_of_the_future_is_refused_though_its_checksum_may_be_right() -> None:
    keep_fetched()
    with pytest.raises(CorruptRecordException, match=TELLS):
        list(records(flipped(batch(9), 16)))


@pytest.mark.parametrize("length", [0, 1, 13, 14, 40, -1])
def test_a_length_that_was_damaged_is_refused(length: int) -> None:
    keep_fetched()
    raw = bytearray(batch(9))
    struct.pack_into(">i", raw, 8, length)
    with pytest.raises(CorruptRecordException):
        list(records(bytes(raw)))
    with pytest.raises(CorruptRecordException):
        list(records(batch(4) + bytes(raw[: 12 + length] if 0 <= length < 14 else raw)))


def test_a_batch_that_was_cut_is_no_damage() -> None:
    keep_fetched()
    cut = batch(7)
    for size in (1, 11, 12, 16, 17, 21, 60, 61, len(cut) - 1):
        assert [record.offset for record in records(batch(4) + cut[:size])] == [4, 5, 6]


async def test_who_reads_on_after_the_error_meets_it_again_and_skips_nothing() -> None:
    keep_fetched()
    state = SubscriptionState()
    state.assign_from_user({TP})
    assignment = state.subscription.assignment
    assignment.state_value(TP).reset_to(4)
    answer = batch(4) + flipped(batch(9), 70) + batch(12)
    for _ in range(2):
        result = FetchResult(TP, assignment=assignment, partition_records=records(answer, 4), backoff=0)
        with pytest.raises(CorruptRecordException, match=TELLS):
            result.getall()
        assert result.getall() == []
        assert assignment.state_value(TP).position == 4, "it is fetched again from here on"


def test_an_answer_that_came_before_ours_is_checked_by_aiokafka() -> None:
    theirs = MemoryRecords(flipped(batch(9), 70))
    keep_fetched()
    with pytest.raises(CorruptRecordException):
        list(fetcher.PartitionRecords(TP, theirs, [], 9, None, None, True, 0))
    assert not fetcher.PartitionRecords(TP, FetchedBatches(batch(9)), [], 9, None, None, True, 0)._check_crcs


def test_checking_copies_nothing() -> None:
    raw = b"before" + batch(0, value=b"v" * (8 << 20), n=1)
    (crc,) = struct.unpack_from(">I", raw, 6 + 17)
    tracemalloc.start()
    try:
        assert is_whole(raw, 6, len(raw), crc)
        assert not is_whole(raw, 6, len(raw) - 1, crc)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 4_097, 70_001])
def test_it_is_the_checksum_that_aiokafka_computes(size: int) -> None:
    """Of any alignment and length."""
    body = bytes(number * 31 % 251 for number in range(size))
    for before in range(9):
        raw = bytes(before + 21) + body
        assert is_whole(raw, before, len(raw), calc_crc32c(body))
