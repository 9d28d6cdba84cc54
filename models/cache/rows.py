"""The 80-byte row that a facet has in Redis and in a reader's memory, and the dict that people see of it.

`version i64 big-endian · ts_event i64 · ts_recv i64 · v0..v5 6 x i64 · price_exp i8 · size_exp i8 · facet u8 ·
5 bytes 0`. The version is big-endian like every version in Redis; all else is little-endian, so that NumPy writes it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.market import facets
from models.market.decimals import decimal_text
from models.market.instruments import MONEY_EXPONENT

ROW_BYTES = 80
_ROW = struct.Struct("<8q2bB5x")  # what follows the version
_EXPONENTS_AT, _FACET_AT, _AGE_AT = 64, 66, 67  # behind the version
_EXPONENTS = struct.Struct("<2b")

Value = dict[str, Any]  # as people see it: decimal strings, instants as integers of ns


class Row(NamedTuple):
    """One row, unpacked; mantissas and exponents as in the frame it came from."""

    version: int
    ts_event_ns: int
    ts_recv_ns: int
    values: tuple[int, ...]  # v0..v5
    price_exp: int
    size_exp: int
    facet: int


def pack_rows(
    state: NDArray[np.int64], price_exp: NDArray[np.int8], size_exp: NDArray[np.int8], facet: NDArray[np.uint8]
) -> bytes:
    """Pack m state rows into m * 80 bytes.

    Args:
        state: int64[m, 10], the columns of docs/wire.md 'Last values' (`n` is not stored).
        price_exp, size_exp: int8[m], the instruments' exponents.
        facet: uint8[m], facet numbers 0..14.
    """
    words = np.empty((len(state), ROW_BYTES // 8), "<i8")
    words[:, 0] = state[:, facets.VERSION].byteswap()
    words[:, 1:3] = state[:, facets.TS_EVENT : facets.TS_RECV + 1]
    words[:, 3:9] = state[:, facets.V0 : facets.V0 + facets.N_VALUES]
    tail = words[:, 9:].view(np.uint8)
    tail[:, 0] = price_exp.view(np.uint8)
    tail[:, 1] = size_exp.view(np.uint8)
    tail[:, 2] = facet
    tail[:, 3:] = 0
    return words.tobytes()


def unpack_row(data: bytes) -> Row | None:
    """Read one row; None for bytes that are no row (such an entry is a miss, not an error)."""
    if len(data) != ROW_BYTES or data[_FACET_AT + 8] >= facets.N_ROW_FACETS:
        return None
    return unpack_body(int.from_bytes(data[:8], "big"), data[8:])


def row_version(data: bytes, facet: int) -> int | None:
    """The version of a row of this facet; None for bytes that are no such row."""
    if len(data) != ROW_BYTES or data[_FACET_AT + 8] != facet or facet >= facets.N_ROW_FACETS:
        return None
    return int.from_bytes(data[:8], "big")


def unpack_body(version: int, body: bytes) -> Row:
    """The row of this version whose other 72 bytes are these."""
    ts_event, ts_recv, *values, price_exp, size_exp, facet = _ROW.unpack(body)
    return Row(version, ts_event, ts_recv, tuple(values), price_exp, size_exp, facet)


def carried_facet(body: bytes) -> int:
    """Facet number of a row that an invalidation carries, `NO_ROW` if it says that there is none."""
    return body[_FACET_AT]


def carried_version(body: bytes, to_version: int) -> int:
    """Version of a row that an invalidation up to `to_version` carries: its last 5 bytes tell how much older it is."""
    return to_version - int.from_bytes(body[_AGE_AT:], "little")


def carrier_version(body: bytes, version: int) -> int:
    """Up to which version a record says that carries this row of `version`: turns `carried_version` round."""
    return version + int.from_bytes(body[_AGE_AT:], "little")


def as_people_see(row: Row) -> Value:
    """The row's fields by name. A side that is empty or a number that was never told is None."""
    return _FORMS[row.facet](row)


def shown_bytes(facet: int, body: bytes) -> int:
    """What a row's 72 bytes and the dict of it take on 64-bit CPython 3.11, rather too much than too little.

    Args:
        body: the row behind its version; empty = not known yet.
    """
    # The exponents are the facets' own for good, so that a row that takes another's place takes no more.
    longest = max(abs(exp) for exp in _EXPONENTS.unpack_from(body, _EXPONENTS_AT)) if body else 0
    fixed, n_texts = _TAKES[facet]
    return _BODY_BYTES + fixed + n_texts * (_TEXT_BYTES + longest)


def _told(mantissa: int, exponent: int) -> str | None:
    return decimal_text(mantissa, exponent) if mantissa else None


_SIDES = (None, "buy", "sell")


def _trade(row: Row) -> Value:
    price, size, side = row.values[:3]
    return {
        "price": decimal_text(price, row.price_exp),
        "quantity": decimal_text(size, row.size_exp),
        "side": _SIDES[side] if 0 <= side < 3 else None,
        "ts_ns": row.ts_event_ns,
    }


def _quote(row: Row) -> Value:
    bid, bid_size, ask, ask_size = row.values[:4]
    # A price may be 0 or negative (spreads, power); a side is empty when nothing is offered there.
    return {
        "bid_price": decimal_text(bid, row.price_exp) if bid_size else None,
        "bid_quantity": _told(bid_size, row.size_exp),
        "ask_price": decimal_text(ask, row.price_exp) if ask_size else None,
        "ask_quantity": _told(ask_size, row.size_exp),
        "ts_ns": row.ts_event_ns,
    }


def _funding(row: Row) -> Value:
    rate, mark, index, next_funding_ns = row.values[:4]
    return {
        "funding_rate": decimal_text(rate, row.price_exp),
        "mark_price": _told(mark, row.price_exp),
        "index_price": _told(index, row.price_exp),
        "next_funding_ts_ns": next_funding_ns or None,
        "ts_ns": row.ts_event_ns,
    }


def _open_interest(row: Row) -> Value:
    return {
        "open_interest_value": decimal_text(row.values[0], row.size_exp),
        "open_interest_usd": _told(row.values[1], MONEY_EXPONENT),
        "ts_ns": row.ts_event_ns,
    }


def _volatility(row: Row) -> Value:
    return {"volatility_index": decimal_text(row.values[0], row.price_exp), "ts_ns": row.ts_event_ns}


def _long_short(row: Row) -> Value:
    long, short, ratio, period_s = row.values[:4]
    return {
        "long_ratio": decimal_text(long, row.price_exp),
        "short_ratio": decimal_text(short, row.price_exp),
        "long_short_ratio": decimal_text(ratio, row.price_exp),
        "period_s": period_s or None,
        "ts_ns": row.ts_event_ns,
    }


def _bar(row: Row) -> Value:
    opened, high, low, close, volume, start_ns = row.values
    return {
        "open": decimal_text(opened, row.price_exp),
        "high": decimal_text(high, row.price_exp),
        "low": decimal_text(low, row.price_exp),
        "close": decimal_text(close, row.price_exp),
        "volume": decimal_text(volume, row.size_exp),
        "start_ns": start_ns,
    }


_FORMS: tuple[Callable[[Row], Value], ...] = (
    _trade,
    _quote,
    _funding,
    _open_interest,
    _trade,
    _volatility,
    _long_short,
    _long_short,
    *[_bar] * len(facets.BAR_INTERVALS_S),
)

# By facet: the dict with its instants, and the texts in it. tests/unit/test_memory.py holds them to tracemalloc.
_TAKES: tuple[tuple[int, int], ...] = (
    (232, 2),
    (232, 4),
    (264, 3),
    (232, 2),
    (232, 2),
    (232, 1),
    (264, 3),
    (264, 3),
    *[(320, 5)] * len(facets.BAR_INTERVALS_S),
)
_BODY_BYTES = 112  # with the object's head
_TEXT_BYTES = 71  # of a number with exponent 0: the object's head, 19 digits, a sign, a point
