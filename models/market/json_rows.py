"""From the texts of many decoded ticks to rows: one compiled conversion and one compiled pass a batch."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.market import fixed_point
from models.market.fixed_point import OK, mantissas, mantissas_at
from models.market.instruments import MONEY_EXPONENT
from models.market.tick import TICK, Action, Flag, Kind, TickArray

# One decoded tick; its shapes and numbers (json_records.Event) stand in lists of their own.
_FIELDS = ("record", "instrument", "rows", "ts_event", "ts_recv", "venue_seq", "ref_id")
EVENT = np.dtype([(name, "<i8") for name in _FIELDS])
pack_event = struct.Struct(f"<{len(_FIELDS)}q").pack

# numba freezes plain ints, not enums
_BOOK, _QUOTE, _FUNDING, _OPEN_INTEREST, _LONG_SHORT = (
    int(kind) for kind in (Kind.BOOK, Kind.QUOTE, Kind.FUNDING, Kind.OPEN_INTEREST, Kind.LONG_SHORT)
)
_ADD, _UPDATE, _DELETE, _LAST = int(Action.ADD), int(Action.UPDATE), int(Action.DELETE), int(Flag.LAST)


class Numbers(NamedTuple):
    """Prices and sizes of n rows, shape (n, 2) each.

    Attributes:
        values: int64, mantissas.
        status: u8, of `fixed_point`; a size below zero is out of range.
        exponents: int8, those that applied.
    """

    values: NDArray[np.int64]
    status: NDArray[np.uint8]
    exponents: NDArray[np.int8]


def convert(
    events: NDArray[np.void], shapes: NDArray[np.uint8], numbers: Sequence[str], exponents: NDArray[np.int8]
) -> Numbers:
    """Mantissas of all rows' prices and sizes.

    Args:
        events: EVENT[k].
        shapes: u8, shape (n, 4): kind, action, side, flags of all events' rows.
        numbers: 2 n decimal strings: price and size of each row.
        exponents: shape (instruments, 2): of prices and sizes, by `instrument`.
    """
    own = _own_exponents(events, shapes, exponents)
    return _numbers(*mantissas(numbers, own.ravel()), own)


def convert_at(
    events: NDArray[np.void],
    shapes: NDArray[np.uint8],
    data: NDArray[np.uint8],
    spans: NDArray[np.int64],
    exponents: NDArray[np.int8],
) -> Numbers:
    """As `convert`, for numbers that lie in `data` at `spans`, shape (2 n, 2)."""
    own = _own_exponents(events, shapes, exponents)
    return _numbers(*mantissas_at(data, spans, own.ravel()), own)


def _own_exponents(
    events: NDArray[np.void], shapes: NDArray[np.uint8], exponents: NDArray[np.int8]
) -> NDArray[np.int8]:
    own = np.empty((len(shapes), 2), np.int8)
    _spread(events, shapes, exponents, own)
    return own


def _numbers(values: NDArray[np.int64], status: NDArray[np.uint8], own: NDArray[np.int8]) -> Numbers:
    values, status = values.reshape(-1, 2), status.reshape(-1, 2)
    status[values[:, 1] < 0, 1] = fixed_point.OUT_OF_RANGE
    return Numbers(values, status, own)


def why_unfit(texts: Sequence[str], numbers: Numbers, start: int = 0) -> tuple[str, str]:
    """Reason and detail for the first number from row `start` on whose status is not OK; `numbers` is of `texts`."""
    status, exponents = numbers.status, numbers.exponents
    at = 2 * start + int(np.flatnonzero(status[start:].ravel())[0])
    code, text = int(status.flat[at]), texts[at]
    if code == fixed_point.OUT_OF_RANGE and at % 2 and text.startswith("-"):
        return "out_of_range", f"size {text[:40]!r} is negative"
    return fixed_point.REASONS[code], fixed_point.describe(text, int(exponents.flat[at]), code)


def rows(
    events: NDArray[np.void],
    shapes: NDArray[np.uint8],
    numbers: Numbers,
    positions: NDArray[np.uint64],
) -> tuple[TickArray, NDArray[np.int64]]:
    """Rows of all events whose numbers are OK; and for each other event its first row in `shapes`, else -1.

    `positions` has the first `seq` of each record.
    """
    ticks = np.zeros(len(shapes), TICK)
    unfit = np.full(len(events), -1, np.int64)
    n = _fill(events, shapes, numbers.values, numbers.status, positions, ticks, unfit)
    return ticks[:n], unfit


@numba.njit(cache=True)
def _spread(
    events: NDArray[np.void], shapes: NDArray[np.uint8], exponents: NDArray[np.int8], own: NDArray[np.int8]
) -> None:
    row = 0
    for event in events:
        for _ in range(event.rows):
            own[row] = exponents[event.instrument]
            if shapes[row, 0] == _OPEN_INTEREST and shapes[row, 2] == 1:
                own[row, 0] = MONEY_EXPONENT
            row += 1


@numba.njit(cache=True)
def _fill(
    events: NDArray[np.void],
    shapes: NDArray[np.uint8],
    values: NDArray[np.int64],
    status: NDArray[np.uint8],
    positions: NDArray[np.uint64],
    ticks: TickArray,
    unfit: NDArray[np.int64],
) -> int:
    n, end = 0, 0
    for k in range(len(events)):
        event = events[k]
        start, end = end, end + event.rows
        if (status[start:end] != OK).any():
            unfit[k] = start
            continue
        first = n
        for row in range(start, end):
            kind, action, side = shapes[row, 0], shapes[row, 1], shapes[row, 2]
            price, size = values[row]
            if size == 0 and kind == _BOOK and action == _ADD:
                continue  # a snapshot's level of quantity 0 is no level
            if size == 0 and side and action == _UPDATE and kind in (_BOOK, _QUOTE):
                action = _DELETE
            tick = ticks[n]
            tick.ts_event, tick.ts_recv = event.ts_event, event.ts_recv
            tick.seq = positions[event.record] + np.uint64(n - first)
            tick.venue_seq = event.venue_seq
            tick.price, tick.size = price, size
            if n == first or kind not in (_FUNDING, _LONG_SHORT):
                tick.ref_id = event.ref_id
            tick.instrument_id = event.instrument
            tick.kind, tick.action, tick.side, tick.flags = kind, action, side, shapes[row, 3]
            n += 1
        ticks[n - 1].flags |= _LAST
    return n
