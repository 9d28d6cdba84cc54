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
from models.windows.tumbling import N_OPEN
from models.windows.window import COUNT, INTERVALS_S, N_FIELDS

_VERSION = struct.Struct("<q")
_N_SUMS = len(INTERVALS_S)
_HAS_SUMS = 1 << 62
_MOST = PAGE_SLOTS * (1 + _N_SUMS + N_OPEN * N_FIELDS)


def encode_page(version: int, open_: NDArray[np.int64], sums: NDArray[np.uint64]) -> bytes:
    """`open_` int64[64, RING + 2, 7], `sums` uint64[64, 3]."""
    out = np.empty(_MOST, np.int64)
    n = _encode(open_, sums.view(np.int64), out)
    return _VERSION.pack(version) + out[:n].astype("<i8", copy=False).tobytes()


def decode_page(body: bytes) -> tuple[int, NDArray[np.int64], NDArray[np.uint64]]:
    """Source version, open windows int64[64, RING + 2, 7] and sums uint64[64, 3]. Raises: CorruptPage."""
    open_ = np.zeros((PAGE_SLOTS, N_OPEN, N_FIELDS), np.int64)
    sums = np.zeros((PAGE_SLOTS, _N_SUMS), np.int64)
    if len(body) < _VERSION.size or len(body) % 8:
        raise CorruptPage(f"a window page of {len(body)} bytes")
    if not _decode(np.frombuffer(body, "<i8", offset=_VERSION.size), open_, sums):
        raise CorruptPage(f"a window page of {len(body)} bytes does not hold {PAGE_SLOTS} instruments")
    return _VERSION.unpack_from(body)[0], open_, sums.view(np.uint64)


@numba.njit(cache=True, nogil=True)
def _encode(open_, sums, out):  # type: ignore[no-untyped-def]
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
            if open_[slot, w, COUNT]:
                mask |= np.int64(1) << w
                for f in range(N_FIELDS):
                    out[at + f] = open_[slot, w, f]
                at += N_FIELDS
        out[head] = mask
    return at


@numba.njit(cache=True, nogil=True)
def _decode(words, open_, sums):  # type: ignore[no-untyped-def]
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
            n += N_FIELDS * ((mask >> w) & 1)
        if at + n > words.shape[0]:
            return False
        if mask & _HAS_SUMS:
            for k in range(_N_SUMS):
                sums[slot, k] = words[at + k]
            at += _N_SUMS
        for w in range(N_OPEN):
            if (mask >> w) & 1:
                for f in range(N_FIELDS):
                    open_[slot, w, f] = words[at + f]
                at += N_FIELDS
                if open_[slot, w, COUNT] <= 0:
                    return False
    return at == words.shape[0]
