"""Row pages: any rows come back as they went in, and bytes that are no page are refused."""

from __future__ import annotations

import struct
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import CorruptPage
from models.market.facets import N_COLUMNS, N_ROWS, TS_EVENT, TS_RECV, V0
from models.market.row_page import EMPTY_PAGE, decode_rows, encode_pages, encode_rows

INT64 = st.integers(-(2**63), 2**63 - 1)
EXTREMES = st.sampled_from([-(2**63), -(2**63) + 1, -1, 0, 1, 255, 256, 2**63 - 1])
N_SLOTS, HEADS, BASES = 64, 16, 26


@st.composite
def columns(draw: st.DrawFn) -> NDArray[np.int64]:
    """64 numbers: the same one, any, extremes, or ones that take some bytes more or less than another."""
    match draw(st.sampled_from(["constant", "any", "extreme", "near"])):
        case "constant":
            return np.full(N_SLOTS, draw(INT64 | EXTREMES), np.int64)
        case "any":
            return np.random.default_rng(draw(st.integers(0, 2**32))).integers(-(2**63), 2**63 - 1, N_SLOTS)
        case "extreme":
            return np.array(draw(st.lists(EXTREMES, min_size=N_SLOTS, max_size=N_SLOTS)), np.int64)
    rng, span = np.random.default_rng(draw(st.integers(0, 2**32))), 1 << draw(st.integers(0, 62))
    with np.errstate(over="ignore"):
        return rng.integers(0, span, N_SLOTS, endpoint=draw(st.booleans())) + np.int64(draw(INT64))


@st.composite
def states(draw: st.DrawFn) -> NDArray[np.int64]:
    """Rows of a page, some absent; one column may follow another closely, N_ROWS may be 0 in rows that are there."""
    rows = np.array([draw(columns()) for _ in range(N_COLUMNS)]).T.copy()
    if draw(st.booleans()):
        rows[:, TS_RECV] = rows[:, TS_EVENT] + np.arange(N_SLOTS)
        rows[:, V0 + 2] = rows[:, V0] - 1
    if draw(st.booleans()):
        rows[:, N_ROWS] = 0
    there = draw(st.integers(0, 2**N_SLOTS - 1) | st.sampled_from([0, 1, 1 << 63, 2**64 - 1]))
    rows[[not there >> slot & 1 for slot in range(N_SLOTS)]] = 0
    return rows


@settings(max_examples=300, deadline=None)
@given(states(), INT64)
def test_any_rows_come_back(rows: NDArray[np.int64], version: int) -> None:
    body = encode_rows(version, rows)
    found_version, found = decode_rows(body)
    assert found_version == version
    assert found.tolist() == rows.tolist()
    for damaged in (body[:-1], body + b"\0", body[: BASES + 8 * N_COLUMNS - 1], b""):
        with pytest.raises(CorruptPage, match=f"a row page of {len(damaged)} bytes"):
            decode_rows(damaged)


@settings(max_examples=50, deadline=None)
@given(st.lists(states(), min_size=1, max_size=6), st.data())
def test_many_pages_in_one_call_are_those_of_single_calls(pages: list[NDArray[np.int64]], data: st.DataObject) -> None:
    """A hundred or so times: more than what goes through the buffer at once."""
    rows = np.stack([np.concatenate(pages), np.concatenate(pages[::-1])])
    where = st.tuples(st.integers(0, 1), st.integers(0, len(pages) - 1))
    wanted = np.array(data.draw(st.lists(where, min_size=1, max_size=12))).repeat(10, axis=0)
    versions = np.arange(len(wanted)) - 3
    bodies = encode_pages(rows, wanted[:, 0], wanted[:, 1], versions)
    assert bodies == [
        encode_rows(version, rows[plane, page * N_SLOTS : (page + 1) * N_SLOTS])
        for version, (plane, page) in zip(versions.tolist(), wanted.tolist(), strict=True)
    ]


def test_no_pages_are_no_bodies() -> None:
    none = np.empty(0, np.int64)
    assert encode_pages(np.zeros((0, 64, N_COLUMNS), np.int64), none, none, none) == []


def test_rows_take_the_bytes_that_they_differ_by() -> None:
    rows = np.zeros((N_SLOTS, N_COLUMNS), np.int64)
    assert encode_rows(0, rows) == EMPTY_PAGE
    rows[7] = range(1, 11)
    assert len(encode_rows(0, rows)) == len(EMPTY_PAGE), "a row alone is its bases"
    slots = np.arange(20, 40)
    rows[:] = 0
    rows[slots, TS_EVENT] = 1_760_000_000 * 10**9 + slots * 2**30  # spread over 2**35: 5 bytes
    rows[slots, TS_RECV] = rows[slots, TS_EVENT] + slots * 2**12  # 3 bytes as differences
    rows[slots, N_ROWS] = 1
    assert len(encode_rows(0, rows)) == len(EMPTY_PAGE) + 20 * (5 + 3)


def page(there: int, heads: list[int], n_codes: int) -> bytes:
    return struct.pack("<qQ10B", 1, there, *heads) + bytes(8 * N_COLUMNS + n_codes)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (page(3, [9] + 9 * [0], 18), "column head"),
        (page(3, [15] + 9 * [0], 30), "column head"),
        (page(3, [1, 0x11] + 8 * [0], 4), "column head"),  # a difference from itself
        (page(3, [1, 0x51] + 8 * [0], 4), "column head"),  # from a column that comes later
        (page(3, 9 * [0] + [0xA1], 2), "column head"),  # from one that is none
        (page(3, [1] + 9 * [0], 1), "ends early or has bytes left over"),
        (page(7, [1] + 9 * [0], 2), "ends early or has bytes left over"),
        (page(0, [8] + 9 * [0], 1), "ends early or has bytes left over"),
        (bytes(8 + 64 * 80), "ends early or has bytes left over"),
    ],
)
def test_bytes_that_are_no_page_are_refused(body: bytes, what: str) -> None:
    with pytest.raises(CorruptPage, match=f"a row page of {len(body)} bytes .*{what}"):
        decode_rows(body)


@settings(max_examples=200, deadline=None)
@given(states(), st.data())
def test_a_changed_head_is_refused_or_read_as_other_numbers(rows: NDArray[np.int64], data: st.DataObject) -> None:
    """Never by what lies behind the body in memory."""
    body = bytearray(encode_rows(5, rows))
    body[data.draw(st.integers(0, BASES - 1))] ^= data.draw(st.integers(1, 255))
    results: list[Any] = []
    for behind in (b"\0" * 16, b"\xff" * 16):
        try:
            results.append(decode_rows(cast(bytes, memoryview(bytes(body) + behind)[: len(body)]))[1].tolist())
        except CorruptPage as exc:
            results.append(str(exc))
    assert results[0] == results[1]
