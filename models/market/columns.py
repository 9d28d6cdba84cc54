"""The columns of a frame: seven of int64, the instruments, the shapes (docs/wire.md, section 'Columns').

Both directions are one compiled loop a frame: a small frame costs one call. All kernels stand in this one file because
numba's cache on disk looks only at the file of the function that is called; `np.int64(0)` stands instead of 0 where a
value is handed on, because numba compiles a callee once more for each literal. Bytes that come in are not trusted: the
decoder first walks over all heads, and reads no value before the whole layout is known to lie inside the bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

N_COLUMNS = 9  # ts_event ts_recv seq venue_seq price size ref_id, instrument, shape
OK, SHORT, BAD_CODEC, BAD_INDEX, UNORDERED = range(5)
FAULTS = {
    SHORT: "ends early or has bytes left over",
    BAD_CODEC: "has an unknown column codec",
    BAD_INDEX: "names an instrument or a shape it does not list",
    UNORDERED: "has positions that do not rise, or are not those of its header",
}

_SEQ, _INSTRUMENT, _SHAPE = 2, 7, 8
_CONSTANT, _FRAME_BASE, _INSTRUMENT_BASE, _RAW, _DICTIONARY, _CONSECUTIVE, _SPARSE = range(7)
_HEAD = 8  # codec u8, width u8, pow10 u8, 0, number of bases or of dictionary entries u32
_MAX_POW10 = 9
_LOW_32 = 0xFFFFFFFF

# Division by 10**k = 2**k * 5**k without the processor's own, which takes 20 to 40 cycles: a multiple of 5**k times
# the inverse of 5**k modulo 2**64 is the quotient, and other numbers give more than `_MOST_FIFTHS`.
# Source: Granlund, Montgomery, Division by invariant integers using multiplication (PLDI 1994), section 9
_FIFTHS = np.array([pow(5, -k, 2**64) for k in range(_MAX_POW10 + 1)], np.uint64)
_MOST_FIFTHS = np.array([(2**64 - 1) // 5**k for k in range(_MAX_POW10 + 1)], np.uint64)

_SHAPES, _SHAPES_SHIFT = 1 << 10, np.uint64(64 - 10)  # hashes: more than shapes, so that few have the same
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, as in `models.market.slots`

_kernel = njit(cache=True, nogil=True)


def room(n: int) -> int:
    """Bytes that suffice for the columns of n rows: no column needs more than a head, a base and 8 bytes a row."""
    return N_COLUMNS * (_HEAD + 8 + 8 * n + 8)


@_kernel
def _flag_bytes(n):  # type: ignore[no-untyped-def]
    """Bytes of the flags that say which of n rows have a code."""
    return (n + 63) >> 6 << 3


@_kernel
def _padded(size):  # type: ignore[no-untyped-def]
    return (size + 7) & ~7


@_kernel
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


@_kernel
def _write_head(out, at, codec, width, pow10, entries):  # type: ignore[no-untyped-def]
    out[at], out[at + 1], out[at + 2], out[at + 3] = codec, width, pow10, 0
    out[at + 4 : at + 8].view(np.uint32)[0] = entries
    return at + _HEAD


@_kernel
def _pad(out, at, size):  # type: ignore[no-untyped-def]
    """Zero what follows `size` bytes at `at` up to a multiple of 8; returns where the next part begins."""
    end = at + _padded(size)
    for i in range(at + size, end):
        out[i] = 0
    return end


@_kernel
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


@_kernel
def _store_codes(codes, width, values, group, grouped, bases, pow10):  # type: ignore[no-untyped-def]
    if width == 1:
        _store(codes, values, group, grouped, bases, pow10)
    elif width == 2:
        _store(codes.view(np.uint16), values, group, grouped, bases, pow10)
    elif width == 4:
        _store(codes.view(np.uint32), values, group, grouped, bases, pow10)
    elif width == 8:
        _store(codes.view(np.uint64), values, group, grouped, bases, pow10)


@_kernel
def _pow10(values):  # type: ignore[no-untyped-def]
    """The largest exponent, at most `_MAX_POW10`, of a power of ten that divides all values."""
    pow10 = np.int64(_MAX_POW10)
    halves, fifths, most = np.uint64(2**_MAX_POW10 - 1), _FIFTHS[_MAX_POW10], _MOST_FIFTHS[_MAX_POW10]
    for i in range(values.shape[0]):
        v = values[i]
        size = np.uint64(v) if v > 0 else np.uint64(0) - np.uint64(v)
        while size & halves or size * fifths > most:  # never of the last step, 10**0
            pow10 -= 1
            halves, fifths, most = halves >> np.uint64(1), _FIFTHS[pow10], _MOST_FIFTHS[pow10]
        if pow10 == 0:
            break
    return pow10


@_kernel
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


@_kernel
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
    codec, entries = _FRAME_BASE, np.int64(1)
    if same:
        codec, width, pow10, bottom = _CONSTANT, np.int64(0), np.int64(0), first
    elif span >= np.uint64(2**63):
        codec, width, pow10, entries = _RAW, np.int64(8), np.int64(0), np.int64(0)
    elif n_groups and narrow * n + 8 * n_groups < width * n + 8:
        codec, width, entries = _INSTRUMENT_BASE, narrow, n_groups
    m = n - n_zeros
    if codec == _FRAME_BASE and 2 * (_flag_bytes(n) + width * m) < width * n:
        at = _write_head(out, at, _SPARSE, width, pow10, m)
        bases, codes_at = out[at : at + 8].view(np.int64), at + 8 + _flag_bytes(n)
        bases[0] = bottom
        _drop_zeros(values, out[at + 8 : codes_at].view(np.uint64))
        _store_codes(out[codes_at : codes_at + width * m], width, values[:m], group, False, bases, pow10)
        return _pad(out, codes_at, width * m)
    at = _write_head(out, at, codec, width, pow10, entries)
    grouped = codec == _INSTRUMENT_BASE
    bases = out[at : at + 8 * entries].view(np.int64)
    for g in range(entries):
        bases[g] = lo[g] if grouped else bottom
    at += 8 * entries
    codes = out[at : at + width * n]
    if codec == _RAW:
        raw = codes.view(np.int64)
        for i in range(n):
            raw[i] = values[i]
    else:
        _store_codes(codes, width, values, group, grouped, bases, pow10)
    return _pad(out, at, width * n)


@_kernel
def _encode_shapes(words, out, at):  # type: ignore[no-untyped-def]
    """Kind, action, side and flags of a row as one of at most 256 combinations, else 4 bytes a row."""
    n = words.shape[0]
    seen, codes = np.empty(256, np.uint32), np.empty(n, np.uint8)
    found = np.zeros(_SHAPES, np.uint8)  # by hash: the place of the shape that had it last
    codec, width, entries = _DICTIONARY, np.int64(0), np.int64(0)
    for i in range(n):
        shape = np.uint32((words[i, 7] >> 32) & _LOW_32)
        h = (np.uint64(shape) * _PRIME) >> _SHAPES_SHIFT
        j = np.int64(found[h])
        if j >= entries or seen[j] != shape:  # rare: how many turns the search takes, nobody could foretell
            j = np.int64(0)
            while j < entries and seen[j] != shape:
                j += 1
            if j == 256:
                codec, width, entries = _RAW, np.int64(4), np.int64(0)
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
    if codec == _RAW:
        raw = out[at : at + 4 * n].view(np.uint32)
        for i in range(n):
            raw[i] = (words[i, 7] >> 32) & _LOW_32
    elif width:
        for i in range(n):
            out[at + i] = codes[i]
    return _pad(out, at, width * n)


@_kernel
def encode_columns(words, k, by_instrument, out):  # type: ignore[no-untyped-def]
    """Write the columns of rows (ticks as int64, shape (n, 8), n >= 1) into `out`, which has `room(n)` bytes.

    Args:
        by_instrument: try a base for each of the k instruments too; in vain where most of them have a row or two.

    Returns:
        How many bytes were written, or minus a fault: BAD_INDEX or UNORDERED.
    """
    n = words.shape[0]
    columns = np.empty((_SHAPE, n), np.int64)  # all in one pass: the rows of many windows lie in no near cache
    lo, hi = np.empty(k, np.int64), np.empty(k, np.int64)
    groups = k if by_instrument else np.int64(0)
    for i in range(n):
        for c in range(_INSTRUMENT):
            columns[c, i] = words[i, c]
        instrument = np.int64(np.int32(words[i, _INSTRUMENT] & _LOW_32))
        columns[_INSTRUMENT, i] = instrument
        if instrument < -1 or instrument >= k:
            return -BAD_INDEX
        if i and np.uint64(words[i, _SEQ]) <= np.uint64(words[i - 1, _SEQ]):
            return -UNORDERED
        if instrument < 0:
            groups = np.int64(0)  # a control row has no instrument to take a base from
    at, instruments = np.int64(0), columns[_INSTRUMENT]
    for c in range(_SHAPE):
        if c == _SEQ and columns[c, n - 1] - columns[c, 0] == n - 1 and n > 1:  # they rise, so each by 1
            at = _write_head(out, at, _CONSECUTIVE, np.int64(0), np.int64(0), np.int64(1))
            out[at : at + 8].view(np.int64)[0] = columns[c, 0]
            at += 8
            continue
        at = _encode_column(columns[c], instruments, groups if c != _INSTRUMENT else np.int64(0), lo, hi, out, at)
    return _encode_shapes(words, out, at)


@_kernel
def _read_head(data, at):  # type: ignore[no-untyped-def]
    """Codec, width, pow10 and entries of the column at `at`."""
    return (
        np.int64(data[at]),
        np.int64(data[at + 1]),
        np.int64(data[at + 2]),
        np.int64(data[at + 4 : at + 8].view(np.uint32)[0]),
    )


@_kernel
def _find_columns(data, n, starts):  # type: ignore[no-untyped-def]
    """Where each column begins; False unless all of them fill the bytes exactly."""
    at = np.int64(0)
    for c in range(N_COLUMNS):
        if at + _HEAD > data.shape[0]:
            return False
        starts[c] = at
        codec, width, _, entries = _read_head(data, at)
        if codec == _SPARSE:
            at += _HEAD + 8 + _flag_bytes(n) + _padded(width * entries)
        else:
            at += _HEAD + _padded((4 if c == _SHAPE else 8) * entries) + _padded(width * n)
    return at == data.shape[0]


@_kernel
def _fill(codes, unit, bases, grouped, out, c):  # type: ignore[no-untyped-def]
    if grouped:
        for i in range(codes.shape[0]):
            code = np.uint64(codes[i])
            out[i, c] = np.int64(bases[out[i, 7] & _LOW_32] + (code - np.uint64(1)) * unit) if code else 0
    else:
        first = bases[0] - unit  # code 1 is the base itself
        for i in range(codes.shape[0]):
            code = np.uint64(codes[i])
            out[i, c] = np.int64(first + code * unit) if code else 0


@_kernel
def _ones(word):  # type: ignore[no-untyped-def]
    """Bits of a word that are 1. Source: Warren, Hacker's Delight (2nd ed.), section 5-1."""
    word -= word >> np.uint64(1) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + (word >> np.uint64(2) & np.uint64(0x3333333333333333))
    word = word + (word >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64(word * np.uint64(0x0101010101010101) >> np.uint64(56))


@_kernel
def _count_flags(flags, n):  # type: ignore[no-untyped-def]
    """How many of n rows have a code, -1 if there are flags of rows behind the last."""
    count = np.int64(0)
    for word in range(flags.shape[0]):
        count += _ones(flags[word])
    if n & 63 and flags[flags.shape[0] - 1] >> np.uint64(n & 63):
        return np.int64(-1)
    return count


@_kernel
def _fill_sparse(codes, unit, base, flags, out, c):  # type: ignore[no-untyped-def]
    first, j, last = base - unit, np.int64(0), np.int64(codes.shape[0] - 1)
    for i in range(out.shape[0]):
        flag = flags[i >> 6] >> np.uint64(i & 63) & np.uint64(1)
        code = np.uint64(codes[min(j, last)]) * flag
        out[i, c] = np.int64(first + code * unit) if code else 0
        j += np.int64(flag)


@_kernel
def _decode_sparse(data, at, width, pow10, n_codes, out, c):  # type: ignore[no-untyped-def]
    """Decode a column without its zeros, whose base is at `at`; returns OK or a fault."""
    n = out.shape[0]
    codes_at = at + 8 + _flag_bytes(n)
    base, flags = data[at : at + 8].view(np.uint64)[0], data[at + 8 : codes_at].view(np.uint64)
    if pow10 > _MAX_POW10 or n_codes == 0 or _count_flags(flags, n) != n_codes:
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


@_kernel
def _decode_column(data, at, n_groups, out, c):  # type: ignore[no-untyped-def]
    """Decode the column at `at` into `out[:, c]`; returns OK or a fault.

    Args:
        n_groups: how many bases there are when each instrument has its own; 0 = this column cannot have such bases.
    """
    n = out.shape[0]
    codec, width, pow10, entries = _read_head(data, at)
    at += _HEAD
    if codec == _SPARSE:
        return _decode_sparse(data, at, width, pow10, entries, out, c)
    bases = data[at : at + 8 * entries].view(np.uint64)
    codes = data[at + 8 * entries : at + 8 * entries + width * n]
    if codec == _RAW and width == 8 and entries == 0:
        raw = codes.view(np.int64)
        for i in range(n):
            out[i, c] = raw[i]
        return OK
    if codec == _CONSTANT and width == 0 and entries == 1:
        for i in range(n):
            out[i, c] = np.int64(bases[0])
        return OK
    if codec == _CONSECUTIVE and width == 0 and entries == 1:
        for i in range(n):
            out[i, c] = np.int64(bases[0] + np.uint64(i))
        return OK
    grouped = codec == _INSTRUMENT_BASE and 0 < n_groups == entries
    if (not grouped and (codec != _FRAME_BASE or entries != 1)) or pow10 > _MAX_POW10:
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


@_kernel
def _decode_shapes(data, at, out):  # type: ignore[no-untyped-def]
    """Put the shapes above the instruments, which are in `out[:, 7]` already; returns OK or a fault."""
    n = out.shape[0]
    codec, width, _, entries = _read_head(data, at)
    at += _HEAD
    codes = data[at + _padded(4 * entries) :]
    if codec == _RAW and width == 4 and entries == 0:
        raw = codes[: 4 * n].view(np.uint32)
        for i in range(n):
            out[i, 7] |= np.int64(raw[i]) << 32
        return OK
    if codec != _DICTIONARY or width > 1 or not 0 < entries <= 256:
        return BAD_CODEC
    shapes = data[at : at + 4 * entries].view(np.uint32)
    for i in range(n):
        j = np.int64(codes[i]) if width else 0
        if j >= entries:
            return BAD_INDEX
        out[i, 7] |= np.int64(shapes[j]) << 32
    return OK


@_kernel
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
    for turn in range(_SHAPE):
        c = (turn + _INSTRUMENT) % _SHAPE  # the instruments first: other columns' bases are looked up by them
        fault = _decode_column(data, starts[c], groups, out, c)
        if fault != OK:
            return fault
        if c == _INSTRUMENT:
            groups = k
            for i in range(n):
                if out[i, 7] < -1 or out[i, 7] >= k:
                    return BAD_INDEX
                if out[i, 7] < 0:
                    groups = np.int64(0)
                out[i, 7] &= _LOW_32
    for i in range(1, n):
        if np.uint64(out[i, _SEQ]) <= np.uint64(out[i - 1, _SEQ]):
            return UNORDERED
    if np.uint64(out[0, _SEQ]) != first or np.uint64(out[n - 1, _SEQ]) != last:
        return UNORDERED
    return _decode_shapes(data, starts[_SHAPE], out)
