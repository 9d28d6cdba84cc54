"""Decimal strings and int64 mantissas: `value = mantissa * 10**exponent`, exact both ways, never through a float.

The grammar is `-?digits[.digits]` in ASCII. Zeros beyond the exponent's decimals are fine, other digits there are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from models.errors import TickRefused

MAX = (1 << 63) - 1  # the range is symmetric: -2**63 stays free

OK, BAD_NUMBER, OUT_OF_RANGE = range(3)
REASONS = {BAD_NUMBER: "bad_number", OUT_OF_RANGE: "out_of_range"}

_SEPARATOR, _MINUS, _POINT, _ZERO = (ord(c) for c in "\n-.0")


def mantissas(texts: Sequence[str], exponents: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Convert many decimal strings at once; about 0.1 us each.

    Args:
        texts: n decimal strings.
        exponents: shape (n,), power of ten of each result.

    Returns:
        values: shape (n,), mantissas; 0 where the status is not OK.
        status: shape (n,), OK, BAD_NUMBER (not a decimal) or OUT_OF_RANGE (int64 at this exponent cannot hold it).
    """
    n = len(texts)
    values, status = np.zeros(n, np.int64), np.zeros(n, np.uint8)
    if n and not _convert(_joined(texts), exponents, values, status):
        _convert(_joined([text if "\n" not in text else "" for text in texts]), exponents, values, status)
    return values, status


def mantissas_at(
    data: NDArray[np.uint8], spans: NDArray[np.int64], exponents: NDArray[np.int8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """As `mantissas`, for texts that lie in `data` (uint8) at `spans`, int64, shape (n, 2), ends exclusive."""
    values, status = np.empty(len(spans), np.int64), np.empty(len(spans), np.uint8)
    _convert_at(data, spans, exponents, values, status)
    return values, status


def mantissa(text: str, exponent: int) -> int:
    """Convert one decimal string.

    Raises:
        TickRefused: `bad_number` or `out_of_range`.
    """
    values, status = mantissas([text], np.array([exponent], np.int8))
    if status[0] != OK:
        raise TickRefused(REASONS[int(status[0])], describe(text, exponent, int(status[0])))
    return int(values[0])


def describe(text: str, exponent: int, status: int) -> str:
    """What a status other than OK means for this text, for people; at most 100 characters or so."""
    shown = repr(text if len(text) <= 40 else text[:37] + "...")
    if status == BAD_NUMBER:
        return f"{shown} is not a decimal such as '-12.5'"
    return f"{shown} does not fit int64 with exponent {exponent}"


def _joined(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(texts).encode("ascii", "replace"), np.uint8)


@numba.njit(cache=True)
def _convert(
    data: NDArray[np.uint8], exponents: NDArray[np.int8], values: NDArray[np.int64], status: NDArray[np.uint8]
) -> bool:
    """Walk separated texts; False if there are more of them than values: a text holds a separator."""
    n, k, start = len(values), 0, 0
    for i in range(len(data) + 1):
        if i < len(data) and data[i] != _SEPARATOR:
            continue
        if k == n:
            return False
        values[k], status[k] = _one(data, start, i, exponents[k])
        k += 1
        start = i + 1
    return True


@numba.njit(cache=True, nogil=True)
def _convert_at(
    data: NDArray[np.uint8],
    spans: NDArray[np.int64],
    exponents: NDArray[np.int8],
    values: NDArray[np.int64],
    status: NDArray[np.uint8],
) -> None:
    for k in range(len(spans)):
        values[k], status[k] = _one(data, spans[k, 0], spans[k, 1], exponents[k])


@numba.njit(cache=True)
def _one(data: NDArray[np.uint8], start: int, end: int, exponent: int) -> tuple[np.int64, int]:
    negative = start < end and data[start] == _MINUS
    if negative:
        start += 1
    point = end
    for i in range(start, end):
        if data[i] == _POINT and point == end:
            point = i
        elif data[i] < _ZERO or data[i] > _ZERO + 9:
            return np.int64(0), BAD_NUMBER
    if point == start or point == end - 1:  # no digit before or none after the point
        return np.int64(0), BAD_NUMBER
    value = np.int64(0)
    missing = point - start - exponent  # digits between the last one taken and the mantissa's unit
    for i in range(start, end):
        if i == point:
            continue
        digit = np.int64(data[i]) - _ZERO
        if missing > 0:
            if value > (MAX - digit) // 10:
                return np.int64(0), OUT_OF_RANGE
            value = value * 10 + digit
            missing -= 1
        elif digit:
            return np.int64(0), OUT_OF_RANGE
    while missing > 0 and value:
        if value > MAX // 10:
            return np.int64(0), OUT_OF_RANGE
        value *= 10
        missing -= 1
    return -value if negative else value, OK
