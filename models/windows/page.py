"""Window pages: what 64 instruments have open, and the sums of what they closed.

Body: bytes of the first block u32 little-endian, then two blocks (`models.market.blocks`), each behind the page's
source version: 64 times RING seconds, ten seconds, minute, as rows of end (seconds since 1970), open, high, low, close,
volume, count; 64 rows of the three sums. Absent are windows that are not open, and instruments that closed nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numba
import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptPage
from models.market.blocks import decode_block, encode_blocks
from models.market.conflate import PAGE_SLOTS
from models.windows.window import COUNT, HIGH, INTERVALS_S, N_OPEN, N_VALUES, NOT_OPEN, OPEN, RING, VOLUME

_SIZE = struct.Struct("<I")
_N_SUMS, _N_ROWS, _N_COLUMNS = len(INTERVALS_S), PAGE_SLOTS * N_OPEN, 1 + N_VALUES
_LENGTHS_S = np.array(INTERVALS_S[1:], np.int64)  # at the places behind the seconds
_BATCH = 32  # pages whose windows are laid out at once, 28 kB each
_NEAR = np.zeros(_N_COLUMNS, np.uint64)
_NEAR[1 + HIGH : 1 + VOLUME] = 1 + OPEN
_NO_NEAR = np.zeros(_N_SUMS, np.uint64)


def encode_pages(
    ends: NDArray[np.int64], values: NDArray[np.int64], sums: NDArray[np.uint64], numbers: NDArray[np.int64],
    versions: NDArray[np.int64],
) -> Iterator[bytes]:  # fmt: skip
    """The bodies of n pages.

    Args:
        ends, values, sums: contiguous, by slot: shapes (slots, RING + 2), (slots, RING + 2, 6 or more), (slots, 3); as
            in `Windows`.
        numbers, versions: shape (n,), of the pages.
    """
    firsts = numbers * (PAGE_SLOTS * _N_SUMS)
    flat = sums.view(np.int64).reshape(-1)
    summed = iter(encode_blocks(flat, firsts, n_rows=PAGE_SLOTS, near=_NO_NEAR, versions=versions))
    rows = np.empty((_BATCH, _N_ROWS, _N_COLUMNS), np.int64)
    for at in range(0, len(numbers), _BATCH):
        some, of = numbers[at : at + _BATCH], versions[at : at + _BATCH]
        _lay_out(ends, values, some, rows)
        firsts = np.arange(len(some)) * (_N_ROWS * _N_COLUMNS)
        for block in encode_blocks(rows.reshape(-1), firsts, n_rows=_N_ROWS, near=_NEAR, versions=of):
            yield b"".join((_SIZE.pack(len(block)), block, next(summed)))


def encode_page(version: int, ends: NDArray[np.int64], values: NDArray[np.int64], sums: NDArray[np.uint64]) -> bytes:
    """One page; arrays of 64 slots as of `encode_pages`."""
    return next(encode_pages(ends, values, sums, np.zeros(1, np.int64), np.array([version])))


def decode_page(body: bytes) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Source version, then ends, values and sums, shapes (64, RING + 2), (64, RING + 2, 6), (64, 3).

    Raises:
        CorruptPage: the bytes are no such page.
    """
    if len(body) < _SIZE.size:
        raise CorruptPage(f"a window page of {len(body)} bytes")
    stop = _SIZE.size + _SIZE.unpack_from(body)[0]
    version, rows = decode_block(
        body[_SIZE.size : stop], "the first block of a window page", n_rows=_N_ROWS, k=_N_COLUMNS
    )
    behind, sums = decode_block(body[stop:], "the second block of a window page", n_rows=PAGE_SLOTS, k=_N_SUMS)
    windows = rows.reshape(PAGE_SLOTS, N_OPEN, _N_COLUMNS)
    ends, values = windows[:, :, 0], windows[:, :, 1:]
    is_open = windows.any(axis=2)
    if version != behind or (ends[:, RING:] % _LENGTHS_S).any() or (values[:, :, COUNT][is_open] <= 0).any():
        raise CorruptPage(f"a window page of {len(body)} bytes has windows that cannot be, or blocks of two versions")
    return version, np.where(is_open, ends, NOT_OPEN), values, sums.view(np.uint64)


@numba.njit(cache=True, nogil=True)
def _lay_out(ends, values, numbers, rows):  # type: ignore[no-untyped-def]
    """Fill `rows`, shape (n, 64 * (RING + 2), 7), with the windows of pages; zeros where none is open."""
    for page in range(numbers.shape[0]):
        for i in range(_N_ROWS):
            slot, place = numbers[page] * PAGE_SLOTS + i // N_OPEN, i % N_OPEN
            if ends[slot, place] == NOT_OPEN:
                for c in range(_N_COLUMNS):
                    rows[page, i, c] = 0
            else:
                rows[page, i, 0] = ends[slot, place]
                for f in range(N_VALUES):
                    rows[page, i, 1 + f] = values[slot, place, f]
