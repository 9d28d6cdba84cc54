"""Slots: the dense numbers under which one partition keeps its instruments, found by hash in compiled code."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from models.market.instruments import INSTRUMENT_REF, Instrument
from models.market.prefetch import AHEAD, prefetch

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio (Knuth, TAOCP 6.4, Fibonacci hashing)
_AHEAD = 2 * AHEAD  # a look-up takes 3 to 4 ns when its place is there: half of what other loops do in a step
_HASH, _REST = 0, 1  # a place of the table; the rest: slot, then the two exponents in its bytes 4 and 5


class SlotTable:
    """Open addressing with linear probing, at most half full: 64-bit instrument hash -> slot 0, 1, 2...

    A slot is never given back: state pages are addressed by it.
    """

    def __init__(self) -> None:
        self.instruments: list[Instrument] = []  # by slot
        self._refs = np.zeros(64, INSTRUMENT_REF)  # by slot
        self._places = np.zeros((128, 2), np.uint64)  # one cache line a look-up; hash 0 = free

    def __len__(self) -> int:
        return len(self.instruments)

    @property
    def refs(self) -> NDArray[np.void]:
        """INSTRUMENT_REF by slot: a view, valid until the next `add`."""
        return self._refs[: len(self)]

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """By slot, as `price_exp` and `size_exp`: views, with some room behind the last slot."""
        hashes: NDArray[np.uint64] = self._refs["hash"]
        return hashes

    @property
    def price_exp(self) -> NDArray[np.int8]:
        exponents: NDArray[np.int8] = self._refs["price_exp"]
        return exponents

    @property
    def size_exp(self) -> NDArray[np.int8]:
        exponents: NDArray[np.int8] = self._refs["size_exp"]
        return exponents

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Slots of hashes, shape (k,); -1 where the hash has none."""
        found = np.empty(len(hashes), np.int32)
        _find(self._places, hashes, found)
        return found

    def resolve(self, lists: bytes, counts: Sequence[int]) -> tuple[NDArray[np.int32], int, int]:
        """Slots of listed instruments as `find` gives them. Cost: 4 to 7 ns an instrument.

        Args:
            lists: whole lists (`models.market.listing`), one behind the other.
            counts: how many instruments each lists.

        Returns:
            the slots, how many have none, and of how many the exponents are not those of the slot.
        """
        found = np.empty(sum(counts), np.int32)
        listed, lengths = np.frombuffer(lists, np.uint8), np.array(counts, np.int64)
        missing, differing = _resolve(self._places, listed, lengths, found)
        return found, missing, differing

    def add(self, instrument: Instrument) -> int:
        """Slot of an instrument, a new one if it has none."""
        key = np.array([instrument.hash], np.uint64)
        if (known := int(self.find(key)[0])) >= 0:
            return known
        slot = len(self.instruments)
        if slot == len(self._refs):
            self._refs = np.concatenate([self._refs, np.zeros_like(self._refs)])
            self._places = np.zeros((4 * slot, 2), np.uint64)
            _insert(self._places, self._refs[:slot].view(np.uint64), 0)
        self.instruments.append(instrument)
        self._refs["hash"][slot] = instrument.hash
        self._refs["price_exp"][slot], self._refs["size_exp"][slot] = instrument.price_exp, instrument.size_exp
        _insert(self._places, self._refs[slot : slot + 1].view(np.uint64), slot)
        return slot


@numba.njit(cache=True, nogil=True)
def _place(places, hash_):  # type: ignore[no-untyped-def]
    """Where to begin to look."""
    return hash_ * _MULTIPLIER >> np.uint64(32) & np.uint64(places.shape[0] - 1)


@numba.njit(cache=True, nogil=True)
def _at(places, hash_):  # type: ignore[no-untyped-def]
    """The place of a hash, or the free one that ends the search for it."""
    at = _place(places, hash_)
    while places[at, _HASH] != 0 and places[at, _HASH] != hash_:
        at = (at + np.uint64(1)) & np.uint64(places.shape[0] - 1)
    return at


@numba.njit(cache=True, nogil=True)
def _find(places, hashes, found):  # type: ignore[no-untyped-def]
    for i in range(hashes.shape[0]):
        at = _at(places, hashes[i])
        found[i] = np.int32(places[at, _REST]) if places[at, _HASH] else np.int32(-1)


@numba.njit(cache=True, nogil=True)
def _resolve(places, lists, counts, found):  # type: ignore[no-untyped-def]
    missing = differing = start = i = 0
    for c in range(counts.shape[0]):
        k = counts[c]
        hashes = lists[start : start + 8 * k].view(np.uint64)
        exponents = lists[start + 8 * k : start + 10 * k]
        start += 10 * k + 7 & ~7
        for j in range(min(k, _AHEAD)):
            prefetch(places, (_place(places, hashes[j]),))
        for j in range(k):
            if j + _AHEAD < k:
                prefetch(places, (_place(places, hashes[j + _AHEAD]),))
            at = _at(places, hashes[j])
            if places[at, _HASH] == 0:
                found[i] = -1
                missing += 1
            else:
                rest = places[at, _REST]
                found[i] = np.int32(rest)
                named = np.uint64(exponents[j]) | np.uint64(exponents[k + j]) << np.uint64(8)
                differing += rest >> np.uint64(32) != named
            i += 1
    return missing, differing


@numba.njit(cache=True, nogil=True)
def _insert(places, refs, first):  # type: ignore[no-untyped-def]
    """Give INSTRUMENT_REF, as two words each (the hash, then the exponents in the lowest bytes), slots from `first`."""
    for i in range(refs.shape[0] // 2):
        at = _at(places, refs[2 * i])
        places[at, _HASH] = refs[2 * i]
        places[at, _REST] = np.uint64(first + i) | refs[2 * i + 1] << np.uint64(32)
