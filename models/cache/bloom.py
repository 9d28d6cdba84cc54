"""Bloom filter: which keys are certainly not there, in some bits a key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import blake2b


class BloomFilter:
    """A set that may say yes to what it does not have, and never no to what it has.

    There is no deletion: fill another one. With `n_expected` keys a foreign key is taken for one of the set with
    probability `false_positives`; with more keys more often.

    Source: Bloom, CACM 1970; size and number of bits a key are the optimum, m = -n ln p / (ln 2)^2 and k = m/n ln 2;
        Kirsch, Mitzenmacher, ESA 2006: two hashes make all k.

    Args:
        n_expected: keys it is made for, at least 1.
        false_positives: 0..1, both open.
    """

    __slots__ = ("_bits", "false_positives", "n_added", "n_bits", "n_expected", "n_hashes")

    def __init__(self, n_expected: int, false_positives: float = 0.01) -> None:
        if n_expected < 1 or not 0 < false_positives < 1:
            raise ValueError(f"{n_expected} keys, a share of {false_positives}: at least 1, and between 0 and 1")
        self.n_expected = n_expected
        self.false_positives = false_positives
        self.n_bits = max(8, math.ceil(-n_expected * math.log(false_positives) / math.log(2) ** 2))
        self.n_hashes = max(1, round(self.n_bits / n_expected * math.log(2)))
        self.n_added = 0
        self._bits = bytearray(-(-self.n_bits // 8))

    def __repr__(self) -> str:
        return f"BloomFilter({self.n_added}/{self.n_expected} keys, {len(self._bits)} bytes, {self.n_hashes} hashes)"

    @property
    def n_bytes(self) -> int:
        return len(self._bits)

    @property
    def is_full(self) -> bool:
        """More keys than it is made for: it says yes too often."""
        return self.n_added > self.n_expected

    def add(self, key: str) -> None:
        """O(n_hashes). A key that seems to be there already does not count again."""
        bits, is_new = self._bits, False
        for at in self._places(key):
            byte, bit = at >> 3, 1 << (at & 7)
            is_new |= not bits[byte] & bit
            bits[byte] |= bit
        self.n_added += is_new

    def __contains__(self, key: str) -> bool:
        """False: it was never added. True: it probably was."""
        bits = self._bits
        return all(bits[at >> 3] >> (at & 7) & 1 for at in self._places(key))

    def _places(self, key: str) -> Iterator[int]:
        # A keyed hash of 128 bits, not Python's own: that differs between processes, and is not even for numbers.
        digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        first, second = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little") | 1
        return ((first + i * second) % self.n_bits for i in range(self.n_hashes))
