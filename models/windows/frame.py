"""`metrics.windows.v1`: windows that closed, in the columns of `models.market.columns` (docs/wire.md).

Prices travel as what they differ by from the window's open: in a market of many instruments most windows hold one
trade, and a column of zeros takes no work to write, to compress or to read.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptFrame
from models.market.column_decoder import decode_columns
from models.market.column_encoder import encode_columns
from models.market.columns import FAULTS, N_COLUMNS, room
from models.market.listing import listing_bytes, pack_listing, unpack_listing
from models.windows.window import INTERVALS_S, N_CLOSED, SECOND_NS

MAGIC = b"MPW1"
FORMAT = 3
MAX_WINDOWS = 1 << 16
HEADER = struct.Struct("<4sBBHIIqq")

# A window as a row of the columns: 64 bytes, the list's index where a tick has it. On the wire `high` is high - open,
# `low` is open - low and `close` is close - open, modulo 2**64.
WINDOW = np.dtype(
    [
        ("start_ns", "<i8"),  # UTC, the window holds trades of [start_ns, start_ns + length)
        ("open", "<i8"),  # prices: mantissas; first and last in log order
        ("seq", "<u8"),  # 1..n in its record
        ("high", "<i8"),
        ("low", "<i8"),
        ("close", "<i8"),
        ("volume", "<i8"),  # sum of sizes, mantissa
        ("instrument_id", "<i4"),  # index into the record's list of instruments
        ("interval_count", "<u4"),  # index of the length in 1 s, 10 s, 60 s << 30 | trades, at most 2**30 - 1
    ]
)
COUNT_BITS = 30
_LENGTHS_NS = np.array(INTERVALS_S, np.int64) * SECOND_NS


class WindowFrame(NamedTuple):
    """Closed windows of one partition.

    Attributes:
        version: of the source record whose round closed them.
        watermark_ns: of the partition by then.
        instruments: INSTRUMENT_REF, shape (k,).
        windows: WINDOW, shape (n,); of one instrument and length in order of time.
    """

    version: int
    watermark_ns: int
    instruments: NDArray[np.void]
    windows: NDArray[np.void]


def encode_windows(closed: NDArray[np.int64], refs: NDArray[np.void], *, version: int, watermark_ns: int) -> bytes:
    """Pack windows, shape (n, 9), 1 <= n <= MAX_WINDOWS, columns as dtype CLOSED.

    Args:
        refs: INSTRUMENT_REF by slot.
    """
    n = len(closed)
    words, slots = np.empty((n, 8), np.int64), np.empty(n, np.int32)
    k = _pack(closed, np.full(len(refs), -1, np.int32), words, slots)
    out = np.empty(room(n), np.uint8)
    length = encode_columns(words, k, False, out)
    if length < 0:
        raise ValueError(f"a record of windows {FAULTS[-length]}")
    head = HEADER.pack(MAGIC, FORMAT, 0, N_COLUMNS, n, k, version, watermark_ns)
    return b"".join((head, pack_listing(refs[slots[:k]]), out[:length].data))


def decode_windows(data: bytes) -> WindowFrame:
    """Raises: CorruptFrame when the bytes are no record of closed windows."""
    if len(data) < HEADER.size:
        raise CorruptFrame(f"record of windows of {len(data)} bytes is shorter than its header")
    magic, fmt, _, columns, n, k, version, watermark_ns = HEADER.unpack_from(data)
    if magic != MAGIC or fmt != FORMAT or columns != N_COLUMNS:
        raise CorruptFrame(f"not a record of windows of version {FORMAT}: begins with {data[:8].hex(' ')}")
    if not 0 < n <= MAX_WINDOWS or len(data) < HEADER.size + listing_bytes(k):
        raise CorruptFrame(f"record claims {n} windows and {k} instruments in {len(data)} bytes")
    words = np.empty((n, 8), np.int64)
    body = np.frombuffer(data, np.uint8, offset=HEADER.size + listing_bytes(k))
    if fault := decode_columns(body, k, np.uint64(1), np.uint64(n), words):
        raise CorruptFrame(f"record of windows as of version {version} {FAULTS[fault]}")
    open_ = words[:, 1]
    words[:, 3] += open_
    np.subtract(open_, words[:, 4], out=words[:, 4])
    words[:, 5] += open_
    windows = words.view(WINDOW).reshape(n)
    if (windows["instrument_id"] < 0).any() or (windows["interval_count"] >> COUNT_BITS >= len(INTERVALS_S)).any():
        raise CorruptFrame(f"record of windows as of version {version} names no instrument or no length")
    return WindowFrame(version, watermark_ns, unpack_listing(data, HEADER.size, k), windows)


@numba.njit(cache=True, nogil=True)
def _pack(closed, index, words, slots):  # type: ignore[no-untyped-def]
    """Rows for the columns; `index` (all -1) becomes the place of a slot in the list, `slots` that list; its length."""
    k = np.int32(0)
    for i in range(closed.shape[0]):
        slot, interval = closed[i, 0], closed[i, 1]
        if index[slot] < 0:
            index[slot] = k
            slots[k] = slot
            k += np.int32(1)
        words[i, 0] = closed[i, 2] * _LENGTHS_NS[interval]
        open_ = closed[i, 3]
        words[i, 1], words[i, 2] = open_, i + 1
        words[i, 3], words[i, 4], words[i, 5] = closed[i, 4] - open_, open_ - closed[i, 5], closed[i, 6] - open_
        words[i, 6] = closed[i, 7]
        count = min(closed[i, N_CLOSED - 1], (1 << COUNT_BITS) - 1)
        words[i, 7] = (interval << COUNT_BITS | count) << 32 | np.int64(index[slot])
    return k
