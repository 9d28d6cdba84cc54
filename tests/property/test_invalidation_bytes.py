"""Any invalidation survives the wire, and no bytes do more harm than CorruptFrame."""

from __future__ import annotations

import contextlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.cache.invalidation import (
    CHANGE,
    ROW_BYTES,
    STAMP,
    Invalidation,
    KeyOp,
    RecordType,
    Source,
    count_rows,
    decode,
    encode,
)
from models.errors import CorruptFrame

I64 = st.integers(-(1 << 63), (1 << 63) - 1)
U64 = st.integers(0, (1 << 64) - 1)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@st.composite
def invalidations(draw: st.DrawFn) -> Invalidation:
    kind = draw(st.sampled_from(RecordType))
    start, end = sorted((draw(I64), draw(I64)))
    changes = np.array(draw(st.lists(st.tuples(U64, st.integers(0, (1 << 16) - 1)), max_size=20)), CHANGE)
    n_bytes = count_rows(changes) * ROW_BYTES
    return Invalidation(
        type=kind,
        source=draw(st.sampled_from(Source)),
        token=draw(I64),
        from_version=end if kind is RecordType.HEARTBEAT else start,
        to_version=end,
        watermark_ns=draw(I64),
        sent_ns=draw(I64),
        changes=changes,
        stamps=np.array(draw(st.lists(st.tuples(I64, I64), max_size=10)), STAMP),
        keys=tuple(draw(st.lists(st.tuples(st.sampled_from(KeyOp), TEXT), max_size=10))),
        rows=draw(st.none() | st.binary(min_size=1, max_size=9).map(lambda b: (b * n_bytes)[:n_bytes])),
    )


@given(invalidations())
def test_what_was_encoded_is_decoded(record: Invalidation) -> None:
    data = encode(record)
    back = decode(data)
    for name in ("type", "source", "token", "from_version", "to_version", "watermark_ns", "sent_ns", "keys", "rows"):
        assert getattr(back, name) == getattr(record, name), name
    assert back.changes.tolist() == record.changes.tolist()
    assert back.stamps.tolist() == record.stamps.tolist()
    assert encode(back) == data


@given(invalidations(), st.data())
def test_a_truncated_record_is_refused(record: Invalidation, data: st.DataObject) -> None:
    whole = encode(record)
    cut = data.draw(st.integers(0, len(whole) - 1))
    try:
        decode(whole[:cut])
    except CorruptFrame:
        return
    raise AssertionError(f"{cut} of {len(whole)} bytes were taken for a whole record")


@given(invalidations(), st.data())
def test_flipped_bits_never_do_more_than_be_refused(record: Invalidation, data: st.DataObject) -> None:
    flipped = bytearray(encode(record))
    for bit in data.draw(st.lists(st.integers(0, len(flipped) * 8 - 1), min_size=1, max_size=4)):
        flipped[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(CorruptFrame):
        assert encode(decode(bytes(flipped))) == bytes(flipped)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"MPI1\x01\x00\x00\x00" + tail))
def test_foreign_bytes_are_refused_or_read_whole(data: bytes) -> None:
    with contextlib.suppress(CorruptFrame):
        assert encode(decode(data)) == data
