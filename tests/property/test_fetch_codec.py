"""Fetches packed and read at once are byte for byte those of aiokafka's schema."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.fetch_codec import decode_answer, encode_request

I16, I32, I64 = (st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (16, 32, 64))
TEXT = st.text(max_size=20)
ABORTED = st.none() | st.lists(st.tuples(I64, I64), max_size=3)
ANSWERED = st.tuples(I32, I16, I64, I64, I64, ABORTED, I32, st.none() | st.binary(max_size=30))
WANTED = st.tuples(I32, I32, I64, I64, I32)


def of_topics(partition: st.SearchStrategy[tuple[object, ...]]) -> st.SearchStrategy[list[tuple[str, list[object]]]]:
    return st.lists(st.tuples(TEXT, st.lists(partition, max_size=4)), max_size=4)


@given(I32, I16, I32, of_topics(ANSWERED))
def test_an_answer_is_read_as_the_schema_reads_it(throttle: int, error: int, session: int, topics: list) -> None:
    data = FetchResponse_v11.SCHEMA.encode([throttle, error, session, topics])
    read = decode_answer(FetchResponse_v11, data)
    schema = FetchResponse_v11(*(field.decode(stream) for stream in [BytesIO(data)] for field in read.SCHEMA.fields))
    assert read == schema
    behind_a_header = BytesIO(b"head" + data)
    behind_a_header.seek(4)
    assert decode_answer(FetchResponse_v11, behind_a_header) == schema


@given(st.tuples(I32, I32, I32, I32, st.integers(-128, 127), I32, I32), of_topics(WANTED), st.lists(
    st.tuples(TEXT, st.lists(I32, max_size=3)), max_size=2), TEXT)  # fmt: skip
def test_a_request_has_the_bytes_of_the_schema(head: tuple[int, ...], topics: list, forgotten: list, rack: str) -> None:
    request = FetchRequest_v11(*head, topics, forgotten, rack)
    schema = FetchRequest_v11.SCHEMA.encode([request.__dict__[name] for name in FetchRequest_v11.SCHEMA.names])
    assert encode_request(request) == schema


@given(of_topics(ANSWERED), st.data())
def test_an_answer_that_ends_early_is_refused(topics: list, data: st.DataObject) -> None:
    whole = FetchResponse_v11.SCHEMA.encode([0, 0, 0, topics])
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises((struct.error, UnicodeDecodeError)):
        decode_answer(FetchResponse_v11, cut)
