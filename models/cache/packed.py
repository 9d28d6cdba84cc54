"""The rows that a round changed, packed for Redis and for readers by one compiled loop: nothing per key in Python."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.cache.invalidation import CHANGE, MAX_AGE, NO_ROW
from models.cache.rows import ROW_BYTES
from models.market import facets
from models.market.conflate import Rows
from models.market.facets import FACETS, N_ROW_FACETS
from models.market.slots import SlotTable

_N_FACETS = len(FACETS)
_VERSION, _EVENT, _RECV, _N, _V0 = facets.VERSION, facets.TS_EVENT, facets.TS_RECV, facets.N_ROWS, facets.V0
_N_VALUES = facets.N_VALUES
_NO_ROW = NO_ROW


class PackedRows(NamedTuple):
    """Rows in the order of the given slots and, of one slot, of rising facet.

    A name is `slot * 16 + facet`.

    Attributes:
        names: int32[m], of the rows that are there.
        redis: their rows as Redis holds them, 80 bytes each; a view of bytes.
        absent: int32[k], names whose row is gone.
        carried: all of them as an invalidation carries them, 72 bytes each; None if one is too old to be told so, or if
            nobody asked for it.
    """

    names: NDArray[np.int32]
    redis: memoryview
    absent: NDArray[np.int32]
    carried: bytes | None


def pack_changes(
    rows: Rows, table: SlotTable, slots: NDArray[np.int32], bits: NDArray[np.uint64], *, to_version: int,
    carry: bool = True,
) -> PackedRows:  # fmt: skip
    """Pack what changed. About 30 ns a row.

    Args:
        slots, bits: shape (n,), slots and their facets, bit = facet number; the book's bit is passed over.
        to_version: what the invalidation announces; no row is newer.
        carry: whether `carried` is wanted.
    """
    redis, carried, names, absent, n, n_absent, oldest = _pack(
        rows.rows, rows.plane_of, table.price_exp, table.size_exp, slots, bits, to_version, carry
    )
    told = carried.tobytes() if carry and to_version - oldest <= MAX_AGE else None
    return PackedRows(names[:n], redis[: n * ROW_BYTES].data, absent[:n_absent], told)


def named_changes(table: SlotTable, slots: NDArray[np.int32], bits: NDArray[np.uint64]) -> NDArray[np.void]:
    """Dtype CHANGE, shape (n,): the same slots by the hashes of their instruments."""
    changes: NDArray[np.void] = _named(table.hashes, slots, bits).view(CHANGE)
    return changes


@numba.njit(cache=True, nogil=True)
def _named(hashes, slots, bits):  # type: ignore[no-untyped-def]
    words = np.empty(2 * slots.shape[0], np.uint64)
    for i in range(slots.shape[0]):
        words[2 * i], words[2 * i + 1] = hashes[slots[i]], bits[i]
    return words


@numba.njit(cache=True, nogil=True)
def _pack(rows, plane_of, price_exp, size_exp, slots, bits, to_version, carry):  # type: ignore[no-untyped-def]
    most = np.int64(0)
    for i in range(slots.shape[0]):
        for facet in range(N_ROW_FACETS):
            most += np.int64(bits[i] >> np.uint64(facet) & np.uint64(1))
    redis, carried = np.empty((most, 10), np.int64), np.empty((most if carry else 0, 9), np.int64)
    names, absent = np.empty(most, np.int32), np.empty(most, np.int32)
    n = n_absent = m = 0
    oldest = to_version
    for i in range(slots.shape[0]):
        slot = slots[i]
        for facet in range(N_ROW_FACETS):
            if bits[i] >> np.uint64(facet) & np.uint64(1) == 0:
                continue
            plane, name = plane_of[facet], slot * _N_FACETS + facet
            if plane < 0 or rows[plane, slot, _N] == 0:
                absent[n_absent] = name
                n_absent += 1
                if carry:
                    for c in range(8):
                        carried[m, c] = 0
                    carried[m, 8] = _NO_ROW << 16
                    m += 1
                continue
            version = rows[plane, slot, _VERSION]
            oldest = min(oldest, version)
            tail = np.int64(price_exp[slot]) & 255 | (np.int64(size_exp[slot]) & 255) << 8 | np.int64(facet) << 16
            swapped, left = np.uint64(0), np.uint64(version)
            for _ in range(8):
                swapped = swapped << np.uint64(8) | left & np.uint64(255)
                left >>= np.uint64(8)
            redis[n, 0] = np.int64(swapped)
            redis[n, 1], redis[n, 2] = rows[plane, slot, _EVENT], rows[plane, slot, _RECV]
            for c in range(_N_VALUES):
                redis[n, 3 + c] = rows[plane, slot, _V0 + c]
            redis[n, 9] = tail
            if carry:
                for c in range(8):
                    carried[m, c] = redis[n, 1 + c]
                carried[m, 8] = tail | (to_version - version) << 24
                m += 1
            names[n] = name
            n += 1
    return redis.reshape(-1).view(np.uint8), carried, names, absent, n, n_absent, oldest
