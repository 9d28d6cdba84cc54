"""Frames: any rows come back, the encoder's choice is never larger than plain rows, damaged bytes are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import CorruptFrame
from models.market.columns import room
from models.market.frame import HEADER, decode, decode_header, encode
from models.market.instruments import INSTRUMENT_REF
from models.market.listing import listing_bytes
from models.market.tick import TICK, TickArray

INT64 = np.iinfo(np.int64)
NUMBERS = ("ts_event", "ts_recv", "venue_seq", "price", "size", "ref_id")
SHAPES = ("kind", "action", "side", "flags")

# A column is drawn as a rule and a seed: values come from NumPy, which is what makes thousands of rows affordable.
RULES = st.one_of(
    st.tuples(st.just("constant"), st.sampled_from([0, 1, -1, 10**18, INT64.min, INT64.max])),
    st.tuples(st.just("range"), st.sampled_from([1, 200, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**62, 2**63])),
    st.tuples(st.just("decimals"), st.integers(0, 12)),
    st.tuples(st.just("extremes"), st.just(0)),
    st.tuples(st.just("by_instrument"), st.sampled_from([1, 250, 70_000, 2**33])),
)


def numbers(rule: tuple[str, int], instruments: np.ndarray, random: np.random.Generator) -> np.ndarray:
    how, size = rule
    n = len(instruments)
    match how:
        case "constant":
            return np.full(n, size)
        case "range":
            low = int(random.integers(INT64.min, INT64.max - size + 1, endpoint=True)) if random.random() < 0.5 else 0
            return low + random.integers(0, min(size, INT64.max - max(low, 0)), n, endpoint=True)
        case "decimals":
            return random.integers(-(10**6), 10**6, n) * 10**size
        case "extremes":
            return random.choice(np.array([INT64.min, INT64.min + 1, -1, 0, 1, INT64.max - 1, INT64.max]), n)
        case _:
            bases = random.integers(-(2**61), 2**61, int(instruments.max(initial=0)) + 1)
            return bases[instruments] + random.integers(0, size, n)


@st.composite
def frames(draw: st.DrawFn, most: int = 400) -> tuple[TickArray, np.ndarray]:
    """Rows (any values in every field) and the instruments they list, all of it from one seed and a few rules."""
    n, k = draw(st.integers(1, most)), draw(st.sampled_from([0, 1, 2, 3, 60]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = np.zeros(n, TICK)
    rows["instrument_id"] = random.integers(0, k, n) if k else -1
    if draw(st.booleans()):
        rows["instrument_id"][random.random(n) < 0.1] = -1  # control rows
    for name in NUMBERS:
        rows[name] = numbers(draw(RULES), rows["instrument_id"], random)
        if draw(st.booleans()):
            rows[name][random.random(n) < draw(st.sampled_from([0.3, 0.9, 0.99]))] = 0
    first = draw(st.sampled_from([0, 1, 2**53, 2**63 - 20, 2**63, 2**64 - 1 - 401 * 10**4]))
    rows["seq"] = np.uint64(first) + np.cumsum(random.integers(1, draw(st.sampled_from([2, 10**4])), n)).astype("u8")
    n_shapes = draw(st.sampled_from([1, 2, 4, 256]))
    for name in SHAPES:
        rows[name] = random.integers(0, n_shapes, n)
    refs = np.zeros(k, INSTRUMENT_REF)
    refs["hash"] = random.integers(1, 2**64, k, np.uint64)
    refs["price_exp"], refs["size_exp"] = random.integers(-18, 18, k), random.integers(-18, 18, k)
    return rows, refs


@settings(max_examples=400, deadline=None)
@given(frames(), st.integers(0, 2**64 - 1), st.booleans())
def test_any_rows_come_back_as_they_were(frame: tuple[TickArray, np.ndarray], source: int, dense: bool) -> None:
    rows, refs = frame
    data = encode(rows, refs, source=source, prev_position=source, dense=dense, due_ns=INT64.min, sent_ns=INT64.max)
    assert len(data) <= HEADER.size + listing_bytes(len(refs)) + room(len(rows))
    back = decode(data)
    assert back.ticks.tobytes() == rows.tobytes()
    assert back.instruments.tobytes() == refs.tobytes()
    ends = int(rows["seq"][0]), int(rows["seq"][-1])
    columns_at = HEADER.size + listing_bytes(len(refs))
    assert back.header == (len(rows), len(refs), source, *ends, source, INT64.min, INT64.max, dense, columns_at)
    assert back.header == decode_header(data)


def refused_or_whole(data: bytes) -> bool:
    """Whether bytes were refused; if not, what came back keeps the promises that the compiled readers rely on."""
    try:
        header, refs, rows = decode(data)
    except CorruptFrame:
        return True
    assert len(rows) == header.n_ticks
    assert len(refs) == header.n_instruments
    assert rows["instrument_id"].min() >= -1
    assert rows["instrument_id"].max() < len(refs)
    seq = rows["seq"]
    assert (seq[1:] > seq[:-1]).all()
    assert (int(seq[0]), int(seq[-1])) == (header.first_position, header.last_position)
    return False


@settings(max_examples=60, deadline=None)
@given(frames(most=40), st.data())
def test_cut_bytes_are_refused(frame: tuple[TickArray, np.ndarray], data: st.DataObject) -> None:
    whole = encode(*frame, source=1)
    for cut in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=40)):
        assert refused_or_whole(whole[:cut])


def layout(whole: bytes) -> list[int]:
    """Where numbers stand that decide about lengths and look-ups: the header's and the heads of the columns."""
    header = decode_header(whole)
    at = header.columns_at
    found = list(range(16))
    for column in range(9):
        found += range(at, at + 8)
        codec, width, entries = whole[at], whole[at + 1], int.from_bytes(whole[at + 4 : at + 8], "little")
        if codec == 6:  # sparse: a base, flags, codes
            n_flags = -(-header.n_ticks // 64) * 8
            found += range(at + 16, at + 16 + n_flags)
            at += 16 + n_flags + -(-width * entries // 8) * 8
        else:
            entry_bytes = 4 if column == 8 else 8
            at += 8 + -(-entries * entry_bytes // 8) * 8 + -(-width * header.n_ticks // 8) * 8
    return found


@settings(max_examples=150, deadline=None)
@given(frames(most=60), st.integers(0, 2**32))
def test_mutated_bytes_are_refused_or_give_rows_that_keep_the_promises(
    frame: tuple[TickArray, np.ndarray], seed: int
) -> None:
    whole = encode(*frame, source=1)
    random = np.random.default_rng(seed)
    heads = layout(whole)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            at = int(random.choice(heads)) if random.random() < 0.7 else int(random.integers(len(whole)))
            damaged[at] = random.choice([0, 1, 2, 3, 4, 8, 9, 10, 127, 128, 254, 255, random.integers(256)])
        if random.random() < 0.2:
            damaged = damaged[: random.integers(len(damaged))] + random.bytes(random.integers(30))
        refused_or_whole(bytes(damaged))


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 136, 137, 400])
def test_random_bytes_behind_a_good_magic_are_refused(n: int) -> None:
    random = np.random.default_rng(n)
    for _ in range(300):
        assert refused_or_whole((b"MPF1\x02\x00\x09\x00" + random.bytes(n))[:n])
