"""Window pages: what 64 instruments have open, and the sums of what they closed; absent windows take no bytes.

Body: source version i64, then an instrument after the other, in i64: a mask of its open windows (bit = place: RING
seconds, ten seconds, minute; bit 62 = it has sums), the three sums if it has any, seven numbers a window.
"""

from __future__ import annotations

import struct

import numba
import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptPage
from models.market.conflate import PAGE_SLOTS
from models.windows.window import COUNT, INTERVALS_S, N_OPEN, N_VALUES, NOT_OPEN, RING

_VERSION = struct.Struct("<q")
_N_SUMS = len(INTERVALS_S)
_HAS_SUMS = 1 << 62
_MOST = PAGE_SLOTS * (1 + _N_SUMS + N_OPEN * (1 + N_VALUES))
_LENGTHS_S = np.array((INTERVALS_S[0],) * RING + INTERVALS_S[1:], np.int64)  # by place


def encode_page(version: int, ends: NDArray[np.int64], values: NDArray[np.int64], sums: NDArray[np.uint64]) -> bytes:
    """`ends` int64[64, RING + 2], `values` int64[64, RING + 2, 6], `sums` uint64[64, 3]; as in `Windows`."""
    out = np.empty(_MOST, np.int64)
    n = _encode(ends, values, sums.view(np.int64), out)
    return _VERSION.pack(version) + out[:n].astype("<i8", copy=False).tobytes()


def decode_page(body: bytes) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Source version, then ends, values and sums as `encode_page` takes them. Raises: CorruptPage."""
    ends = np.full((PAGE_SLOTS, N_OPEN), NOT_OPEN, np.int64)
    values = np.zeros((PAGE_SLOTS, N_OPEN, N_VALUES), np.int64)
    sums = np.zeros((PAGE_SLOTS, _N_SUMS), np.int64)
    if len(body) < _VERSION.size or len(body) % 8:
        raise CorruptPage(f"a window page of {len(body)} bytes")
    if not _decode(np.frombuffer(body, "<i8", offset=_VERSION.size), ends, values, sums):
        raise CorruptPage(f"a window page of {len(body)} bytes does not hold {PAGE_SLOTS} instruments")
    return _VERSION.unpack_from(body)[0], ends, values, sums.view(np.uint64)


@numba.njit(cache=True, nogil=True)
def _encode(ends, values, sums, out):  # type: ignore[no-untyped-def]
    at = 0
    for slot in range(PAGE_SLOTS):
        head = at
        at += 1
        mask = np.int64(0)
        if sums[slot, 0] or sums[slot, 1] or sums[slot, 2]:
            mask |= _HAS_SUMS
            for k in range(_N_SUMS):
                out[at + k] = sums[slot, k]
            at += _N_SUMS
        for w in range(N_OPEN):
            if ends[slot, w] != NOT_OPEN:
                mask |= np.int64(1) << w
                out[at] = ends[slot, w] // _LENGTHS_S[w] - 1
                for f in range(N_VALUES):
                    out[at + 1 + f] = values[slot, w, f]
                at += 1 + N_VALUES
        out[head] = mask
    return at


@numba.njit(cache=True, nogil=True)
def _decode(words, ends, values, sums):  # type: ignore[no-untyped-def]
    """False unless the words are exactly a page."""
    at = 0
    for slot in range(PAGE_SLOTS):
        if at >= words.shape[0]:
            return False
        mask = words[at]
        at += 1
        if mask & ~np.int64(_HAS_SUMS | ((1 << N_OPEN) - 1)):
            return False
        n = _N_SUMS if mask & _HAS_SUMS else 0
        for w in range(N_OPEN):
            n += (1 + N_VALUES) * ((mask >> w) & 1)
        if at + n > words.shape[0]:
            return False
        if mask & _HAS_SUMS:
            for k in range(_N_SUMS):
                sums[slot, k] = words[at + k]
            at += _N_SUMS
        for w in range(N_OPEN):
            if (mask >> w) & 1:
                ends[slot, w] = (words[at] + 1) * _LENGTHS_S[w]
                for f in range(N_VALUES):
                    values[slot, w, f] = words[at + 1 + f]
                at += 1 + N_VALUES
                if values[slot, w, COUNT] <= 0:
                    return False
    return at == words.shape[0]
