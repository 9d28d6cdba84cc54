"""Rows that changed and that somebody was not told of yet."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from models.market.facets import BOOK

_BOOK = np.uint64(1 << BOOK)


class Touched:
    """Slots and their facets, each once, united over any number of rounds."""

    def __init__(self) -> None:
        self._mask = np.zeros(64, np.uint64)  # by slot, bit = facet number

    def add(self, slots: NDArray[np.int32], bits: NDArray[np.uint64]) -> None:
        """Unite with these slots and the bits of their facets, both of shape (n,)."""
        while (highest := _unite(self._mask, slots, bits)) >= 0:
            grown = np.zeros(2 * (highest + 1), np.uint64)
            grown[: len(self._mask)] = self._mask
            self._mask = grown

    def take(self) -> TouchedRows:
        """All of them; nothing remains."""
        return TouchedRows(*_take(self._mask))


class TouchedRows(NamedTuple):
    """What was touched.

    Attributes:
        slots: int32[n], rising.
        bits: uint64[n], their facets, bit = facet number.
        n_rows: how many rows these are, books left out.
        n_books: how many books.
    """

    slots: NDArray[np.int32]
    bits: NDArray[np.uint64]
    n_rows: int
    n_books: int


@numba.njit(cache=True, nogil=True)
def _unite(mask, slots, bits):  # type: ignore[no-untyped-def]
    """Returns -1, or the highest slot where the mask is too short: then nothing was done."""
    highest = np.int64(-1)
    for i in range(slots.shape[0]):
        highest = max(highest, np.int64(slots[i]))
    if highest >= mask.shape[0]:
        return highest
    for i in range(slots.shape[0]):
        mask[slots[i]] |= bits[i]
    return np.int64(-1)


@numba.njit(cache=True, nogil=True)
def _take(mask):  # type: ignore[no-untyped-def]
    n = n_rows = n_books = 0
    for slot in range(mask.shape[0]):
        n += mask[slot] != 0
    slots, bits = np.empty(n, np.int32), np.empty(n, np.uint64)
    at = 0
    for slot in range(mask.shape[0]):
        if mask[slot] == 0:
            continue
        slots[at], bits[at] = slot, mask[slot]
        at += 1
        n_books += (mask[slot] & _BOOK) != 0
        rows = mask[slot] & ~_BOOK
        while rows:
            rows &= rows - np.uint64(1)
            n_rows += 1
        mask[slot] = 0
    return slots, bits, n_rows, n_books
