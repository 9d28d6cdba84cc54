"""The codec of `cache.invalidations.v1` against golden bytes, and what it refuses."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.cache.invalidation import (
    CHANGE,
    ROW_BYTES,
    STAMP,
    Invalidation,
    KeyOp,
    RecordType,
    Source,
    changed_keys,
    decode,
    encode,
)
from models.cache.version import version
from models.errors import CorruptFrame
from models.market.facets import FACETS
from models.market.instruments import instrument_hash

GOLDEN = Path(__file__).parents[1] / "golden"
BTC, ETH = instrument_hash("binance.spot.BTC-USDT"), instrument_hash("binance.perpetual.ETH-USDT")
QUOTE, TRADE, BOOK = (1 << FACETS.index(name) for name in ("quote", "trade", "book"))

CHANGES = Invalidation(
    type=RecordType.CHANGES,
    source=Source.FRAMES,
    token=17,
    from_version=version(2, 40),
    to_version=version(2, 43),
    watermark_ns=1_760_000_000_000_000_001,
    sent_ns=1_760_000_000_000_000_002,
    changes=np.array([(BTC, QUOTE | TRADE | BOOK), (ETH, BOOK)], CHANGE),
    stamps=np.array([(1_759_999_999_999_000_000, 4096), (0, 12)], STAMP),
    rows=bytes(range(ROW_BYTES)) * 2,
)
KEYS = Invalidation(
    type=RecordType.CHANGES,
    source=Source.WRITES,
    token=-1,
    from_version=-1,
    to_version=version(0, 4),
    keys=(
        (KeyOp.PUT, "session:42"),
        (KeyOp.DELETE, "api:kurs:€"),
        (KeyOp.TAG, "venue"),
        (KeyOp.NAMESPACE, "session"),
        (KeyOp.FLUSH_ALL, ""),
    ),
)
HEARTBEAT = Invalidation(RecordType.HEARTBEAT, Source.FRAMES, 17, version(2, 43), version(2, 43), 5, 6)
OWNER = Invalidation(RecordType.OWNER, Source.FRAMES, 18, version(2, 43), version(2, 43))
RECORDS = {"changes": CHANGES, "keys": KEYS, "heartbeat": HEARTBEAT, "owner": OWNER}


def plain(record: Invalidation) -> tuple[object, ...]:
    """A record as comparable values: arrays have no truth of their own."""
    scalars = (record.type, record.source, record.token, record.from_version, record.to_version)
    times = (record.watermark_ns, record.sent_ns)
    return (*scalars, *times, record.changes.tolist(), record.stamps.tolist(), record.keys, record.rows)


@pytest.mark.parametrize("name", RECORDS)
def test_bytes_are_those_of_the_golden_file(name: str) -> None:
    golden = (GOLDEN / f"invalidation_{name}.bin").read_bytes()
    assert encode(RECORDS[name]) == golden
    assert plain(decode(golden)) == plain(RECORDS[name])


def test_the_header_lies_where_the_wire_says() -> None:
    data = encode(CHANGES)
    assert data[:8] == b"MPI1\x01\x00\x00\x01"
    assert struct.unpack_from("<5q", data, 8) == (17, 2 << 48 | 40, 2 << 48 | 43, CHANGES.watermark_ns, CHANGES.sent_ns)
    assert struct.unpack_from("<4I", data, 48) == (2, 0, 2, 0)
    assert struct.unpack_from("<4Q", data, 64) == (BTC, 1 << 0 | 1 << 1 | 1 << 15, ETH, 1 << 15)
    assert len(data) == 64 + 2 * 16 + 2 * 16 + 2 * 72


def test_changed_keys_are_named_as_people_write_them() -> None:
    texts = {BTC: "binance.spot.BTC-USDT"}
    assert list(changed_keys(CHANGES, texts.get)) == [
        "md:binance.spot.BTC-USDT:trade",
        "md:binance.spot.BTC-USDT:quote",
        "md:binance.spot.BTC-USDT:book",
        f"md:#{ETH:016x}:book",
    ]


@pytest.mark.parametrize("name", RECORDS)
def test_every_truncation_is_refused(name: str) -> None:
    data = encode(RECORDS[name])
    for length in range(len(data)):
        with pytest.raises(CorruptFrame):
            decode(data[:length])


@pytest.mark.parametrize("name", RECORDS)
def test_bytes_after_the_end_are_refused(name: str) -> None:
    with pytest.raises(CorruptFrame):
        decode(encode(RECORDS[name]) + b"\0")


def patched(record: Invalidation, at: int, patch: bytes) -> bytes:
    data = encode(record)
    return data[:at] + patch + data[at + len(patch) :]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "0 bytes"),
        (patched(CHANGES, 0, b"MPF1"), "MPF1"),
        (patched(CHANGES, 4, b"\x02"), "version 2"),
        (patched(CHANGES, 5, b"\x03"), "type 3"),
        (patched(CHANGES, 6, b"\x02"), "source 2"),
        (patched(CHANGES, 7, b"\x02"), "flags 2"),
        (patched(CHANGES, 60, b"\x01"), "reserved 1"),
        (patched(CHANGES, 48, b"\xff\xff\xff\xff"), "4294967295 changes"),
        (patched(CHANGES, 56, b"\xff\xff\xff\xff"), "4294967295 stamps"),
        (patched(KEYS, 52, b"\xff\xff\xff\xff"), "4294967295 keys"),
        (patched(KEYS, 52, b"\x06"), "inside key 5 of 6"),
        (patched(KEYS, 64, b"\x09"), "unknown op 9"),
        (patched(KEYS, 65, b"\xff\xff"), "inside key 0 of 5"),
        (patched(KEYS, 67, b"\xff"), "not UTF-8"),
        (patched(CHANGES, 76, b"\x01"), "facet above 15"),
        (patched(CHANGES, 72, b"\x07"), "3 rows of 72 bytes"),
        (patched(HEARTBEAT, 24, b"\xff"), "a heartbeat spans"),
        (patched(CHANGES, 24, b"\x00"), "versions fall"),
    ],
)
def test_a_wrong_record_is_refused_with_what_is_wrong(data: bytes, named: str) -> None:
    with pytest.raises(CorruptFrame, match=named):
        decode(data)


@pytest.mark.parametrize(
    "record",
    [
        replace(KEYS, keys=((KeyOp.PUT, "x" * 65_536),)),
        replace(CHANGES, rows=b"short"),
        replace(CHANGES, from_version=CHANGES.to_version + 1),
        replace(CHANGES, token=1 << 63),
        replace(HEARTBEAT, to_version=HEARTBEAT.to_version + 1),
        replace(CHANGES, changes=np.array([(BTC, 1 << 16)], CHANGE), rows=None),
    ],
)
def test_a_record_that_no_reader_would_take_is_not_written(record: Invalidation) -> None:
    with pytest.raises(ValueError, match="invalidation"):
        encode(record)


def test_decoded_arrays_cannot_be_written_through() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode(encode(CHANGES)).changes["facets"][0] = 0
