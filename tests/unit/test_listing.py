"""Lists of instruments: their bytes, and that they are read as what was written."""

from __future__ import annotations

import numpy as np
import pytest

from models.market.instruments import INSTRUMENT_REF
from models.market.listing import listing_bytes, pack_listing, unpack_listing


def refs(k: int) -> np.ndarray:
    """Instruments whose hashes and exponents all differ as far as they can."""
    listed = np.zeros(k, INSTRUMENT_REF)
    listed["hash"] = np.arange(1, k + 1, dtype=np.uint64) * np.uint64(0x0123456789ABCDEF)
    listed["price_exp"], listed["size_exp"] = np.arange(k) % 200 - 100, np.arange(k) % 200 - 99
    return listed


def test_bytes_are_columns_of_hashes_and_exponents_up_to_a_multiple_of_8() -> None:
    listed = refs(3)
    listed["hash"] = [1, 2**64 - 1, 0x0807060504030201]
    listed["price_exp"], listed["size_exp"] = [-9, 0, -128], [-8, 127, -2]
    hashes = "0100000000000000 ffffffffffffffff 0102030405060708"
    assert pack_listing(listed) == bytes.fromhex(f"{hashes} f70080 f87ffe 0000")


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 8, 9, 255, 2000])
def test_any_number_of_instruments_comes_back_from_anywhere(k: int) -> None:
    listed = refs(k)
    packed = pack_listing(listed)
    assert len(packed) == listing_bytes(k) == -(-10 * k // 8) * 8
    for before in (0, 3, 64):
        assert unpack_listing(b"\xff" * before + packed + b"\xff", before, k).tobytes() == listed.tobytes()


def test_instruments_of_a_strided_array_are_packed_like_others() -> None:
    assert pack_listing(refs(9)[::2]) == pack_listing(refs(9)[::2].copy())
