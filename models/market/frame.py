"""Frames: columns of ticks, narrowed as far as one frame's values allow (docs/wire.md, `md.frames.v1`).

Bytes on the wire are what a fetch costs, so each column stores `code = 0` for the value 0 and otherwise
`code = (value - base) / 10**pow10 + 1` in 0, 1, 2, 4 or 8 bytes, with one base for the frame or one an instrument,
whichever is smaller. Both directions are one compiled loop a frame: a small frame costs one call.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptFrame
from models.market.instruments import INSTRUMENT_REF
from models.market.tick import TICK, TickArray

MAGIC = b"MPF1"
FORMAT = 1
DENSE = 1
MAX_TICKS = 1 << 20  # one event of 1 MiB of JSON has fewer rows; more is hostile
HEADER = struct.Struct("<4sBBHIIQQQQqq")
N_COLUMNS = 9  # ts_event ts_recv seq venue_seq price size ref_id, instrument, shape

_CONSTANT, _FRAME_BASE, _INSTRUMENT_BASE, _RAW, _DICTIONARY = range(5)
_COLUMN_HEAD = 8  # codec u8, width u8, pow10 u8, 0, number of bases or of dictionary entries u32
_OK, _SHORT, _BAD_CODEC, _BAD_INDEX = range(4)
_FAULTS = {
    _SHORT: "ends early",
    _BAD_CODEC: "has an unknown column codec",
    _BAD_INDEX: "names an entry it does not have",
}


class FrameHeader(NamedTuple):
    """What a consumer decides by without decoding rows; positions are the rows' `seq`, times ns UTC (0 = not known)."""

    n_ticks: int
    n_instruments: int
    source: int
    first_position: int
    last_position: int
    prev_position: int
    due_ns: int
    sent_ns: int
    dense: bool


class Frame(NamedTuple):
    header: FrameHeader
    instruments: NDArray[np.void]  # INSTRUMENT_REF, shape (k,)
    ticks: TickArray  # TICK, shape (n,); instrument_id indexes `instruments`


def encode(
    ticks: TickArray,
    instruments: NDArray[np.void],
    *,
    source: int,
    prev_position: int = 0,
    dense: bool = False,
    due_ns: int = 0,
    sent_ns: int = 0,
) -> bytes:
    """Pack rows (TICK, shape (n,), n >= 1, `seq` strictly rising); instrument_id indexes `instruments` or is -1.

    Raises:
        ValueError: no rows, or more than `MAX_TICKS`.
    """
    n, k = len(ticks), len(instruments)
    if not 0 < n <= MAX_TICKS:
        raise ValueError(f"a frame holds 1 to {MAX_TICKS} ticks, not {n}")
    head = HEADER.pack(
        MAGIC, FORMAT, DENSE if dense else 0, N_COLUMNS, n, k, source,
        int(ticks["seq"][0]), int(ticks["seq"][-1]), prev_position, due_ns, sent_ns,
    )  # fmt: skip
    words = np.ascontiguousarray(ticks).view(np.int64).reshape(n, 8)
    out = np.empty(8 * N_COLUMNS * (1 + n) + 8 * 7 * max(k, 1) + 1024, np.uint8)
    length = _encode_columns(words, k, out)
    return head + instruments.tobytes() + out[:length].tobytes()


def decode_header(data: bytes) -> FrameHeader:
    """Raises: CorruptFrame when the bytes are no frame of a version this code reads."""
    if len(data) < HEADER.size:
        raise CorruptFrame(f"frame of {len(data)} bytes is shorter than its header")
    magic, fmt, flags, columns, count, k, source, first, last, prev, due, sent = HEADER.unpack_from(data)
    if magic != MAGIC or fmt != FORMAT or columns != N_COLUMNS:
        raise CorruptFrame(f"not a frame of version {FORMAT}: begins with {data[:8].hex(' ')}")
    if not 0 < count <= MAX_TICKS or len(data) < HEADER.size + 16 * k:
        raise CorruptFrame(f"frame claims {count} ticks and {k} instruments in {len(data)} bytes")
    return FrameHeader(count, k, source, first, last, prev, due, sent, bool(flags & DENSE))


def decode(data: bytes) -> Frame:
    """Unpack one frame.

    Raises:
        CorruptFrame: cut short, damaged, or of another version.
    """
    header = decode_header(data)
    instruments = np.frombuffer(data, INSTRUMENT_REF, header.n_instruments, HEADER.size)
    ticks = np.empty(header.n_ticks, TICK)
    decode_ticks(data, header, ticks)
    return Frame(header, instruments, ticks)


def decode_ticks(data: bytes, header: FrameHeader, out: TickArray) -> None:
    """Unpack a frame's rows into `out` (TICK, shape (header.n_ticks,), contiguous). Raises: CorruptFrame."""
    columns = np.frombuffer(data, np.uint8, offset=HEADER.size + 16 * header.n_instruments)
    fault = _decode_columns(columns, header.n_instruments, out.view(np.int64).reshape(header.n_ticks, 8))
    if fault != _OK:
        raise CorruptFrame(f"frame of source {header.source:x} at position {header.first_position} {_FAULTS[fault]}")


@numba.njit(cache=True, nogil=True)
def _width(code):  # type: ignore[no-untyped-def]
    if code == 0:
        return 0
    if code < 1 << 8:
        return 1
    if code < 1 << 16:
        return 2
    if code < np.uint64(1 << 32):
        return 4
    return 8


@numba.njit(cache=True, nogil=True)
def _head(out, at, codec, width, pow10, entries):  # type: ignore[no-untyped-def]
    out[at], out[at + 1], out[at + 2], out[at + 3] = codec, width, pow10, 0
    out[at + 4 : at + 8].view(np.uint32)[0] = entries
    return at + _COLUMN_HEAD


@numba.njit(cache=True, nogil=True)
def _aligned(size):  # type: ignore[no-untyped-def]
    return (size + 7) & ~7


@numba.njit(cache=True, nogil=True)
def _store(codes, values, group, grouped, bases, bottom, unit):  # type: ignore[no-untyped-def]
    for i in range(codes.shape[0]):
        if values[i] == 0:
            codes[i] = 0
        else:
            base = bases[group[i]] if grouped else bottom
            codes[i] = (np.uint64(values[i]) - np.uint64(base)) // unit + np.uint64(1)


@numba.njit(cache=True, nogil=True)
def _encode_column(values, group, n_groups, lo, hi, out, at):  # type: ignore[no-untyped-def]
    n = values.shape[0]
    first = values[0]
    same = True
    pow10 = 9
    unit = np.int64(1_000_000_000)
    top, bottom = np.int64(-(2**63)), np.int64(2**63 - 1)
    for g in range(n_groups):
        lo[g], hi[g] = 2**63 - 1, -(2**63)
    for i in range(n):
        v = values[i]
        same &= v == first
        if v == 0:
            continue
        while pow10 and v % unit:
            pow10 -= 1
            unit //= 10
        bottom, top = min(bottom, v), max(top, v)
        g = group[i]
        if g >= 0:
            lo[g], hi[g] = min(lo[g], v), max(hi[g], v)
    if same:
        at = _head(out, at, _CONSTANT, 0, 0, 1)
        out[at : at + 8].view(np.int64)[0] = first
        return at + 8
    span = np.uint64(top) - np.uint64(bottom)  # modular: right for any two int64
    if span // np.uint64(unit) >= np.uint64(2**63):
        at = _head(out, at, _RAW, 8, 0, 0)
        out[at : at + 8 * n].view(np.int64)[:] = values
        return at + 8 * n
    width = _width(span // np.uint64(unit) + np.uint64(1))
    widest = np.uint64(0)
    for g in range(n_groups):
        if hi[g] >= lo[g]:
            widest = max(widest, (np.uint64(hi[g]) - np.uint64(lo[g])) // np.uint64(unit))
    narrow = _width(widest + np.uint64(1))
    grouped = n_groups > 0 and narrow * n + 8 * n_groups < width * n + 8
    if grouped:
        at = _head(out, at, _INSTRUMENT_BASE, narrow, pow10, n_groups)
        for g in range(n_groups):
            if hi[g] < lo[g]:
                lo[g] = 0
            out[at + 8 * g : at + 8 * g + 8].view(np.int64)[0] = lo[g]
        at += 8 * n_groups
        width = narrow
    else:
        at = _head(out, at, _FRAME_BASE, width, pow10, 1)
        out[at : at + 8].view(np.int64)[0] = bottom
        at += 8
    end = at + width * n
    if width == 1:
        _store(out[at:end], values, group, grouped, lo, bottom, np.uint64(unit))
    elif width == 2:
        _store(out[at:end].view(np.uint16), values, group, grouped, lo, bottom, np.uint64(unit))
    elif width == 4:
        _store(out[at:end].view(np.uint32), values, group, grouped, lo, bottom, np.uint64(unit))
    else:
        _store(out[at:end].view(np.uint64), values, group, grouped, lo, bottom, np.uint64(unit))
    out[end : at + _aligned(width * n)] = 0
    return at + _aligned(width * n)


@numba.njit(cache=True, nogil=True)
def _encode_columns(words, k, out):  # type: ignore[no-untyped-def]
    n = words.shape[0]
    column, instrument = np.empty(n, np.int64), np.empty(n, np.int64)
    lo, hi = np.empty(k, np.int64), np.empty(k, np.int64)
    controls = 0
    for i in range(n):
        instrument[i] = np.int32(words[i, 7] & 0xFFFFFFFF)
        controls += instrument[i] < 0
    groups = 0 if controls else k  # control frames have no instruments to take a base from
    at = 0
    for c in range(7):
        for i in range(n):
            column[i] = words[i, c]
        at = _encode_column(column, instrument, groups, lo, hi, out, at)
    at = _encode_column(instrument, instrument, 0, lo, hi, out, at)
    # shape: kind, action, side and flags of a row as one of at most 256 combinations
    seen = np.empty(256, np.uint32)
    entries = 0
    codes = np.empty(n, np.uint8)
    for i in range(n):
        shape = np.uint32((words[i, 7] >> 32) & 0xFFFFFFFF)
        j = 0
        while j < entries and seen[j] != shape:
            j += 1
        if j == entries:
            if entries == 256:
                entries = 257
                break
            seen[entries] = shape
            entries += 1
        codes[i] = j
    if entries > 256:
        at = _head(out, at, _RAW, 4, 0, 0)
        shapes = out[at : at + 4 * n].view(np.uint32)
        for i in range(n):
            shapes[i] = (words[i, 7] >> 32) & 0xFFFFFFFF
        out[at + 4 * n : at + _aligned(4 * n)] = 0
        return at + _aligned(4 * n)
    width = 0 if entries == 1 else 1
    at = _head(out, at, _DICTIONARY, width, 0, entries)
    out[at : at + 4 * entries].view(np.uint32)[:] = seen[:entries]
    out[at + 4 * entries : at + _aligned(4 * entries)] = 0
    at += _aligned(4 * entries)
    if width:
        out[at : at + n] = codes
        out[at + n : at + _aligned(n)] = 0
        at += _aligned(n)
    return at


@numba.njit(cache=True, nogil=True)
def _fill(codes, unit, bases, out, c):  # type: ignore[no-untyped-def]
    if bases.shape[0] == 1:
        first = bases[0] - unit  # code 1 is the base itself
        for i in range(codes.shape[0]):
            code = np.uint64(codes[i])
            out[i, c] = np.int64(first + code * unit) if code else 0
    else:
        for i in range(codes.shape[0]):
            code = np.uint64(codes[i])
            out[i, c] = np.int64(bases[out[i, 7] & 0xFFFFFFFF] + (code - np.uint64(1)) * unit) if code else 0


@numba.njit(cache=True, nogil=True)
def _read_head(data, at):  # type: ignore[no-untyped-def]
    """Codec, width, pow10, entries; a width of 255 when the head itself is cut off."""
    if at + _COLUMN_HEAD > data.shape[0]:
        return 0, 255, 0, 0
    return (
        np.int64(data[at]),
        np.int64(data[at + 1]),
        np.int64(data[at + 2]),
        np.int64(data[at + 4 : at + 8].view(np.uint32)[0]),
    )


@numba.njit(cache=True, nogil=True)
def _decode_column(data, at, k, out, c):  # type: ignore[no-untyped-def]
    """Decode the column at `at` into out[:, c]; returns where the next begins, or minus a fault."""
    n = out.shape[0]
    codec, width, pow10, entries = _read_head(data, at)
    at += _COLUMN_HEAD
    if width == 255 or at + 8 * entries + _aligned(width * n) > data.shape[0]:
        return -_SHORT
    if codec == _RAW and width == 8 and entries == 0:
        raw = data[at : at + 8 * n].view(np.int64)
        for i in range(n):
            out[i, c] = raw[i]
        return at + 8 * n
    if pow10 > 9 or entries != (k if codec == _INSTRUMENT_BASE else 1):
        return -_BAD_CODEC
    bases = data[at : at + 8 * entries].view(np.uint64)
    at += 8 * entries
    if codec == _CONSTANT and width == 0:
        for i in range(n):
            out[i, c] = np.int64(bases[0])
        return at
    if codec != _FRAME_BASE and (codec != _INSTRUMENT_BASE or k == 0):
        return -_BAD_CODEC
    unit = np.uint64(10**pow10)
    codes = data[at : at + width * n]
    if width == 1:
        _fill(codes, unit, bases, out, c)
    elif width == 2:
        _fill(codes.view(np.uint16), unit, bases, out, c)
    elif width == 4:
        _fill(codes.view(np.uint32), unit, bases, out, c)
    elif width == 8:
        _fill(codes.view(np.uint64), unit, bases, out, c)
    else:
        return -_BAD_CODEC
    return at + _aligned(width * n)


@numba.njit(cache=True, nogil=True)
def _decode_shapes(data, at, out):  # type: ignore[no-untyped-def]
    n = out.shape[0]
    codec, width, _, entries = _read_head(data, at)
    at += _COLUMN_HEAD
    if width == 255 or at + _aligned(4 * entries) + _aligned(width * n) > data.shape[0]:
        return _SHORT
    if codec == _RAW and width == 4 and entries == 0:
        raw = data[at : at + 4 * n].view(np.uint32)
        for i in range(n):
            out[i, 7] |= np.int64(raw[i]) << 32
        return _OK
    if codec != _DICTIONARY or width > 1 or not 0 < entries <= 256:
        return _BAD_CODEC
    shapes = data[at : at + 4 * entries].view(np.uint32)
    codes = data[at + _aligned(4 * entries) :]
    for i in range(n):
        j = np.int64(codes[i]) if width else 0
        if j >= entries:
            return _BAD_INDEX
        out[i, 7] |= np.int64(shapes[j]) << 32
    return _OK


@numba.njit(cache=True, nogil=True)
def _decode_columns(data, k, out):  # type: ignore[no-untyped-def]
    n = out.shape[0]
    # Instruments first, as the other columns' bases are looked up by them: skip over seven columns.
    at = 0
    for _ in range(7):
        _, width, _, entries = _read_head(data, at)
        at += _COLUMN_HEAD + 8 * entries + _aligned(width * n)
    at = _decode_column(data, at, k, out, 7)
    if at < 0:
        return -at
    for i in range(n):
        if out[i, 7] < -1 or out[i, 7] >= k:
            return _BAD_INDEX
    # bases of rows without an instrument (-1) would be looked up outside the list: only control frames have such rows
    has_control = False
    for i in range(n):
        has_control |= out[i, 7] < 0
        out[i, 7] &= 0xFFFFFFFF
    fault = _decode_shapes(data, at, out)
    if fault != _OK:
        return fault
    at = 0
    for c in range(7):
        if has_control and data[at] == _INSTRUMENT_BASE:
            return _BAD_CODEC
        at = _decode_column(data, at, k, out, c)
        if at < 0:
            return -at
    return _OK
