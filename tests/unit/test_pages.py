"""Pages at rest: keys in the order of their numbers, golden bytes, what is refused.

`MARKETPRISM_WRITE_GOLDEN=1` writes the golden bytes anew.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.errors import CorruptPage
from models.market import pages
from models.market.blocks import encode_blocks
from models.market.facets import N_COLUMNS, TS_EVENT, TS_RECV, V0
from models.market.instruments import Instrument
from models.market.pages import ControlPage, SourcePosition
from models.market.row_page import decode_rows, encode_rows
from models.windows.page import decode_page, encode_page
from models.windows.window import NOT_OPEN

GOLDEN = Path(__file__).parents[1] / "golden"
WRITE_GOLDEN = "MARKETPRISM_WRITE_GOLDEN"  # set it to 1 to write the golden bytes anew, then read the diff

ROWS = np.arange(64 * N_COLUMNS).reshape(64, N_COLUMNS) * 10**12 - 10**14
ROWS[:, TS_RECV] = ROWS[:, TS_EVENT] + np.arange(64) * 300
ROWS[:, V0 + 5] = 0, *range(63)
ROWS[5:20] = 0
SLOTS = [
    Instrument("binance", "spot", "BTC-USDT", price_exp=-2, size_exp=-8, tick="0.01"),
    Instrument("okx", "options", "BTC-USD-260101-4.5-C", implicit=True),
]
CONTROL = ControlPage(
    frames_version=1 << 48 | 5,
    writes_version=-1,
    sources={2**64 - 1: SourcePosition(2**64 - 1, 1_760_000_000_000), 7: SourcePosition(0, 0)},
    floors={"*": 3, "n:app": 4, "t:rot": 1 << 48},
    topic_ids={"md.frames.v1": "b2NoLSBuZWluLCBuaWNodA"},
    epoch=1,
    watermark_ns=1_760_000_000 * 10**9,
)
ENDS, VALUES = np.full((64, 8), NOT_OPEN, np.int64), np.zeros((64, 8, 6), np.int64)
ENDS[1, 3], VALUES[1, 3] = 1_760_000_002, (-5, 6, -7, 5, 2**63 - 1, 3)
ENDS[63, 7], VALUES[63, 7] = 29_333_334 * 60, (1, 1, 1, 1, 0, 1)
SUMS = np.zeros((64, 3), np.uint64)
SUMS[1] = 2**64 - 1, 0, 7
BODIES = {
    "rows": lambda: encode_rows(1 << 48 | 7, ROWS),
    "windows": lambda: encode_page(1 << 48 | 7, ENDS, VALUES, SUMS),
    "slots": lambda: pages.encode_slots(SLOTS),
    "control": lambda: pages.encode_control(CONTROL),
}


@pytest.mark.parametrize("name", BODIES)
def test_bytes_are_those_of_the_golden_file(name: str) -> None:
    path = GOLDEN / f"pages_{name}.bin"
    if os.environ.get(WRITE_GOLDEN) == "1":
        path.write_bytes(BODIES[name]())
    assert BODIES[name]() == path.read_bytes()


def test_golden_bytes_are_read_as_what_was_written() -> None:
    golden = {name: (GOLDEN / f"pages_{name}.bin").read_bytes() for name in BODIES}
    version, rows = decode_rows(golden["rows"])
    assert (version, rows.tolist()) == (1 << 48 | 7, ROWS.tolist())
    version, *arrays = decode_page(golden["windows"])
    assert (version, [array.tolist() for array in arrays]) == (
        1 << 48 | 7,
        [array.tolist() for array in (ENDS, VALUES, SUMS)],
    )
    assert pages.decode_slots(golden["slots"]) == SLOTS
    assert pages.decode_control(golden["control"]) == CONTROL


def test_control_page_of_an_older_worker_that_named_no_topics_is_read() -> None:
    old = msgspec.msgpack.encode({"frames_version": 5, "writes_version": 6, "sources": {1: [2, 3]}, "floors": {}})
    assert pages.decode_control(old) == ControlPage(5, 6, {1: SourcePosition(2, 3)}, {})


@pytest.mark.parametrize(
    ("key", "text", "numbers"),
    [
        (pages.slots_key(1), "53 00000001", (1,)),
        (pages.windows_key(3), "57 00000003", (3,)),
        (pages.rows_key(14, 258), "52 0e 00000102", (14, 258)),
        (pages.book_key(pages.BOOK, 77), "42 0000004d", (77,)),
        (pages.book_key(pages.PENDING, 2**32 - 1), "50 ffffffff", (2**32 - 1,)),
        (pages.chunk_key(3, 2**31), "4b 00000003 80000000", (3, 2**31)),
    ],
)
def test_key_is_a_letter_and_big_endian_numbers(key: bytes, text: str, numbers: tuple[int, ...]) -> None:
    assert key == bytes.fromhex(text)
    assert pages.numbers(key) == numbers


def test_keys_sort_as_their_numbers_do() -> None:
    numbers = [0, 1, 63, 64, 255, 256, 65_535, 65_536, 2**31, 2**32 - 1]
    for made in (
        [pages.slots_key(n) for n in numbers],
        [pages.rows_key(f, n) for f in (0, 9, 14) for n in numbers],
        [pages.chunk_key(n, m) for n in numbers for m in numbers],
    ):
        assert made == sorted(made)


def test_token_stands_before_every_body() -> None:
    assert pages.with_token(258, b"body") == b"\x02\x01" + bytes(6) + b"body"
    assert pages.split_token(pages.with_token(-1, b"")) == (-1, b"")
    with pytest.raises(CorruptPage, match="7 bytes has no owner token"):
        pages.split_token(bytes(7))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\xc1" + data[1:],
        lambda data: data.replace(b"spot", b"sp\xfft").replace(b"rot", b"r\xfft"),
    ],
    ids=["cut", "tail", "type", "utf8"],
)
@pytest.mark.parametrize("name", ["slots", "control"])
def test_damaged_page_is_refused(name: str, damage: object) -> None:
    decode = {"slots": pages.decode_slots, "control": pages.decode_control}[name]
    with pytest.raises(CorruptPage, match="cannot be read"):
        decode(damage(BODIES[name]()))  # type: ignore[operator]


def window_page(end: int, count: int, *, versions: tuple[int, int] = (7, 7), size: int = 0) -> bytes:
    """A page whose first instrument has ten seconds open."""
    rows = np.zeros((64, 8, 7), np.int64)
    rows[0, 6] = end, 1, 2, 1, 2, 5, count
    blocks = [
        encode_blocks(
            numbers.reshape(-1), np.zeros(1, np.int64), n_rows=n_rows, near=np.zeros(k, np.uint64),
            versions=np.array([version]),
        )[0]
        for numbers, n_rows, k, version in zip((rows, np.ones(192, np.int64)), (512, 64), (7, 3), versions, strict=True)
    ]  # fmt: skip
    return struct.pack("<I", len(blocks[0]) + size) + blocks[0] + blocks[1]


def test_window_page_that_cannot_be_is_refused() -> None:
    _, ends, values, _ = decode_page(window_page(1_760_000_010, 3))
    assert (ends[0, 6], values[0, 6].tolist()) == (1_760_000_010, [1, 2, 1, 2, 5, 3])
    for body, what in (
        (window_page(1_760_000_011, 3), "windows that cannot be"),  # no ten seconds end then
        (window_page(1_760_000_010, 0), "windows that cannot be"),
        (window_page(1_760_000_010, -1), "windows that cannot be"),
        (window_page(1_760_000_010, 3, versions=(7, 8)), "blocks of two versions"),
        (window_page(1_760_000_010, 3, size=1), "first block of a window page of .* ends early or has bytes left over"),
        (
            window_page(1_760_000_010, 3) + b"\0",
            "second block of a window page of .* ends early or has bytes left over",
        ),
        (window_page(1_760_000_010, 3, size=10**6), "first block"),
        (b"\0\0\0", "a window page of 3 bytes"),
    ):
        with pytest.raises(CorruptPage, match=what):
            decode_page(body)


def test_a_token_is_the_epoch_that_an_owner_record_carries_and_the_offset_it_gets() -> None:
    key, value = pages.owner_record(3, "host")
    assert key == pages.OWNER and value is not None
    assert pages.owner_token(value, 12) == 3 << 48 | 12
    assert pages.owner_token(pages.owner_record(0, "host")[1], 12) == 12
    for other in (None, b"", b"hostname-of-old", b"\xff" * 8):
        assert pages.owner_token(other, 12) == 12, "a record of another form is of epoch 0"


def test_a_deletion_tells_who_wrote_it_in_a_header() -> None:
    assert pages.writer_token(None, [("x", b"y"), *pages.deletion_headers(7 << 48 | 5)]) == 7 << 48 | 5
    assert pages.writer_token(pages.with_token(9, b"body"), pages.deletion_headers(5)) == 9
    assert pages.writer_token(None, []) is None
