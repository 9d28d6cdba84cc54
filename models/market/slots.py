"""Slots: the dense numbers under which one partition keeps its instruments, found by hash in compiled code."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from models.market.instruments import INSTRUMENT_REF, Instrument

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio (Knuth, TAOCP 6.4, Fibonacci hashing)


class SlotTable:
    """Open addressing with linear probing, at most half full: 64-bit instrument hash -> slot 0, 1, 2...

    A slot is never given back: state pages are addressed by it.
    """

    def __init__(self) -> None:
        self.instruments: list[Instrument] = []  # by slot
        self.hashes = np.zeros(64, np.uint64)  # by slot
        self.price_exp = np.zeros(64, np.int8)
        self.size_exp = np.zeros(64, np.int8)
        self._keys = np.zeros(128, np.uint64)  # 0 = free
        self._slots = np.zeros(128, np.int32)

    def __len__(self) -> int:
        return len(self.instruments)

    def refs(self) -> NDArray[np.void]:
        """INSTRUMENT_REF by slot."""
        refs = np.zeros(len(self), INSTRUMENT_REF)
        for name, column in (("hash", self.hashes), ("price_exp", self.price_exp), ("size_exp", self.size_exp)):
            refs[name] = column[: len(self)]
        return refs

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Slots of hashes, shape (k,); -1 where the hash has none."""
        found = np.empty(len(hashes), np.int32)
        _find(self._keys, self._slots, hashes, found)
        return found

    def resolve(self, refs: NDArray[np.void]) -> tuple[NDArray[np.int32], int, int]:
        """Slots of refs (INSTRUMENT_REF, shape (k,), contiguous) as `find` gives them.

        Returns:
            the slots, how many have none, and of how many the exponents are not those of the slot.
        """
        found = np.empty(len(refs), np.int32)
        missing, differing = _resolve(
            self._keys, self._slots, self.price_exp, self.size_exp, refs.view(np.uint64), found
        )
        return found, missing, differing

    def add(self, instrument: Instrument) -> int:
        """Slot of an instrument, a new one if it has none."""
        key = np.array([instrument.hash], np.uint64)
        if (known := int(self.find(key)[0])) >= 0:
            return known
        slot = len(self.instruments)
        if slot == len(self.hashes):
            self.hashes, self.price_exp, self.size_exp = (
                np.concatenate([a, np.zeros_like(a)]) for a in (self.hashes, self.price_exp, self.size_exp)
            )
            self._keys, self._slots = np.zeros(4 * slot, np.uint64), np.zeros(4 * slot, np.int32)
            _insert(self._keys, self._slots, self.hashes[:slot], 0)
        self.instruments.append(instrument)
        self.hashes[slot] = instrument.hash
        self.price_exp[slot], self.size_exp[slot] = instrument.price_exp, instrument.size_exp
        _insert(self._keys, self._slots, key, slot)
        return slot


@numba.njit(cache=True, nogil=True)
def _slot(keys, slots, hash_):  # type: ignore[no-untyped-def]
    mask = np.uint64(keys.shape[0] - 1)
    at = (hash_ * _MULTIPLIER >> np.uint64(32)) & mask
    while keys[at] != 0 and keys[at] != hash_:
        at = (at + np.uint64(1)) & mask
    return slots[at] if keys[at] != 0 else np.int32(-1)


@numba.njit(cache=True, nogil=True)
def _find(keys, slots, hashes, found):  # type: ignore[no-untyped-def]
    for i in range(hashes.shape[0]):
        found[i] = _slot(keys, slots, hashes[i])


@numba.njit(cache=True, nogil=True)
def _resolve(keys, slots, price_exp, size_exp, refs, found):  # type: ignore[no-untyped-def]
    """`refs` are INSTRUMENT_REF as two words each: the hash, then the exponents in the lowest two bytes."""
    missing = differing = 0
    for i in range(found.shape[0]):
        slot = found[i] = _slot(keys, slots, refs[2 * i])
        if slot < 0:
            missing += 1
        else:
            exponents = refs[2 * i + 1]
            if (
                np.int8(exponents & np.uint64(255)) != price_exp[slot]
                or np.int8(exponents >> np.uint64(8) & np.uint64(255)) != size_exp[slot]
            ):
                differing += 1
    return missing, differing


@numba.njit(cache=True, nogil=True)
def _insert(keys, slots, hashes, first):  # type: ignore[no-untyped-def]
    mask = np.uint64(keys.shape[0] - 1)
    for i in range(hashes.shape[0]):
        at = (hashes[i] * _MULTIPLIER >> np.uint64(32)) & mask
        while keys[at] != 0:
            at = (at + np.uint64(1)) & mask
        keys[at] = hashes[i]
        slots[at] = first + i
