"""Blocks: the rows of a page, column by column, in as many bytes as its numbers differ by.

Of n rows (a multiple of 64) of k numbers, all little-endian:

| bytes | |
|---|---|
| n / 8 | bit mask of the rows that are there, u64 by u64; the others are zeros and take no bytes |
| k | a byte a column: bytes a code (0..8), << 4 the earlier column that it is a difference from (0 = none) |
| 8 k | base of each column i64 |
| | column after column, row after row: codes, unsigned; value = base + code, + that column's, modulo 2**64 |

Source of codes above a base: Goldstein, Ramakrishnan, Shaft, Compressing relations and indexes (ICDE 1998). Bytes
instead of bits, because they are cheap to write and lz4 follows in the changelog; times often take 5, versions 3. All
kernels stand in this file, since numba's cache on disk looks only at the file of the function that is called. Indices
are unsigned: numba looks at the sign of others each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # numba's own, without stubs
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from models.errors import CorruptPage

_BATCH_BYTES = 1 << 18  # blocks are made in this much, which stays in the second-level cache, and copied from there
_0, _1, _4, _8, _64, _WIDTH_BITS = (np.uint64(number) for number in (0, 1, 4, 8, 64, 15))
_LENGTH, _HEAD = -1, -2
_FAULTS = {_LENGTH: "ends early or has bytes left over", _HEAD: "has an unknown column head"}

_kernel = njit(cache=True, nogil=True)


def encode_blocks(
    numbers: NDArray[np.int64], firsts: NDArray[np.int64], *, n_rows: int, near: NDArray[np.uint64],
    versions: NDArray[np.int64],
) -> list[bytes]:  # fmt: skip
    """Blocks, each behind its version i64; about 1 us for one of 64 rows of 10.

    Args:
        numbers: of all blocks, one-dimensional, contiguous.
        firsts: where the rows of each block begin there.
        n_rows: of a block, a multiple of 64, at most 512.
        near: shape (k,), k <= 15: the earlier column near which each may lie, 0 = none; taken where it saves bytes.
        versions: one for each block.
    """
    out, ends = np.empty(_BATCH_BYTES, np.uint8), np.empty(len(firsts), np.int64)
    first = firsts.astype(np.uint64)
    bodies, done = list[bytes](), 0
    while done < len(first):
        begin, done = done, _encode(numbers, first, n_rows, near, versions, done, out, ends)
        stops = ends[begin:done].tolist()
        data = out[: stops[-1]].tobytes()
        bodies += [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    return bodies


def decode_block(body: bytes, what: str, *, n_rows: int, k: int) -> tuple[int, NDArray[np.int64]]:
    """Version and rows, shape (n_rows, k), of a body that `encode_blocks` made.

    Raises:
        CorruptPage: the bytes are no such block; the message begins with `what`.
    """
    rows = np.zeros((n_rows, k), np.int64)
    version, fault = _decode(np.frombuffer(body, np.uint8), n_rows, k, rows.reshape(-1))
    if fault:
        raise CorruptPage(f"{what} of {len(body)} bytes {_FAULTS[fault]}")
    return version, rows


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
def _encode(numbers, firsts, n_rows, near, versions, begin, out, ends):  # type: ignore[no-untyped-def]
    """Blocks from `begin` on as long as there is room in `out`; returns the first that is left.

    Args:
        ends: becomes where each block ends in `out`.
    """
    room, k = np.uint64(n_rows), np.uint64(near.shape[0])
    columns = np.empty((near.shape[0] + 1) * n_rows, np.int64)
    differences = k * room  # behind the columns
    most = 8 + n_rows // 8 + 9 * near.shape[0] + 8 * near.shape[0] * n_rows + 8  # the last code is written as 8 bytes
    at = _0
    for block in range(begin, firsts.shape[0]):
        if out.shape[0] - np.int64(at) < most:
            return block
        _store(out, at, np.uint64(versions[block]))
        at += _8
        n, row = _0, firsts[block]
        for _ in range(room // _64):
            there = _0
            for bit in range(_64):
                some = np.int64(0)
                for c in range(k):
                    value = numbers[row + c]
                    some |= value
                    columns[c * room + n] = value
                there |= np.uint64(some != 0) << bit
                n += np.uint64(some != 0)
                row += k
            _store(out, at, there)
            at += _8
        heads, bases = at, at + k
        at = bases + _8 * k
        for c in range(k):
            values, base, highest = c * room, np.int64(0), np.int64(0)
            if n:
                base = highest = columns[values]
            for i in range(n):
                base, highest = min(base, columns[values + i]), max(highest, columns[values + i])
            width, beside = _bytes_of(np.uint64(highest) - np.uint64(base)), _0
            if near[c] and width > _1:
                other, low, high = near[c] * room, np.int64(2**63 - 1), np.int64(-(2**63))
                for i in range(n):
                    difference = columns[values + i] - columns[other + i]
                    columns[differences + i] = difference
                    low, high = min(low, difference), max(high, difference)
                narrow = _bytes_of(np.uint64(high) - np.uint64(low))
                if narrow < width:
                    values, base, width, beside = differences, low, narrow, near[c]
            out[heads + c] = width | beside << _4
            _store(out, bases + c * _8, np.uint64(base))
            if width:
                for i in range(n):
                    _store(out, at, np.uint64(columns[values + i]) - np.uint64(base))
                    at += width
        ends[block] = at
    return firsts.shape[0]


@_kernel
def _decode(data, n_rows, k, rows):  # type: ignore[no-untyped-def]
    """Fill `rows`, which is all zeros, unless the bytes are no block; returns the version, and 0 or a fault."""
    room, width_of_rows = np.uint64(n_rows), np.uint64(k)
    heads = _8 + room // _8
    bases = heads + width_of_rows
    at = bases + _8 * width_of_rows
    if np.uint64(data.shape[0]) < at:
        return np.int64(0), _LENGTH
    places, n = np.empty(n_rows, np.uint64), _0
    for word in range(room // _64):
        there = _load(data, _8 + word * _8)
        for bit in range(_64):
            places[n] = (word * _64 + bit) * width_of_rows
            n += there >> bit & _1
    size = _0
    for c in range(width_of_rows):
        width, near = np.uint64(data[heads + c]) & _WIDTH_BITS, np.uint64(data[heads + c]) >> _4
        if width > _8 or (near and near >= c):
            return np.int64(0), _HEAD
        size += width * n
    if at + size != np.uint64(data.shape[0]):
        return np.int64(0), _LENGTH
    for c in range(width_of_rows):
        width, near = np.uint64(data[heads + c]) & _WIDTH_BITS, np.uint64(data[heads + c]) >> _4
        base = _load(data, bases + c * _8)
        if width:
            shift = _64 - width * _8  # of the 8 bytes that end where the code does; before the first lie the bases
            for i in range(n):
                at += width
                rows[places[i] + c] = np.int64(base + (_load(data, at - _8) >> shift))
        else:
            for i in range(n):
                rows[places[i] + c] = np.int64(base)
        if near:
            for i in range(n):
                rows[places[i] + c] += rows[places[i] + near]
    return np.int64(_load(data, _0)), 0
