"""Rows into the columns of a frame (`models.market.columns`), each in whichever codec is smallest.

`np.int64(0)` stands instead of 0 where a value is handed on: numba would compile the callee once more for each literal.
"""

from __future__ import annotations

import numpy as np

from models.market.columns import (
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
    RAW,
    SEQ,
    SHAPE,
    SPARSE,
    UNORDERED,
    flag_bytes,
    kernel,
    padded,
)

# Division by 10**k = 2**k * 5**k without the processor's own, which takes 20 to 40 cycles: a multiple of 5**k times
# the inverse of 5**k modulo 2**64 is the quotient, and other numbers give more than `_MOST_FIFTHS`.
# Source: Granlund, Montgomery, Division by invariant integers using multiplication (PLDI 1994), section 9
_FIFTHS = np.array([pow(5, -k, 2**64) for k in range(MAX_POW10 + 1)], np.uint64)
_MOST_FIFTHS = np.array([(2**64 - 1) // 5**k for k in range(MAX_POW10 + 1)], np.uint64)

_SHAPES, _SHAPES_SHIFT = 1 << 10, np.uint64(64 - 10)  # hashes: more than shapes, so that few have the same
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, as in `models.market.slots`


@kernel
def _width(code):  # type: ignore[no-untyped-def]
    """Bytes that a code of this size takes."""
    if code == 0:
        return 0
    if code < 1 << 8:
        return 1
    if code < 1 << 16:
        return 2
    if code < np.uint64(1 << 32):
        return 4
    return 8


@kernel
def _write_head(out, at, codec, width, pow10, entries):  # type: ignore[no-untyped-def]
    out[at], out[at + 1], out[at + 2], out[at + 3] = codec, width, pow10, 0
    out[at + 4 : at + 8].view(np.uint32)[0] = entries
    return at + HEAD_BYTES


@kernel
def _pad(out, at, size):  # type: ignore[no-untyped-def]
    """Zero what follows `size` bytes at `at` up to a multiple of 8; returns where the next part begins."""
    end = at + padded(size)
    for i in range(at + size, end):
        out[i] = 0
    return end


@kernel
def _store(codes, values, group, grouped, bases, pow10):  # type: ignore[no-untyped-def]
    """Codes of values that are a multiple of `10**pow10` above their base."""
    shift, fifths = np.uint64(pow10), _FIFTHS[pow10]
    if grouped:
        for i in range(codes.shape[0]):
            code = ((np.uint64(values[i]) - np.uint64(bases[group[i]])) >> shift) * fifths + np.uint64(1)
            codes[i] = code if values[i] else np.uint64(0)
        return
    base = np.uint64(bases[0])
    for i in range(codes.shape[0]):
        code = ((np.uint64(values[i]) - base) >> shift) * fifths + np.uint64(1)
        codes[i] = code if values[i] else np.uint64(0)


@kernel
def _store_codes(codes, width, values, group, grouped, bases, pow10):  # type: ignore[no-untyped-def]
    if width == 1:
        _store(codes, values, group, grouped, bases, pow10)
    elif width == 2:
        _store(codes.view(np.uint16), values, group, grouped, bases, pow10)
    elif width == 4:
        _store(codes.view(np.uint32), values, group, grouped, bases, pow10)
    elif width == 8:
        _store(codes.view(np.uint64), values, group, grouped, bases, pow10)


@kernel
def _pow10(values):  # type: ignore[no-untyped-def]
    """The largest exponent, at most `MAX_POW10`, of a power of ten that divides all values."""
    pow10 = np.int64(MAX_POW10)
    halves, fifths, most = np.uint64(2**MAX_POW10 - 1), _FIFTHS[MAX_POW10], _MOST_FIFTHS[MAX_POW10]
    for i in range(values.shape[0]):
        v = values[i]
        size = np.uint64(v) if v > 0 else np.uint64(0) - np.uint64(v)
        while size & halves or size * fifths > most:  # never of the last step, 10**0
            pow10 -= 1
            halves, fifths, most = halves >> np.uint64(1), _FIFTHS[pow10], _MOST_FIFTHS[pow10]
        if pow10 == 0:
            break
    return pow10


@kernel
def _drop_zeros(values, flags):  # type: ignore[no-untyped-def]
    """Move the values other than 0 to the front; of 64 rows a word of `flags` says which they were."""
    n, m = values.shape[0], 0
    for word in range(flags.shape[0]):
        flag = np.uint64(0)
        for i in range(64 * word, min(64 * word + 64, n)):
            v = values[i]
            values[m] = v
            m += v != 0
            flag |= np.uint64(v != 0) << np.uint64(i & 63)
        flags[word] = flag


@kernel
def _encode_column(values, group, n_groups, lo, hi, out, at):  # type: ignore[no-untyped-def]
    """Write one column in whichever codec is smallest; returns where the next begins.

    Zeros are left out only where that saves half of the bytes: a reader pays a nanosecond or two a row for it.

    Args:
        values: int64[n]; if zeros are left out, rubbish afterwards.
        group: int64[n], the instrument of each row, below `n_groups`; if that is 0, one base serves all rows.
        lo, hi: int64 scratch of at least n_groups.
        out, at: uint8, and where this column begins in it.
    """
    n = values.shape[0]
    bottom, top, n_zeros = np.int64(2**63 - 1), np.int64(-(2**63)), 0
    for g in range(n_groups):
        lo[g], hi[g] = bottom, top
    for i in range(n):  # without branches, so that it is compiled for several values at a time
        v = values[i]
        bottom, top = min(bottom, v if v else bottom), max(top, v if v else top)
        n_zeros += v == 0
    first, same = values[0], n_zeros == n or (n_zeros == 0 and bottom == top)
    pow10 = np.int64(0) if same else _pow10(values)
    if n_groups and not same:
        for i in range(n):
            v, g = values[i], group[i]
            if v:
                lo[g], hi[g] = min(lo[g], v), max(hi[g], v)
    step = np.uint64(10**pow10)
    widest = np.uint64(0)
    for g in range(n_groups):
        if hi[g] >= lo[g]:
            widest = max(widest, (np.uint64(hi[g]) - np.uint64(lo[g])) // step)
        else:
            lo[g] = 0  # no row of this instrument has a value other than 0
    span = (np.uint64(top) - np.uint64(bottom)) // step  # modular: right for any two int64
    width, narrow = _width(span + np.uint64(1)), _width(widest + np.uint64(1))
    codec, entries = FRAME_BASE, np.int64(1)
    if same:
        codec, width, pow10, bottom = CONSTANT, np.int64(0), np.int64(0), first
    elif span >= np.uint64(2**63):
        codec, width, pow10, entries = RAW, np.int64(8), np.int64(0), np.int64(0)
    elif n_groups and narrow * n + 8 * n_groups < width * n + 8:
        codec, width, entries = INSTRUMENT_BASE, narrow, n_groups
    m = n - n_zeros
    if codec == FRAME_BASE and 2 * (flag_bytes(n) + width * m) < width * n:
        at = _write_head(out, at, SPARSE, width, pow10, m)
        bases, codes_at = out[at : at + 8].view(np.int64), at + 8 + flag_bytes(n)
        bases[0] = bottom
        _drop_zeros(values, out[at + 8 : codes_at].view(np.uint64))
        _store_codes(out[codes_at : codes_at + width * m], width, values[:m], group, False, bases, pow10)
        return _pad(out, codes_at, width * m)
    at = _write_head(out, at, codec, width, pow10, entries)
    grouped = codec == INSTRUMENT_BASE
    bases = out[at : at + 8 * entries].view(np.int64)
    for g in range(entries):
        bases[g] = lo[g] if grouped else bottom
    at += 8 * entries
    codes = out[at : at + width * n]
    if codec == RAW:
        raw = codes.view(np.int64)
        for i in range(n):
            raw[i] = values[i]
    else:
        _store_codes(codes, width, values, group, grouped, bases, pow10)
    return _pad(out, at, width * n)


@kernel
def _encode_shapes(words, out, at):  # type: ignore[no-untyped-def]
    """Kind, action, side and flags of a row as one of at most 256 combinations, else 4 bytes a row."""
    n = words.shape[0]
    seen, codes = np.empty(256, np.uint32), np.empty(n, np.uint8)
    found = np.zeros(_SHAPES, np.uint8)  # by hash: the place of the shape that had it last
    codec, width, entries = DICTIONARY, np.int64(0), np.int64(0)
    for i in range(n):
        shape = np.uint32((words[i, 7] >> 32) & LOW_32)
        h = (np.uint64(shape) * _PRIME) >> _SHAPES_SHIFT
        j = np.int64(found[h])
        if j >= entries or seen[j] != shape:  # rare: how many turns the search takes, nobody could foretell
            j = np.int64(0)
            while j < entries and seen[j] != shape:
                j += 1
            if j == 256:
                codec, width, entries = RAW, np.int64(4), np.int64(0)
                break
            found[h] = j
        if j == entries:
            seen[entries] = shape
            entries += 1
        codes[i] = j
    if entries > 1:
        width = np.int64(1)
    at = _write_head(out, at, codec, width, np.int64(0), entries)
    shapes = out[at : at + 4 * entries].view(np.uint32)
    for entry in range(entries):
        shapes[entry] = seen[entry]
    at = _pad(out, at, 4 * entries)
    if codec == RAW:
        raw = out[at : at + 4 * n].view(np.uint32)
        for i in range(n):
            raw[i] = (words[i, 7] >> 32) & LOW_32
    elif width:
        for i in range(n):
            out[at + i] = codes[i]
    return _pad(out, at, width * n)


@kernel
def encode_columns(words, k, by_instrument, out):  # type: ignore[no-untyped-def]
    """Write the columns of rows (ticks as int64, shape (n, 8), n >= 1) into `out`, which has `room(n)` bytes.

    Args:
        by_instrument: try a base for each of the k instruments too; in vain where most of them have a row or two.

    Returns:
        How many bytes were written, or minus a fault: BAD_INDEX or UNORDERED.
    """
    n = words.shape[0]
    columns = np.empty((SHAPE, n), np.int64)  # all in one pass: the rows of many windows lie in no near cache
    lo, hi = np.empty(k, np.int64), np.empty(k, np.int64)
    groups = k if by_instrument else np.int64(0)
    for i in range(n):
        for c in range(INSTRUMENT):
            columns[c, i] = words[i, c]
        instrument = np.int64(np.int32(words[i, INSTRUMENT] & LOW_32))
        columns[INSTRUMENT, i] = instrument
        if instrument < -1 or instrument >= k:
            return -BAD_INDEX
        if i and np.uint64(words[i, SEQ]) <= np.uint64(words[i - 1, SEQ]):
            return -UNORDERED
        if instrument < 0:
            groups = np.int64(0)  # a control row has no instrument to take a base from
    at, instruments = np.int64(0), columns[INSTRUMENT]
    for c in range(SHAPE):
        if c == SEQ and columns[c, n - 1] - columns[c, 0] == n - 1 and n > 1:  # they rise, so each by 1
            at = _write_head(out, at, CONSECUTIVE, np.int64(0), np.int64(0), np.int64(1))
            out[at : at + 8].view(np.int64)[0] = columns[c, 0]
            at += 8
            continue
        at = _encode_column(columns[c], instruments, groups if c != INSTRUMENT else np.int64(0), lo, hi, out, at)
    return _encode_shapes(words, out, at)
