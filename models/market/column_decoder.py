"""The columns of a frame (`models.market.columns`) into rows.

The bytes are not trusted: all heads are walked over first, and no value is read before the whole layout is known to lie
inside the bytes.
"""

from __future__ import annotations

import numpy as np

from models.market.columns import (
    BAD_CODEC,
    BAD_INDEX,
    CONSECUTIVE,
    CONSTANT,
    DICTIONARY,
    FRAME_BASE,
    HEAD_BYTES,
    INSTRUMENT,
    INSTRUMENT_BASE,
    LOW_32,
    MAX_POW10,
    N_COLUMNS,
    OK,
    RAW,
    SEQ,
    SHAPE,
    SHORT,
    SPARSE,
    UNORDERED,
    flag_bytes,
    kernel,
    padded,
)


@kernel
def _read_head(data, at):  # type: ignore[no-untyped-def]
    """Codec, width, pow10 and entries of the column at `at`."""
    return (
        np.int64(data[at]),
        np.int64(data[at + 1]),
        np.int64(data[at + 2]),
        np.int64(data[at + 4 : at + 8].view(np.uint32)[0]),
    )


@kernel
def _find_columns(data, n, starts):  # type: ignore[no-untyped-def]
    """Where each column begins; False unless all of them fill the bytes exactly."""
    at = np.int64(0)
    for c in range(N_COLUMNS):
        if at + HEAD_BYTES > data.shape[0]:
            return False
        starts[c] = at
        codec, width, _, entries = _read_head(data, at)
        if codec == SPARSE:
            at += HEAD_BYTES + 8 + flag_bytes(n) + padded(width * entries)
        else:
            at += HEAD_BYTES + padded((4 if c == SHAPE else 8) * entries) + padded(width * n)
    return at == data.shape[0]


@kernel
def _fill(codes, unit, bases, grouped, out, c):  # type: ignore[no-untyped-def]
    if grouped:
        for i in range(codes.shape[0]):
            code = np.uint64(codes[i])
            out[i, c] = np.int64(bases[out[i, 7] & LOW_32] + (code - np.uint64(1)) * unit) if code else 0
    else:
        first = bases[0] - unit  # code 1 is the base itself
        for i in range(codes.shape[0]):
            code = np.uint64(codes[i])
            out[i, c] = np.int64(first + code * unit) if code else 0


@kernel
def _ones(word):  # type: ignore[no-untyped-def]
    """Bits of a word that are 1. Source: Warren, Hacker's Delight (2nd ed.), section 5-1."""
    word -= word >> np.uint64(1) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + (word >> np.uint64(2) & np.uint64(0x3333333333333333))
    word = word + (word >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64(word * np.uint64(0x0101010101010101) >> np.uint64(56))


@kernel
def _count_flags(flags, n):  # type: ignore[no-untyped-def]
    """How many of n rows have a code, -1 if there are flags of rows behind the last."""
    count = np.int64(0)
    for word in range(flags.shape[0]):
        count += _ones(flags[word])
    if n & 63 and flags[flags.shape[0] - 1] >> np.uint64(n & 63):
        return np.int64(-1)
    return count


@kernel
def _fill_sparse(codes, unit, base, flags, out, c):  # type: ignore[no-untyped-def]
    first, j, last = base - unit, np.int64(0), np.int64(codes.shape[0] - 1)
    for i in range(out.shape[0]):
        flag = flags[i >> 6] >> np.uint64(i & 63) & np.uint64(1)
        code = np.uint64(codes[min(j, last)]) * flag
        out[i, c] = np.int64(first + code * unit) if code else 0
        j += np.int64(flag)


@kernel
def _decode_sparse(data, at, width, pow10, n_codes, out, c):  # type: ignore[no-untyped-def]
    """Decode a column without its zeros, whose base is at `at`; returns OK or a fault."""
    n = out.shape[0]
    codes_at = at + 8 + flag_bytes(n)
    base, flags = data[at : at + 8].view(np.uint64)[0], data[at + 8 : codes_at].view(np.uint64)
    if pow10 > MAX_POW10 or n_codes == 0 or _count_flags(flags, n) != n_codes:
        return BAD_CODEC
    codes, unit = data[codes_at : codes_at + width * n_codes], np.uint64(10**pow10)
    if width == 1:
        _fill_sparse(codes, unit, base, flags, out, c)
    elif width == 2:
        _fill_sparse(codes.view(np.uint16), unit, base, flags, out, c)
    elif width == 4:
        _fill_sparse(codes.view(np.uint32), unit, base, flags, out, c)
    elif width == 8:
        _fill_sparse(codes.view(np.uint64), unit, base, flags, out, c)
    else:
        return BAD_CODEC
    return OK


@kernel
def _decode_column(data, at, n_groups, out, c):  # type: ignore[no-untyped-def]
    """Decode the column at `at` into `out[:, c]`; returns OK or a fault.

    Args:
        n_groups: how many bases there are when each instrument has its own; 0 = this column cannot have such bases.
    """
    n = out.shape[0]
    codec, width, pow10, entries = _read_head(data, at)
    at += HEAD_BYTES
    if codec == SPARSE:
        return _decode_sparse(data, at, width, pow10, entries, out, c)
    bases = data[at : at + 8 * entries].view(np.uint64)
    codes = data[at + 8 * entries : at + 8 * entries + width * n]
    if codec == RAW and width == 8 and entries == 0:
        raw = codes.view(np.int64)
        for i in range(n):
            out[i, c] = raw[i]
        return OK
    if codec == CONSTANT and width == 0 and entries == 1:
        for i in range(n):
            out[i, c] = np.int64(bases[0])
        return OK
    if codec == CONSECUTIVE and width == 0 and entries == 1:
        for i in range(n):
            out[i, c] = np.int64(bases[0] + np.uint64(i))
        return OK
    grouped = codec == INSTRUMENT_BASE and 0 < n_groups == entries
    if (not grouped and (codec != FRAME_BASE or entries != 1)) or pow10 > MAX_POW10:
        return BAD_CODEC
    unit = np.uint64(10**pow10)
    if width == 1:
        _fill(codes, unit, bases, grouped, out, c)
    elif width == 2:
        _fill(codes.view(np.uint16), unit, bases, grouped, out, c)
    elif width == 4:
        _fill(codes.view(np.uint32), unit, bases, grouped, out, c)
    elif width == 8:
        _fill(codes.view(np.uint64), unit, bases, grouped, out, c)
    else:
        return BAD_CODEC
    return OK


@kernel
def _decode_shapes(data, at, out):  # type: ignore[no-untyped-def]
    """Put the shapes above the instruments, which are in `out[:, 7]` already; returns OK or a fault."""
    n = out.shape[0]
    codec, width, _, entries = _read_head(data, at)
    at += HEAD_BYTES
    codes = data[at + padded(4 * entries) :]
    if codec == RAW and width == 4 and entries == 0:
        raw = codes[: 4 * n].view(np.uint32)
        for i in range(n):
            out[i, 7] |= np.int64(raw[i]) << 32
        return OK
    if codec != DICTIONARY or width > 1 or not 0 < entries <= 256:
        return BAD_CODEC
    shapes = data[at : at + 4 * entries].view(np.uint32)
    for i in range(n):
        j = np.int64(codes[i]) if width else 0
        if j >= entries:
            return BAD_INDEX
        out[i, 7] |= np.int64(shapes[j]) << 32
    return OK


@kernel
def decode_columns(data, k, first, last, out):  # type: ignore[no-untyped-def]
    """Read the columns of n rows and k instruments into `out` (int64, shape (n, 8)); `out` is rubbish after a fault.

    Args:
        data: uint8, everything behind the list of instruments.
        first, last: uint64, the positions that the header names.

    Returns:
        OK or a fault.
    """
    n = out.shape[0]
    starts = np.empty(N_COLUMNS, np.int64)
    if not _find_columns(data, n, starts):
        return SHORT
    groups = np.int64(0)
    for turn in range(SHAPE):
        c = (turn + INSTRUMENT) % SHAPE  # the instruments first: other columns' bases are looked up by them
        fault = _decode_column(data, starts[c], groups, out, c)
        if fault != OK:
            return fault
        if c == INSTRUMENT:
            groups = k
            for i in range(n):
                if out[i, 7] < -1 or out[i, 7] >= k:
                    return BAD_INDEX
                if out[i, 7] < 0:
                    groups = np.int64(0)
                out[i, 7] &= LOW_32
    for i in range(1, n):
        if np.uint64(out[i, SEQ]) <= np.uint64(out[i - 1, SEQ]):
            return UNORDERED
    if np.uint64(out[0, SEQ]) != first or np.uint64(out[n - 1, SEQ]) != last:
        return UNORDERED
    return _decode_shapes(data, starts[SHAPE], out)
