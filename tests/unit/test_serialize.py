"""Forms of generic values: what goes in comes out, what is forged or damaged does not."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import cramjam
import msgspec
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from models.cache.serialize import EXTENSION, Serializer
from models.errors import UnreadableValue, WriteRefused

KEY, OTHER_KEY = b"a key of 16 bytes", b"another of theirs"
VALUE = {"user": 7, "names": ["a", "b"], "none": None, "ratio": 0.5}


class Planted:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a planted pickle was executed",))


def extension(data: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(EXTENSION, data))


def head(form: int, size: int, *, packing: int = 0, version: int = 1, name: bytes = b"") -> bytes:
    return struct.pack("<4BI", version, form, packing, len(name), size) + name


def reason(serializer: Serializer, data: bytes) -> str:
    with pytest.raises(UnreadableValue) as caught:
        serializer.decode(data)
    return caught.value.reason


def test_plain_msgpack_stays_what_it_is() -> None:
    serializer = Serializer(compress_above=1000)
    assert serializer.encode(VALUE) == msgspec.msgpack.encode(VALUE)
    assert serializer.decode(msgspec.msgpack.encode(VALUE)) == VALUE


@pytest.mark.parametrize("compress_above", [None, 0, 64])
@pytest.mark.parametrize("form", ["msgpack", "json", "pickle"])
def test_every_reader_with_the_means_reads_every_form(form: Any, compress_above: int | None) -> None:
    keys = [KEY] if form == "pickle" else []
    value = {**VALUE, "text": "again and again " * 50}
    data = Serializer(form, compress_above=compress_above, pickle_keys=keys).encode(value)
    assert Serializer(pickle_keys=[OTHER_KEY, KEY]).decode(data) == value


def test_protobuf_is_read_by_those_who_have_its_class() -> None:
    data = Serializer("protobuf", messages=[StringValue]).encode(StringValue(value="64000.5"))
    assert Serializer(messages=[StringValue]).decode(data) == StringValue(value="64000.5")
    assert reason(Serializer(), data) == "unknown_message"
    name = b"google.protobuf.StringValue"
    assert reason(Serializer(messages=[StringValue]), extension(head(2, 3, name=name) + b"abc")) == "bad_body"


def test_a_golden_value_of_each_form() -> None:
    assert Serializer("json").encode([1]) == b"\xc7\x0b\x4d" + b"\x01\x01\x00\x00\x03\x00\x00\x00" + b"[1]"
    text = Serializer("protobuf", messages=[StringValue]).encode(StringValue(value="1"))
    name = b"google.protobuf.StringValue"
    assert text == b"\xc7\x26\x4d" + b"\x01\x02\x00\x1b\x03\x00\x00\x00" + name + b"\x0a\x011"
    packed = Serializer(compress_above=10).encode("x" * 1000)
    assert packed[:2] + packed[2:11] == b"\xc7" + packed[1:2] + b"\x4d" + b"\x01\x00\x01\x00\xeb\x03\x00\x00"
    assert cramjam.zstd.decompress(packed[11:]) is not None


def test_what_does_not_become_smaller_is_not_packed() -> None:
    value = bytes(range(256))
    assert Serializer(compress_above=1).encode(value) == msgspec.msgpack.encode(value)


def test_a_pickle_is_loaded_only_if_a_holder_of_a_key_signed_it() -> None:
    body = pickle.dumps(Planted())
    forged = Serializer("pickle", pickle_keys=[OTHER_KEY]).encode(Planted())
    assert reason(Serializer(), forged) == "no_key"
    assert reason(Serializer(pickle_keys=[KEY]), forged) == "bad_signature"
    unsigned = extension(head(3, len(body)) + bytes(32) + body)
    assert reason(Serializer(pickle_keys=[KEY]), unsigned) == "bad_signature"
    assert reason(Serializer(pickle_keys=[KEY]), body) == "bad_msgpack"


@pytest.mark.parametrize("at", range(3, 60))
def test_a_signed_pickle_with_one_other_byte_is_refused(at: int) -> None:
    data = bytearray(Serializer("pickle", pickle_keys=[KEY]).encode({1, 2}))
    data[at] ^= 1
    refused = {"bad_signature", "unknown_version", "unknown_form", "bad_body"}  # as another form it makes no sense
    assert reason(Serializer(pickle_keys=[KEY]), bytes(data)) in refused


def test_pickle_and_protobuf_need_what_they_need() -> None:
    with pytest.raises(ValueError, match="signing key"):
        Serializer("pickle")
    with pytest.raises(ValueError, match="16 bytes"):
        Serializer("pickle", pickle_keys=[b"short"])
    with pytest.raises(ValueError, match="message classes"):
        Serializer("protobuf")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "bad_msgpack"),
        (b"\xc1", "bad_msgpack"),
        (msgspec.msgpack.encode(VALUE)[:-1], "bad_msgpack"),
        (extension(b""), "unknown_version"),
        (extension(head(0, 1, version=2) + b"\x01"), "unknown_version"),
        (extension(head(9, 1) + b"\x01"), "unknown_form"),
        (extension(head(0, 1, packing=7) + b"\x01"), "unknown_form"),
        (extension(head(0, 5) + b"\x01"), "bad_body"),
        (extension(head(1, 3) + b"{]}"), "bad_body"),
        (extension(head(0, 100, packing=1) + b"no zstd"), "bad_body"),
        (extension(head(0, 1 << 31) + b"\x01"), "too_large"),
    ],
)
def test_bytes_that_cannot_be_read_say_why(data: bytes, expected: str) -> None:
    assert reason(Serializer(), data) == expected


@pytest.mark.parametrize("claimed", [100, 1 << 20])
def test_a_packed_value_never_becomes_larger_than_it_claims(claimed: int) -> None:
    bomb = bytes(cramjam.zstd.compress(bytes(64 << 20)))
    assert len(bomb) < 10_000
    with pytest.raises(UnreadableValue, match="bad_body: zstd"):  # there was no room for more, so no more was made
        Serializer().decode(extension(head(0, claimed, packing=1) + bomb))


def test_values_that_no_form_has_bytes_for_are_refused() -> None:
    for serializer in (Serializer(), Serializer("json")):
        with pytest.raises(WriteRefused, match=serializer.form):
            serializer.encode(object())
    with pytest.raises(WriteRefused, match="pickle"):
        Serializer("pickle", pickle_keys=[KEY]).encode(lambda: None)
    with pytest.raises(WriteRefused, match="protobuf"):
        Serializer("protobuf", messages=[StringValue]).encode({"no": "message"})
    with pytest.raises(WriteRefused, match="larger than 100"):
        Serializer(max_bytes=100).encode("x" * 101)
    with pytest.raises(WriteRefused, match="own"):
        Serializer().encode(msgspec.msgpack.Ext(EXTENSION, b""))
