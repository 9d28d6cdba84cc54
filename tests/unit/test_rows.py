"""Bytes of values in Redis: rows, books, marks, entries, writes; and what people see of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.cache.book_hash import HEADER, LEVEL, pack_book, unpack_book
from models.cache.entry import StoredEntry, decode_entry, encode_entry
from models.cache.mark import ABSENT, Mark, count, pack_mark, unpack_mark
from models.cache.outcome import Outcome, decode_outcome, encode_outcome
from models.cache.rows import ROW_BYTES, Row, as_people_see, pack_rows, row_version, unpack_row
from models.cache.version import NOTHING, version
from models.cache.write import CacheWrite, decode_write, encode_value, encode_write
from models.errors import WriteRefused
from models.market import facets
from models.market.book_page import BookHeader, encode_wire_header
from models.market.decimals import decimal_text

GOLDEN = Path(__file__).parents[1] / "golden"
VERSION = version(3, 0x0102_0304_0506)
TS_EVENT, TS_RECV = 1_760_000_000_000_000_001, 1_760_000_000_000_000_002


def golden(name: str) -> bytes:
    return (GOLDEN / f"redis_{name}.bin").read_bytes()


def packed(facet: int, *values: int, price_exp: int = -2, size_exp: int = -3) -> bytes:
    state = np.zeros((1, facets.N_COLUMNS), np.int64)
    state[0, :4] = VERSION, TS_EVENT, TS_RECV, 99
    state[0, facets.V0 : facets.V0 + len(values)] = values
    return pack_rows(state, np.int8([price_exp]), np.int8([size_exp]), np.uint8([facet]))


def seen(facet: int, *values: int, **more: int) -> dict[str, object]:
    row = unpack_row(packed(facet, *values, **more))
    assert row is not None
    return as_people_see(row)


def wire_book() -> tuple[bytes, dict[int, bytes]]:
    chunks = {
        7: np.array([(10_000, 5), (9_999, 6)], LEVEL).tobytes(),
        260: np.array([(9_000, 1)], LEVEL).tobytes(),
        9: np.array([(10_001, 2_500)], LEVEL).tobytes(),
    }
    header = BookHeader(VERSION, TS_EVENT, TS_RECV, 77, 99, 1, 0, 3, 1, np.int32([7, 260]), np.int32([9]))
    return encode_wire_header(header, price_exp=-2, size_exp=-3), chunks


def test_rows_have_the_bytes_of_the_wire() -> None:
    state = np.array(
        [[VERSION, TS_EVENT, TS_RECV, 5, 10_000, 5, 10_001, 6, 77, 0], [7, 1, 2, 1, -(1 << 62), 3, 2, 4, 0, 0]],
        np.int64,
    )
    data = pack_rows(state, np.int8([-2, -9]), np.int8([-3, 2]), np.uint8([facets.QUOTE, facets.TRADE]))
    assert data == golden("rows")
    assert unpack_row(data[:ROW_BYTES]) == Row(VERSION, TS_EVENT, TS_RECV, (10_000, 5, 10_001, 6, 77, 0), -2, -3, 1)
    assert unpack_row(data[ROW_BYTES:]) == Row(7, 1, 2, (-(1 << 62), 3, 2, 4, 0, 0), -9, 2, 0)


def test_rows_of_a_strided_view_are_packed_as_they_are() -> None:
    state = np.arange(40, dtype=np.int64).reshape(4, 10)
    ones, facet = np.ones(2, np.int8), np.zeros(2, np.uint8)
    assert pack_rows(state[::2], ones, ones, facet) == pack_rows(state[::2].copy(), ones, ones, facet)


@pytest.mark.parametrize("data", [b"", b"\0" * 79, b"\0" * 81, packed(0)[:74] + b"\x0f" + b"\0" * 5])
def test_bytes_that_are_no_row_are_none(data: bytes) -> None:
    assert unpack_row(data) is None
    assert row_version(data, 15) is None


def test_a_row_has_a_version_only_as_the_facet_that_it_is() -> None:
    data = packed(facets.QUOTE, 1, 2, 3, 4)
    assert row_version(data, facets.QUOTE) == VERSION
    assert row_version(data, facets.TRADE) is None


def test_a_quote_shows_an_empty_side_as_none_and_keeps_a_price_of_zero() -> None:
    assert seen(facets.QUOTE, 0, 1500, 6_400_050, 0) == {
        "bid_price": "0",
        "bid_quantity": "1.5",
        "ask_price": None,
        "ask_quantity": None,
        "ts_ns": TS_EVENT,
    }


@pytest.mark.parametrize(("side", "word"), [(0, None), (1, "buy"), (2, "sell")])
@pytest.mark.parametrize("facet", [facets.TRADE, facets.LIQUIDATION])
def test_trades_and_liquidations_name_the_aggressor(facet: int, side: int, word: str | None) -> None:
    value = seen(facet, 6_400_050, 250, side, 12)
    assert value == {"price": "64000.5", "quantity": "0.25", "side": word, "ts_ns": TS_EVENT}


def test_every_other_facet_has_its_words() -> None:
    assert seen(facets.FUNDING, -1, 100, 0, 55) == {
        "funding_rate": "-0.01",
        "mark_price": "1",
        "index_price": None,
        "next_funding_ts_ns": 55,
        "ts_ns": TS_EVENT,
    }
    assert seen(facets.OPEN_INTEREST, 1500, 12_345) == {
        "open_interest_value": "1.5",
        "open_interest_usd": "123.45",
        "ts_ns": TS_EVENT,
    }
    assert seen(facets.VOLATILITY, 5_512) == {"volatility_index": "55.12", "ts_ns": TS_EVENT}
    for facet in (facets.LSR_TOP, facets.LSR_ALL):
        assert seen(facet, 60, 40, 150, 300) == {
            "long_ratio": "0.6",
            "short_ratio": "0.4",
            "long_short_ratio": "1.5",
            "period_s": 300,
            "ts_ns": TS_EVENT,
        }
    for facet in range(facets.FIRST_BAR, facets.BOOK):
        assert seen(facet, 100, 200, 50, 150, 2500, 60) == {
            "open": "1",
            "high": "2",
            "low": "0.5",
            "close": "1.5",
            "volume": "2.5",
            "start_ns": 60,
        }


@pytest.mark.parametrize(
    ("mantissa", "exponent", "text"),
    [(0, -9, "0"), (1, -9, "0.000000001"), (-5, -1, "-0.5"), (12_000, -3, "12"), (-3, 2, "-300"), (0, 3, "0")],
)
def test_decimal_texts_are_exact_and_short(mantissa: int, exponent: int, text: str) -> None:
    assert decimal_text(mantissa, exponent) == text


def test_a_book_has_the_bytes_of_the_wire() -> None:
    header, chunks = wire_book()
    assert header == golden("book_header")
    assert pack_book(header, chunks.items(), [3, 4], full=False) == golden("book_update")


def test_a_book_is_read_in_the_order_of_its_header() -> None:
    header, chunks = wire_book()
    fields = {chunk.to_bytes(4, "little"): data for chunk, data in chunks.items()} | {HEADER: header, b"o": b"x"}
    book = unpack_book(fields)
    assert book is not None
    assert (book[0].version, book[0].state) == (VERSION, 1)
    assert book[1] == {
        "bids": (("100", "0.005"), ("99.99", "0.006"), ("90", "0.001")),
        "asks": (("100.01", "2.5"),),
        "last_update_id": 77,
        "state": "live",
        "ts_ns": TS_EVENT,
    }


def test_a_torn_book_is_none() -> None:
    header, chunks = wire_book()
    whole = {chunk.to_bytes(4, "little"): data for chunk, data in chunks.items()} | {HEADER: header}
    assert unpack_book({}) is None
    assert unpack_book(whole | {HEADER: header[:-1]}) is None
    assert unpack_book({name: data for name, data in whole.items() if name != b"\x09\0\0\0"}) is None
    assert unpack_book(whole | {b"\x09\0\0\0": b"\0" * 15}) is None


def test_a_mark_has_the_bytes_of_the_wire() -> None:
    mark = Mark(token=7, version=VERSION, watermark_ns=TS_EVENT, written_ns=TS_RECV, floors=5)
    assert pack_mark(mark) == golden("mark")
    assert unpack_mark(golden("mark")) == mark


def test_no_mark_and_a_strange_mark_prove_nothing() -> None:
    assert unpack_mark(None) == unpack_mark(b"\0" * 32) == ABSENT
    assert pack_mark(ABSENT) == b"\0" * 40
    assert (count(NOTHING), count(0)) == (b"\0" * 8, b"\0" * 7 + b"\1")


def test_an_entry_has_the_bytes_of_the_wire() -> None:
    entry = StoredEntry(1_760_000_000_123, ("user:7", "vip"), encode_value({"user": 7}))
    assert encode_entry(VERSION, entry) == golden("entry")
    assert decode_entry(golden("entry")) == (VERSION, entry)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 8, b"\0" * 8 + b"\xc1", b"\0" * 8 + b"\x93\x01\x02\x03"])
def test_bytes_that_are_no_entry_are_none(data: bytes) -> None:
    assert decode_entry(data) is None


def test_a_write_has_the_bytes_of_the_wire() -> None:
    write = CacheWrite("put", "session:42", encode_value([1, "x"]), 60_000, ("user:7",))
    assert encode_write(write) == golden("write")
    assert decode_write(golden("write")) == write


def test_a_write_that_names_every_field_is_read_too() -> None:
    """As writers sent it before fields of no use were left out."""
    named = {"op": "put", "key": "a:1", "value": b"\x01", "ttl_ms": None, "tags": [], "tag": "", "namespace": None}
    assert decode_write(msgspec.msgpack.encode(named)) == CacheWrite("put", "a:1", b"\x01")


@pytest.mark.parametrize("value", [True, False, 2**63 - 1, -(2**63), "why"])
def test_an_outcome_is_read_as_it_was_written(value: bool | int | str) -> None:
    assert decode_outcome(encode_outcome(VERSION, Outcome(value, 5))) == Outcome(value)
    assert encode_outcome(VERSION, Outcome(value))[:8] == VERSION.to_bytes(8, "big")


def test_an_outcome_has_the_bytes_of_the_wire_and_anything_else_is_none() -> None:
    assert encode_outcome(VERSION, Outcome(42)) == golden("outcome")
    assert [decode_outcome(data) for data in (b"", b"\0" * 8, b"\0" * 8 + b"\x93")] == [None, None, None]


PUT = CacheWrite("put", "session:1", b"\x01")


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (PUT, None),
        (msgspec.structs.replace(PUT, ttl_ms=1, tags=("a",) * 16), None),
        (CacheWrite("clear"), None),
        (CacheWrite("clear", namespace="session"), None),
        (CacheWrite("delete_tag", tag="vip"), None),
        (msgspec.structs.replace(PUT, key="session"), "namespace"),
        (msgspec.structs.replace(PUT, key="md:binance.spot.BTC-USDT:quote"), "market alone"),
        (CacheWrite("delete", "md:binance.spot.BTC-USDT:quote"), "market alone"),
        (CacheWrite("clear", namespace="md"), "instrument|facet|market"),
        (msgspec.structs.replace(PUT, key="s:" + "é" * 256), "512"),
        (msgspec.structs.replace(PUT, value=b""), "value"),
        (msgspec.structs.replace(PUT, value=b"x" * ((1 << 20) + 1)), "1048576"),
        (msgspec.structs.replace(PUT, ttl_ms=0), "ttl_ms"),
        (msgspec.structs.replace(PUT, ttl_ms=1 << 60), "ttl_ms"),
        (msgspec.structs.replace(PUT, tags=("a",)), "needs a ttl_ms"),
        (msgspec.structs.replace(PUT, ttl_ms=1, tags=("a",) * 17), "17 tags"),
        (msgspec.structs.replace(PUT, ttl_ms=1, tags=("",)), "tag"),
        (CacheWrite("delete_tag", tag="x" * 129), "tag"),
        (CacheWrite("clear", namespace="a b"), "namespace"),
        (msgspec.structs.replace(PUT, op="fill", base=5), None),
        (msgspec.structs.replace(PUT, op="put_if"), None),
        (msgspec.structs.replace(PUT, op="put_if", base=-2), "base -2"),
        (msgspec.structs.replace(PUT, op="fill", value=b""), "a fill needs"),
        (CacheWrite("incr", "session:1", by=-(1 << 63), ttl_ms=1, reply=True), None),
        (CacheWrite("incr", "session:1", by=1 << 63), "64-bit"),
        (CacheWrite("incr", "session:1", by=1, ttl_ms=0), "ttl_ms"),
        (CacheWrite("incr", "session", by=1), "namespace"),
    ],
)
def test_producer_and_worker_check_the_same_bounds(write: CacheWrite, why: str | None) -> None:
    data = msgspec.msgpack.encode(write)
    if why is None:
        assert decode_write(encode_write(write)) == write
        return
    for refuse in (lambda: encode_write(write), lambda: decode_write(data)):
        with pytest.raises(WriteRefused, match=why) as caught:
            refuse()
        assert caught.value.reason == "bad_write"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"nonsense",
        msgspec.msgpack.encode({"op": "increase"}),
        msgspec.msgpack.encode({"op": "put", "key": 1}),
    ],
)
def test_bytes_that_are_no_write_are_refused(data: bytes) -> None:
    with pytest.raises(WriteRefused, match="not a cache write"):
        decode_write(data)
