"""Row pages: the state rows of 64 slots, column by column, in as many bytes as the numbers of the page differ by.

| at | bytes | |
|---|---|---|
| 0 | 8 | source version i64 |
| 8 | 8 | bit mask u64 of the rows that are there; the others are ten zeros and take no bytes |
| 16 | 10 | a byte a column: bytes a code (0..8), << 4 the earlier column that it is a difference from (0 = none) |
| 26 | 80 | base of each column i64 |
| 106 | | column after column, row after row: codes, unsigned; value = base + code, + that column's, modulo 2**64 |

All little-endian. Source of codes above a base: Goldstein, Ramakrishnan, Shaft, Compressing relations and indexes (ICDE
1998). Bytes instead of bits, because they are cheap to write and lz4 follows in the changelog; times often take 5,
versions 3. All kernels stand in this file, since numba's cache on disk looks only at the file of the function that is
called. Indices are unsigned: numba looks at the sign of others each time.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # numba's own, without stubs
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from models.errors import CorruptPage
from models.market.conflate import PAGE_SLOTS
from models.market.facets import N_COLUMNS, TS_EVENT, TS_RECV, V0

_VERSION = struct.Struct("<q")
_HEADS, _BASES = 16, 26
_CODES = _BASES + 8 * N_COLUMNS
_MOST = _CODES + 8 * PAGE_SLOTS * N_COLUMNS + 8  # the last code is written as 8 bytes
_BATCH_BYTES = 1 << 18  # pages are encoded into this much, which stays in the second-level cache, and copied from there

EMPTY_PAGE = bytes(_CODES)  # of version 0, without rows

_OK, _LENGTH, _HEAD = range(3)
_FAULTS = {_LENGTH: "ends early or has bytes left over", _HEAD: "has an unknown column head"}

# What a column is tried as a difference from, 0 = nothing: a bar's prices and a quote's ask lie near the first price.
_NEAR = np.zeros(N_COLUMNS, np.uint64)
_NEAR[TS_RECV] = _NEAR[V0 + 5] = TS_EVENT
_NEAR[V0 + 1 : V0 + 4] = V0

_0, _1, _8, _64 = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(64)
_SLOTS, _WIDTH, _AT_HEADS, _AT_BASES, _AT_CODES = (
    np.uint64(number) for number in (PAGE_SLOTS, N_COLUMNS, _HEADS, _BASES, _CODES)
)
_DIFFERENCES = np.uint64(N_COLUMNS * PAGE_SLOTS)  # where they are in `columns`, behind the columns themselves

_kernel = njit(cache=True, nogil=True)


def encode_pages(
    rows: NDArray[np.int64], planes: NDArray[np.int64], numbers: NDArray[np.int64], versions: NDArray[np.int64]
) -> list[bytes]:
    """The bodies of n pages, 1 to 2 us each.

    Args:
        rows: shape (planes, slots, 10), contiguous, as in `models.market.conflate.Rows`.
        planes, numbers, versions: shape (n,): where each page is, and its source version.
    """
    firsts = ((planes * rows.shape[1] + numbers * PAGE_SLOTS) * N_COLUMNS).astype(np.uint64)
    out, ends = np.empty(_BATCH_BYTES, np.uint8), np.empty(len(firsts), np.int64)
    flat, bodies, done = rows.reshape(-1), list[bytes](), 0
    while done < len(firsts):
        begin, done = done, _encode(flat, firsts, versions, done, out, ends)
        stops = ends[begin:done].tolist()
        data = out[: stops[-1]].tobytes()
        bodies += [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    return bodies


def encode_rows(version: int, rows: NDArray[np.int64]) -> bytes:
    """One page; `rows` has shape (64, 10)."""
    first = np.zeros(1, np.int64)
    return encode_pages(np.ascontiguousarray(rows)[np.newaxis], first, first, np.array([version]))[0]


def decode_rows(body: bytes) -> tuple[int, NDArray[np.int64]]:
    """Source version and rows, shape (64, 10). Raises: CorruptPage."""
    rows = np.zeros((PAGE_SLOTS, N_COLUMNS), np.int64)
    if fault := _decode(np.frombuffer(body, np.uint8), rows.reshape(-1)):
        raise CorruptPage(f"a row page of {len(body)} bytes {_FAULTS[fault]}")
    return _VERSION.unpack_from(body)[0], rows


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(64).as_pointer())


@intrinsic
def _load(typing_context, array, at):  # type: ignore[no-untyped-def]
    """The 8 bytes from `at` (uint64) on as uint64; all of them lie in the array."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(_address(context, builder, signature.args[0], *args), align=1)

    return types.uint64(array, types.uint64), codegen


@intrinsic
def _store(typing_context, array, at, word):  # type: ignore[no-untyped-def]
    """Write a uint64 as the 8 bytes from `at` (uint64) on; all of them lie in the array."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _address(context, builder, signature.args[0], args[0], args[1]), align=1)
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint64), codegen


@_kernel
def _bytes_of(span):  # type: ignore[no-untyped-def]
    """How many bytes a number takes; without branches, which nobody could foretell."""
    n = _0
    for _ in range(8):
        n += np.uint64(span != _0)
        span >>= _8
    return n


@_kernel
def _encode(rows, firsts, versions, begin, out, ends):  # type: ignore[no-untyped-def]
    """Pages from `begin` on as long as there is room in `out`; returns the first that is left.

    Args:
        rows: all of them as one list of numbers.
        firsts: uint64, where each page begins in it.
        ends: becomes where each page ends in `out`.
    """
    columns = np.empty((N_COLUMNS + 1) * PAGE_SLOTS, np.int64)
    at = _0
    for page in range(begin, firsts.shape[0]):
        if out.shape[0] - np.int64(at) < _MOST:
            return page
        n, there = _0, _0
        for slot in range(_SLOTS):
            row, some = firsts[page] + slot * _WIDTH, np.int64(0)
            for c in range(_WIDTH):
                value = rows[row + c]
                some |= value
                columns[c * _SLOTS + n] = value
            there |= np.uint64(some != 0) << slot
            n += np.uint64(some != 0)
        head = at
        _store(out, head, np.uint64(versions[page]))
        _store(out, head + _8, there)
        at += _AT_CODES
        for c in range(_WIDTH):
            values, base, highest = c * _SLOTS, np.int64(0), np.int64(0)
            if n:
                base = highest = columns[values]
            for i in range(n):
                base, highest = min(base, columns[values + i]), max(highest, columns[values + i])
            width, near = _bytes_of(np.uint64(highest) - np.uint64(base)), _NEAR[c]
            if near and width > _1:
                beside, low, high = near * _SLOTS, np.int64(2**63 - 1), np.int64(-(2**63))
                for i in range(n):
                    difference = columns[values + i] - columns[beside + i]
                    columns[_DIFFERENCES + i] = difference
                    low, high = min(low, difference), max(high, difference)
                narrow = _bytes_of(np.uint64(high) - np.uint64(low))
                if narrow < width:
                    values, base, width = _DIFFERENCES, low, narrow
                else:
                    near = _0
            else:
                near = _0
            out[head + _AT_HEADS + c] = width | near << np.uint64(4)
            _store(out, head + _AT_BASES + c * _8, np.uint64(base))
            if width:
                for i in range(n):
                    _store(out, at, np.uint64(columns[values + i]) - np.uint64(base))
                    at += width
        ends[page] = at
    return firsts.shape[0]


@_kernel
def _decode(data, rows):  # type: ignore[no-untyped-def]
    """Fill `rows`, which is all zeros, unless the bytes are no page; returns `_OK` or a fault."""
    if data.shape[0] < _CODES:
        return _LENGTH
    there, n = _load(data, _8), _0
    places = np.empty(PAGE_SLOTS, np.uint64)
    for slot in range(_SLOTS):
        places[n] = slot * _WIDTH
        n += there >> slot & _1
    size = _0
    for c in range(_WIDTH):
        width, near = np.uint64(data[_AT_HEADS + c]) & np.uint64(15), np.uint64(data[_AT_HEADS + c]) >> np.uint64(4)
        if width > _8 or (near and near >= c):
            return _HEAD
        size += width * n
    if _AT_CODES + size != np.uint64(data.shape[0]):
        return _LENGTH
    at = _AT_CODES
    for c in range(_WIDTH):
        width, near = np.uint64(data[_AT_HEADS + c]) & np.uint64(15), np.uint64(data[_AT_HEADS + c]) >> np.uint64(4)
        base = _load(data, _AT_BASES + c * _8)
        if width:
            shift = _64 - width * _8  # the 8 bytes that end where the code does: the page's head lies before the first
            for i in range(n):
                at += width
                rows[places[i] + c] = np.int64(base + (_load(data, at - _8) >> shift))
        else:
            for i in range(n):
                rows[places[i] + c] = np.int64(base)
        if near:
            for i in range(n):
                rows[places[i] + c] += rows[places[i] + near]
    return _OK
