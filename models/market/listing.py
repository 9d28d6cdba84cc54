"""The list of instruments of a frame and of a record of windows: three columns (docs/wire.md, 'List of instruments').

Columns take 10 bytes an instrument, and lz4 packs one of exponents, which are mostly equal, to almost nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.market.instruments import INSTRUMENT_REF


def listing_bytes(k: int) -> int:
    """Bytes that a list of k instruments takes, zeros at its end included: a multiple of 8."""
    return 10 * k + 7 & ~7


def pack_listing(refs: NDArray[np.void]) -> bytes:
    """The list of these instruments (INSTRUMENT_REF, shape (k,))."""
    zeros = bytes(-2 * len(refs) % 8)
    return b"".join((refs["hash"].tobytes(), refs["price_exp"].tobytes(), refs["size_exp"].tobytes(), zeros))


def unpack_listing(data: bytes, at: int, k: int) -> NDArray[np.void]:
    """The k instruments (INSTRUMENT_REF, shape (k,)) whose list begins at `at`; all of it has to lie in the bytes."""
    refs = np.zeros(k, INSTRUMENT_REF)
    refs["hash"] = np.frombuffer(data, "<u8", k, at)
    refs["price_exp"] = np.frombuffer(data, np.int8, k, at + 8 * k)
    refs["size_exp"] = np.frombuffer(data, np.int8, k, at + 9 * k)
    return refs
