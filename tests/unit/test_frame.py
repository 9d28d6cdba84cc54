"""Frames: golden bytes of every codec, and what is refused. `MARKETPRISM_WRITE_GOLDEN=1` writes the bytes anew."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from models.errors import CorruptFrame
from models.market.columns import BAD_CODEC, BAD_INDEX, FAULTS, N_COLUMNS, SHORT, UNORDERED, room
from models.market.frame import HEADER, MAX_TICKS, Frame, decode, decode_header, encode
from models.market.instruments import INSTRUMENT_REF, instrument_hash
from models.market.listing import listing_bytes
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from tests.books import diff, snapshot

GOLDEN = Path(__file__).parents[1] / "golden"
WRITE_GOLDEN = "MARKETPRISM_WRITE_GOLDEN"  # set it to 1 to write the golden bytes anew, then read the diff
INT64 = np.iinfo(np.int64)
NOON_NS = 1_760_011_200_000_000_000

# Codecs of docs/wire.md, 'Columns', and the columns by number.
CONSTANT, ONE_BASE, INSTRUMENT_BASE, RAW, DICTIONARY, CONSECUTIVE, SPARSE = range(7)
TS_EVENT, TS_RECV, SEQ, VENUE_SEQ, PRICE, SIZE, REF_ID, INSTRUMENT, SHAPE = range(N_COLUMNS)


def refs(*texts: str) -> np.ndarray:
    listed = np.zeros(len(texts), INSTRUMENT_REF)
    listed["hash"] = [instrument_hash(text) for text in texts]
    listed["price_exp"], listed["size_exp"] = -9, -8
    return listed


BTC, ETH = "binance.spot.BTC-USDT", "binance.spot.ETH-USDT"


def ticks(n: int, first: int = 1) -> TickArray:
    """n equal trades of instrument 0 at positions from `first` on."""
    rows = np.zeros(n, TICK)
    rows["seq"] = np.arange(first, first + n, dtype=np.uint64)
    rows["kind"], rows["action"], rows["flags"] = Kind.TRADE, Action.TRADE, Flag.LAST
    rows["price"], rows["size"] = 64_000_500_000_000, 250_000_000
    rows["ts_event"], rows["ts_recv"] = NOON_NS, NOON_NS + 1_234_567
    return rows


def trades_and_quotes() -> bytes:
    rows = ticks(8, first=101)
    at = np.arange(8)
    rows["instrument_id"] = at % 2
    rows["ts_event"] += at * 1_000_000
    rows["ts_recv"] += at * 1_000_003
    rows["price"] += np.where(at % 2, -60_900_000_000_000, 0) + at * 10_000_000
    rows["size"] = [250_000_000, 0, 1, 7_000, 0, 90_000_000_000, 5, 5]
    rows["ref_id"] = [9001, 0, 9002, 0, 9003, 0, 9004, 0]
    quotes = at % 2 == 1
    rows["kind"][quotes], rows["action"][quotes] = Kind.QUOTE, Action.UPDATE
    rows["side"] = [Side.BID, Side.ASK] * 4
    rows["flags"][quotes] = Flag.TOB | Flag.LAST
    rows["venue_seq"][quotes] = [71, 72, 73, 74]
    return encode(rows, refs(BTC, ETH), source=7, prev_position=100, dense=True, due_ns=NOON_NS, sent_ns=NOON_NS + 1)


def snapshot_and_diffs() -> bytes:
    book = {100 * 10**9 - i * 10**7: (i + 1) * 10**6 for i in range(70)}
    asks = {100 * 10**9 + i * 10**7: i * 10**6 for i in range(1, 71)}
    events = [
        snapshot(500, book, asks, ts=NOON_NS),
        diff(500, 503, {99_990_000_000: 0}, {100_020_000_000: 42}, ts=NOON_NS + 10**8),
        diff(503, 504, {}, {}, ts=NOON_NS + 2 * 10**8),
    ]
    rows = np.concatenate(events)
    rows["seq"] = np.arange(1, len(rows) + 1)
    return encode(rows, refs(BTC), source=2**64 - 1)


def control(k: int) -> bytes:
    rows = ticks(1)
    rows["instrument_id"], rows["kind"], rows["action"] = -1, Kind.CONTROL, Action.CLEAR
    rows["price"] = rows["size"] = 0
    return encode(rows, refs(BTC, ETH)[:k], source=3, dense=True)


def one_row() -> bytes:
    return encode(ticks(1, first=2**63 + 5), refs(BTC), source=1)


def constant_columns() -> bytes:
    rows = ticks(300)
    rows["price"] = INT64.min
    rows["ref_id"] = -1
    return encode(rows, refs(BTC), source=1)


def extremes() -> bytes:
    rows = ticks(5)
    for name in ("ts_event", "ts_recv", "venue_seq", "price", "ref_id"):
        rows[name] = [INT64.min, INT64.max, 0, -1, 1]
    rows["size"] = [INT64.min, -(2**62), 0, -1, -2]  # a span just below what has to stay raw
    rows["seq"] = [1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
    return encode(rows, refs(BTC), source=1)


def many_shapes() -> bytes:
    rows = ticks(300)
    rows["kind"], rows["side"] = np.arange(300) % 256, np.arange(300) // 256
    return encode(rows, refs(BTC), source=1)


def all_shapes_of_a_dictionary() -> bytes:
    rows = ticks(256)
    rows["flags"] = np.arange(256)[::-1]
    return encode(rows, refs(BTC), source=1)


def instrument_bases() -> bytes:
    rows = ticks(120)
    at = np.arange(120)
    rows["instrument_id"] = at % 3
    rows["price"] = np.array([64 * 10**12, 3 * 10**12, 0])[at % 3] + np.where(at % 3 < 2, at // 3 * 10**4, 0)
    rows["size"] = np.array([-(2**62), 5, 2**62])[at % 3] + at // 3 * 257
    return encode(rows, refs(BTC, ETH, "okx.spot.BTC-USDT"), source=1)


def mostly_zeros() -> bytes:
    rows = ticks(200)
    rows["seq"] *= 3
    rows["venue_seq"][[0, 63, 64, 199]] = [7, 7 + 254, 8, 9]
    rows["ref_id"][5::10] = np.arange(20) * 1001 - 5
    rows["price"][150] = -4
    rows["price"][:150] = rows["price"][151:] = 0
    return encode(rows, refs(BTC), source=1)


FRAMES = {
    "trades_and_quotes": trades_and_quotes,
    "book": snapshot_and_diffs,
    "control": lambda: control(2),
    "control_without_instruments": lambda: control(0),
    "one_row": one_row,
    "constant": constant_columns,
    "extremes": extremes,
    "many_shapes": many_shapes,
    "dictionary": all_shapes_of_a_dictionary,
    "instrument_bases": instrument_bases,
    "sparse": mostly_zeros,
}


def lengths(column: int, head: tuple[int, ...], n: int) -> tuple[int, int, int]:
    """Bytes of a column's entries, flags and codes, without what pads them."""
    codec, width, *_, entries = head
    if codec == SPARSE:
        return 8, -(-n // 64) * 8, width * entries
    return entries * (4 if column == SHAPE else 8), 0, width * n


def starts(data: bytes) -> list[int]:
    """Where each column's head begins, and where the last column ends; written from docs/wire.md alone."""
    n, k = decode_header(data)[:2]
    found = [HEADER.size + -(-10 * k // 8) * 8]
    for column in range(N_COLUMNS):
        parts = lengths(column, struct.unpack_from("<4BI", data, found[-1]), n)
        found.append(found[-1] + 8 + sum(-(-part // 8) * 8 for part in parts))
    return found


def heads(data: bytes) -> list[tuple[int, int, int, int]]:
    """Codec, width, pow10 and entries of the nine columns."""
    return [(c, w, p, e) for c, w, p, _, e in (struct.unpack_from("<4BI", data, at) for at in starts(data)[:-1])]


def read_as_the_text_says(data: bytes) -> np.ndarray:
    """A decoder in plain Python of docs/wire.md, 'Columns': uint64[n, 9]."""
    n = decode_header(data).n_ticks
    rows = np.zeros((n, N_COLUMNS), object)
    for column in (INSTRUMENT, *range(INSTRUMENT), SHAPE):
        at = starts(data)[column]
        codec, width, pow10, zero, entries = struct.unpack_from("<4BI", data, at)
        assert zero == 0
        entry_bytes = 4 if column == SHAPE else 8
        of_entries, of_flags, of_codes = lengths(column, (codec, width, entries), n)
        bases = np.frombuffer(data, f"<u{entry_bytes}", of_entries // entry_bytes, at + 8).tolist()
        at += 8 + -(-of_entries // 8) * 8
        flags = int.from_bytes(data[at : at + of_flags], "little")
        at += of_flags
        codes = [int.from_bytes(data[at + i : at + i + width], "little") for i in range(0, of_codes, width or 1)]
        if codec == SPARSE:
            left = iter(codes)
            codes = [next(left) if flags >> i & 1 else 0 for i in range(n)]
        for i, code in enumerate(codes or [0] * n):
            if codec in (CONSTANT, DICTIONARY):
                value = bases[code]
            elif codec == CONSECUTIVE:
                value = bases[0] + i
            elif codec == RAW:
                value = code
            else:
                base = bases[rows[i, INSTRUMENT] if codec == INSTRUMENT_BASE else 0]
                value = base + (code - 1) * 10**pow10 if code else 0
            rows[i, column] = value % 2**64
    return rows


@pytest.mark.parametrize("name", FRAMES)
def test_bytes_are_those_of_the_golden_file(name: str) -> None:
    path = GOLDEN / f"frame_{name}.bin"
    if os.environ.get(WRITE_GOLDEN) == "1":
        path.write_bytes(FRAMES[name]())
    assert FRAMES[name]() == path.read_bytes()


@pytest.mark.parametrize("name", FRAMES)
def test_golden_bytes_mean_what_the_documentation_says(name: str) -> None:
    data = (GOLDEN / f"frame_{name}.bin").read_bytes()
    assert starts(data)[-1] == len(data)
    frame, rows = decode(data), read_as_the_text_says(data)
    for column, field in enumerate(TICK.names[:7]):
        assert frame.ticks[field].astype(np.uint64).tolist() == rows[:, column].tolist(), field
    assert frame.ticks["instrument_id"].astype(np.uint64).tolist() == rows[:, INSTRUMENT].tolist()
    k, at = len(frame.instruments), HEADER.size
    listed = [struct.unpack_from(f"<{k}{form}", data, at + place * k) for form, place in (("Q", 0), ("b", 8), ("b", 9))]
    assert [frame.instruments[field].tolist() for field in INSTRUMENT_REF.names[:3]] == [list(x) for x in listed]
    shapes = np.ascontiguousarray(frame.ticks).view(np.uint32).reshape(-1, 16)[:, 15]
    assert shapes.tolist() == rows[:, SHAPE].tolist()


def test_golden_frames_use_every_codec_and_every_width() -> None:
    used = {
        (codec, width) for name in FRAMES for codec, width, _, _ in heads((GOLDEN / f"frame_{name}.bin").read_bytes())
    }
    assert used >= {(CONSTANT, 0), (RAW, 8), (RAW, 4), (DICTIONARY, 0), (DICTIONARY, 1), (INSTRUMENT_BASE, 1)}
    assert used >= {(ONE_BASE, width) for width in (1, 2, 4, 8)}
    assert used >= {(CONSECUTIVE, 0), (SPARSE, 1), (SPARSE, 2)}


def test_header_tells_what_encode_was_told() -> None:
    header = decode(trades_and_quotes()).header
    assert header == (8, 2, 7, 101, 108, 100, NOON_NS, NOON_NS + 1, True, 64 + 24)
    assert decode(one_row()).header[2:] == (1, 2**63 + 5, 2**63 + 5, 0, 0, 0, False, 64 + 16)


def test_prices_of_two_instruments_are_stored_by_instrument() -> None:
    codec, width, pow10, entries = heads(instrument_bases())[PRICE]
    assert (codec, width, pow10, entries) == (INSTRUMENT_BASE, 1, 4, 3)


def test_control_rows_beside_others_keep_all_columns_without_instrument_bases() -> None:
    rows = decode(instrument_bases()).ticks.copy()
    rows["instrument_id"][7] = -1
    data = encode(rows, refs(BTC, ETH, "okx.spot.BTC-USDT"), source=1)
    assert INSTRUMENT_BASE not in {codec for codec, *_ in heads(data)}
    assert decode(data).ticks.tobytes() == rows.tobytes()


def test_one_frame_holds_no_more_than_its_bound() -> None:
    with pytest.raises(ValueError, match=f"1 to {MAX_TICKS} ticks, not 0"):
        encode(ticks(0), refs(BTC), source=1)
    with pytest.raises(ValueError, match="not 1048577"):
        encode(ticks(MAX_TICKS + 1), refs(BTC), source=1)


@pytest.mark.parametrize("instrument", [-2, 1, 2**31 - 1, -(2**31)])
def test_row_of_an_instrument_that_is_not_listed_is_not_encoded(instrument: int) -> None:
    rows = ticks(3)
    rows["instrument_id"][1] = instrument
    with pytest.raises(ValueError, match="names an instrument"):
        encode(rows, refs(BTC), source=1)


@pytest.mark.parametrize("positions", [[1, 1, 2], [2, 1, 3], [1, 2**63, 5]])
def test_positions_that_do_not_rise_are_not_encoded(positions: list[int]) -> None:
    rows = ticks(3)
    rows["seq"] = positions
    with pytest.raises(ValueError, match="positions"):
        encode(rows, refs(BTC), source=1)


def test_read_only_and_strided_rows_are_encoded_like_others() -> None:
    rows = ticks(20)
    rows.flags.writeable = False
    assert decode(encode(rows[::2], refs(BTC), source=1)).ticks.tobytes() == rows[::2].tobytes()


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, *values)
    return bytes(changed)


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (0, "<4s", b"MPF2"),
        (4, "B", 1),
        (4, "B", 3),
        (6, "<H", 8),
        (8, "<I", 0),
        (8, "<I", MAX_TICKS + 1),
        (8, "<I", 2**32 - 1),
        (12, "<I", 2**32 - 1),
        (12, "<I", 2**28),
    ],
)
def test_header_that_cannot_be_is_refused(at: int, form: str, value: int) -> None:
    with pytest.raises(CorruptFrame):
        decode(patched(one_row(), at, form, value))


def test_list_of_instruments_that_ends_behind_the_bytes_is_refused() -> None:
    data = snapshot_and_diffs()
    most = (len(data) - HEADER.size) // 10
    for listed in (most + 1, (len(data) - HEADER.size) // 8):
        for read in (decode_header, decode):
            with pytest.raises(CorruptFrame, match=f"{listed} instruments in {len(data)} bytes"):
                read(patched(data, 12, "<I", listed))
    with pytest.raises(CorruptFrame, match=FAULTS[SHORT]):
        decode(patched(data, 12, "<I", most))


@pytest.mark.parametrize("count", [1, 7, 9, 300, MAX_TICKS])
def test_count_that_does_not_fit_the_columns_is_refused(count: int) -> None:
    with pytest.raises(CorruptFrame, match=FAULTS[SHORT]):
        decode(patched(trades_and_quotes(), 8, "<I", count))


@pytest.mark.parametrize("cut", [1, 8, 64, 200])
def test_frame_that_is_cut_short_or_has_a_tail_is_refused(cut: int) -> None:
    data = snapshot_and_diffs()
    for damaged in (data[:-cut], data + bytes(cut)):
        with pytest.raises(CorruptFrame, match=FAULTS[SHORT]):
            decode(damaged)


def columns(name: str, column: int, head: tuple[int, int, int, int], body: bytes) -> Frame:
    """Decode a golden frame one of whose columns was replaced."""
    data = FRAMES[name]()
    at, end = starts(data)[column : column + 2]
    codec, width, pow10, entries = head
    return decode(data[:at] + struct.pack("<4BI", codec, width, pow10, 0, entries) + body + data[end:])


@pytest.mark.parametrize(
    ("column", "head", "body", "fault"),
    [
        # Bases by instrument while the instruments are not known yet, or for a row that has none.
        (INSTRUMENT, (INSTRUMENT_BASE, 1, 0, 2), bytes(24), BAD_CODEC),
        (PRICE, (INSTRUMENT_BASE, 1, 0, 1), bytes(16), BAD_CODEC),
        (PRICE, (INSTRUMENT_BASE, 1, 0, 3), bytes(32), BAD_CODEC),
        (PRICE, (INSTRUMENT_BASE, 1, 0, 0), bytes(8), BAD_CODEC),
        (INSTRUMENT, (CONSTANT, 0, 0, 1), struct.pack("<q", 2), BAD_INDEX),
        (INSTRUMENT, (CONSTANT, 0, 0, 1), struct.pack("<q", -2), BAD_INDEX),
        (INSTRUMENT, (CONSTANT, 0, 0, 1), struct.pack("<q", INT64.min), BAD_INDEX),
        (INSTRUMENT, (ONE_BASE, 8, 9, 1), struct.pack("<q8Q", 1, *[2**64 - 1] * 8), BAD_INDEX),
        (INSTRUMENT, (RAW, 8, 0, 0), struct.pack("<8q", 0, 0, 0, 0, 0, 0, 0, 1 << 32), BAD_INDEX),
        (PRICE, (ONE_BASE, 1, 10, 1), bytes(16), BAD_CODEC),
        (PRICE, (ONE_BASE, 1, 255, 1), bytes(16), BAD_CODEC),
        (PRICE, (ONE_BASE, 3, 0, 1), bytes(32), BAD_CODEC),
        (PRICE, (ONE_BASE, 0, 0, 1), bytes(8), BAD_CODEC),
        (PRICE, (ONE_BASE, 1, 0, 0), bytes(8), BAD_CODEC),
        (PRICE, (ONE_BASE, 1, 0, 2), bytes(24), BAD_CODEC),
        (PRICE, (ONE_BASE, 255, 0, 1), bytes(8 + 255 * 8), BAD_CODEC),
        (PRICE, (CONSTANT, 0, 0, 0), b"", BAD_CODEC),
        (PRICE, (RAW, 4, 0, 0), bytes(32), BAD_CODEC),
        (PRICE, (RAW, 8, 0, 1), bytes(72), BAD_CODEC),
        (PRICE, (DICTIONARY, 1, 0, 1), bytes(16), BAD_CODEC),
        (PRICE, (200, 1, 0, 1), bytes(16), BAD_CODEC),
        (PRICE, (ONE_BASE, 1, 0, 2**32 - 1), bytes(16), SHORT),
        (PRICE, (INSTRUMENT_BASE, 255, 0, 2**32 - 1), bytes(16), SHORT),
        (PRICE, (SPARSE, 1, 0, 1), struct.pack("<qQ", 5, 0b11) + bytes(8), BAD_CODEC),  # another number of flags
        (PRICE, (SPARSE, 1, 0, 2), struct.pack("<qQ", 5, 1 | 1 << 8) + bytes(8), BAD_CODEC),  # of a row behind the last
        (PRICE, (SPARSE, 1, 0, 0), struct.pack("<qQ", 5, 0), BAD_CODEC),
        (PRICE, (SPARSE, 3, 0, 1), struct.pack("<qQ", 5, 1) + bytes(8), BAD_CODEC),
        (PRICE, (SPARSE, 0, 0, 1), struct.pack("<qQ", 5, 1), BAD_CODEC),
        (PRICE, (SPARSE, 1, 10, 1), struct.pack("<qQ", 5, 1) + bytes(8), BAD_CODEC),
        (PRICE, (SPARSE, 8, 0, 2**32 - 1), struct.pack("<qQ", 5, 1) + bytes(8), SHORT),
        (SHAPE, (SPARSE, 1, 0, 1), struct.pack("<qQ", 5, 1) + bytes(8), BAD_CODEC),
        (INSTRUMENT, (SPARSE, 1, 0, 1), struct.pack("<qQ", 2, 1) + b"\1" + bytes(7), BAD_INDEX),
        (INSTRUMENT, (CONSECUTIVE, 0, 0, 1), struct.pack("<q", 0), BAD_INDEX),
        (PRICE, (CONSECUTIVE, 0, 0, 0), b"", BAD_CODEC),
        (PRICE, (CONSECUTIVE, 1, 0, 1), bytes(16), BAD_CODEC),
        (SEQ, (CONSECUTIVE, 0, 0, 1), struct.pack("<q", 100), UNORDERED),
        (SEQ, (CONSTANT, 0, 0, 1), struct.pack("<q", 101), UNORDERED),
        (SEQ, (RAW, 8, 0, 0), struct.pack("<8q", 100, *range(102, 109)), UNORDERED),
        (SEQ, (RAW, 8, 0, 0), struct.pack("<8q", *range(101, 108), 109), UNORDERED),
        (SEQ, (RAW, 8, 0, 0), struct.pack("<8q", 101, 103, 102, 104, 105, 106, 107, 108), UNORDERED),
        (SHAPE, (DICTIONARY, 1, 0, 2), bytes(8) + b"\0\1\0\1\2\0\0\0", BAD_INDEX),
        (SHAPE, (DICTIONARY, 1, 0, 0), bytes(8), BAD_CODEC),
        (SHAPE, (DICTIONARY, 1, 0, 257), bytes(1032 + 8), BAD_CODEC),
        (SHAPE, (DICTIONARY, 2, 0, 1), bytes(8 + 16), BAD_CODEC),
        (SHAPE, (RAW, 8, 0, 0), bytes(64), BAD_CODEC),
        (SHAPE, (ONE_BASE, 1, 0, 1), bytes(16), BAD_CODEC),
        (SHAPE, (DICTIONARY, 1, 0, 2**32 - 1), bytes(16), SHORT),
    ],
    ids=lambda value: f"{len(value)}_bytes" if isinstance(value, bytes) else str(value),
)
def test_column_that_lies_is_refused(column: int, head: tuple[int, int, int, int], body: bytes, fault: int) -> None:
    with pytest.raises(CorruptFrame, match=FAULTS[fault]):
        columns("trades_and_quotes", column, head, body)


def test_instrument_bases_are_refused_in_a_frame_with_a_row_of_no_instrument() -> None:
    with pytest.raises(CorruptFrame, match=FAULTS[BAD_CODEC]):
        columns("control", PRICE, (INSTRUMENT_BASE, 1, 0, 2), bytes(24))


def test_any_codec_that_fits_is_read_whether_or_not_the_encoder_would_choose_it() -> None:
    wide = columns("trades_and_quotes", PRICE, (INSTRUMENT_BASE, 8, 2, 2), struct.pack("<2q8Q", 5, 7, *[0, 1] * 4))
    assert wide.ticks["price"].tolist() == [0, 7] * 4
    far = columns("trades_and_quotes", SIZE, (INSTRUMENT_BASE, 1, 9, 2), struct.pack("<2q", 5, 7) + bytes([3] * 8))
    assert far.ticks["size"].tolist() == [2_000_000_005, 2_000_000_007] * 4
    few = columns("trades_and_quotes", PRICE, (SPARSE, 2, 1, 3), struct.pack("<qQ4H", 5, 0b10100001, 1, 0, 300, 0))
    assert few.ticks["price"].tolist() == [5, 0, 0, 0, 0, 0, 0, 2_995]  # code 0 is 0 here too


def test_room_is_enough_for_the_widest_rows() -> None:
    random = np.random.default_rng(1)
    for n in (1, 2, 3, 7, 8, 9, 255, 256, 257, 300):
        rows = np.frombuffer(random.bytes(64 * n), TICK).copy()
        rows["seq"] = np.sort(random.choice(2**20, n, replace=False).astype(np.uint64) << np.uint64(43))
        rows["instrument_id"] = random.integers(0, 1000, n)
        data = encode(rows, np.zeros(1000, INSTRUMENT_REF), source=1)
        assert len(data) - HEADER.size - listing_bytes(1000) <= room(n)
        assert decode(data).ticks.tobytes() == rows.tobytes()
