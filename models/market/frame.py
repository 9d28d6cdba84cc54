"""Frames: columns of ticks, narrowed as far as one frame's values allow (docs/wire.md, `md.frames.v1`).

Bytes on the wire are what a fetch costs, so each column stores `code = 0` for the value 0 and otherwise
`code = (value - base) / 10**pow10 + 1` in 0, 1, 2, 4 or 8 bytes, with one base for the frame or one an instrument,
whichever is smaller (`models.market.columns`).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptFrame
from models.market.column_decoder import decode_columns
from models.market.column_encoder import encode_columns
from models.market.columns import FAULTS, N_COLUMNS, room
from models.market.listing import listing_bytes, pack_listing, unpack_listing
from models.market.tick import TICK, TickArray

MAGIC = b"MPF1"
FORMAT = 2
DENSE = 1
MAX_TICKS = 1 << 20  # one event of 1 MiB of JSON has fewer rows; more is hostile
HEADER = struct.Struct("<4sBBHIIQQQQqq")


class FrameHeader(NamedTuple):
    """What a consumer decides by without decoding rows; positions are the rows' `seq`, times ns UTC (0 = not known).

    The list of instruments lies between `HEADER.size` and `columns_at`.
    """

    n_ticks: int
    n_instruments: int
    source: int
    first_position: int
    last_position: int
    prev_position: int
    due_ns: int
    sent_ns: int
    dense: bool
    columns_at: int


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
        ValueError: no rows, or more than `MAX_TICKS`; a row names no listed instrument; positions do not rise.
    """
    n, k = len(ticks), len(instruments)
    if not 0 < n <= MAX_TICKS:
        raise ValueError(f"a frame holds 1 to {MAX_TICKS} ticks, not {n}")
    positions = ticks["seq"]
    head = HEADER.pack(
        MAGIC, FORMAT, DENSE if dense else 0, N_COLUMNS, n, k, source,
        positions.item(0), positions.item(-1), prev_position, due_ns, sent_ns,
    )  # fmt: skip
    words = np.ascontiguousarray(ticks).view(np.int64).reshape(n, 8)
    out = np.empty(room(n), np.uint8)
    length = encode_columns(words, k, True, out)
    if length < 0:
        raise ValueError(f"a frame that lists {k} instruments {FAULTS[-length]}")
    return b"".join((head, pack_listing(instruments), out[:length].data))


def decode_header(data: bytes) -> FrameHeader:
    """Raises: CorruptFrame when the bytes are no frame of a version this code reads."""
    if len(data) < HEADER.size:
        raise CorruptFrame(f"frame of {len(data)} bytes is shorter than its header")
    magic, fmt, flags, columns, count, k, source, first, last, prev, due, sent = HEADER.unpack_from(data)
    if magic != MAGIC or fmt != FORMAT or columns != N_COLUMNS:
        raise CorruptFrame(f"not a frame of version {FORMAT}: begins with {data[:8].hex(' ')}")
    columns_at = HEADER.size + listing_bytes(k)
    if not 0 < count <= MAX_TICKS or len(data) < columns_at:
        raise CorruptFrame(f"frame claims {count} ticks and {k} instruments in {len(data)} bytes")
    return FrameHeader(count, k, source, first, last, prev, due, sent, bool(flags & DENSE), columns_at)


def decode(data: bytes) -> Frame:
    """Unpack one frame.

    Raises:
        CorruptFrame: cut short, damaged, or of another version.
    """
    header = decode_header(data)
    instruments = unpack_listing(data, HEADER.size, header.n_instruments)
    ticks = np.empty(header.n_ticks, TICK)
    decode_words(data, header, ticks.view(np.int64).reshape(-1, 8))
    return Frame(header, instruments, ticks)


def decode_words(data: bytes, header: FrameHeader, words: NDArray[np.int64]) -> None:
    """Unpack a frame's rows into ticks seen as int64, shape (header.n_ticks, 8), contiguous. Raises: CorruptFrame."""
    columns = np.frombuffer(data, np.uint8, offset=header.columns_at)
    first, last = np.uint64(header.first_position), np.uint64(header.last_position)
    if fault := decode_columns(columns, header.n_instruments, first, last, words):
        raise CorruptFrame(f"frame of source {header.source:x} at position {header.first_position} {FAULTS[fault]}")
