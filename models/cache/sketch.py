"""How often a key was met lately, in two bytes a counter: an estimate that is never too low until it fades."""

from __future__ import annotations

from collections.abc import Hashable

_MAX_COUNT = 15
_HALVED = bytes(i >> 1 for i in range(256))
_COUNTERS_A_KEY = 16  # a row: ten times as many keys may be met as are held before counts fade
_SAMPLE = 10  # keys met for one held, before all counts are halved (Einziger et al. 2017, section 3.3)
_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio (Knuth, volume 3, 6.4): whole numbers hash to themselves
_MASK = (1 << 64) - 1


class FrequencySketch:
    """Count-min in two rows of bytes, counts up to 15, halved all at once after ten reads for each key held.

    Source: Cormode, Muthukrishnan 2005 (count-min); Einziger, Friedman, Manes 2017, "TinyLFU" (reset by halving).
    """

    __slots__ = ("_first", "_mask", "_met", "_n_keys", "_second")

    def __init__(self, n_keys: int) -> None:
        size = 1 << (max(8, n_keys * _COUNTERS_A_KEY) - 1).bit_length()
        self._first, self._second = bytearray(size), bytearray(size)
        self._mask = size - 1
        self._n_keys = max(1, n_keys)
        self._met = 0

    def __len__(self) -> int:
        """Counters in a row."""
        return self._mask + 1

    def meet(self, key: Hashable) -> None:
        """Count a key."""
        mixed = hash(key) * _MIX & _MASK
        i, j = mixed >> 40 & self._mask, mixed >> 16 & self._mask
        first, second = self._first[i], self._second[j]
        if first < _MAX_COUNT or second < _MAX_COUNT:  # a key that is at its limit hurries no fading
            if first < _MAX_COUNT:
                self._first[i] = first + 1
            if second < _MAX_COUNT:
                self._second[j] = second + 1
            self._met += 1
            if self._met >= _SAMPLE * self._n_keys:
                self._fade()

    def count(self, key: Hashable) -> int:
        mixed = hash(key) * _MIX & _MASK
        return min(self._first[mixed >> 40 & self._mask], self._second[mixed >> 16 & self._mask])

    def make_room(self, n_keys: int) -> None:
        """Grow for so many keys held; what was counted stays counted."""
        self._n_keys = max(self._n_keys, n_keys)
        while n_keys * _COUNTERS_A_KEY > len(self):
            self._first = self._first * 2  # with one more bit a key's counter is in either half
            self._second = self._second * 2
            self._mask = len(self._first) - 1

    def _fade(self) -> None:
        self._first = self._first.translate(_HALVED)
        self._second = self._second.translate(_HALVED)
        self._met //= 2
