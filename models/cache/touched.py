"""Rows that changed and that somebody was not told of yet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Touched:
    """Slots and their facets, each once, united over any number of rounds."""

    def __init__(self) -> None:
        self._mask = np.zeros(64, np.uint64)  # by slot, bit = facet number

    def add(self, slots: NDArray[np.int32], bits: NDArray[np.uint64]) -> None:
        """Unite with these slots, each of which occurs once, and the bits of their facets."""
        if len(slots):
            if (highest := int(slots.max())) >= len(self._mask):
                grown = np.zeros(2 * (highest + 1), np.uint64)
                grown[: len(self._mask)] = self._mask
                self._mask = grown
            self._mask[slots] |= bits

    def take(self) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Slots, rising, and bits of all of them; nothing remains."""
        slots = np.flatnonzero(self._mask).astype(np.int32)
        bits = self._mask[slots]
        self._mask[slots] = 0
        return slots, bits
