"""Digest of a run: what every instrument looks like at its end, as one SHA-256; equal at any speed, in any tier."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

DIGEST_VERSION = 1

Numbers = tuple[int, int, int, int, int]
Levels = NDArray[np.int64]  # shape (m, 2): price, size; best first

_LENGTHS = struct.Struct("<HQBBII")  # text bytes, rows, has a trade, has a quote, bids, asks
_NUMBERS = struct.Struct("<5q")


@dataclass(frozen=True, eq=False)
class InstrumentFinal:
    """An instrument after its last row.

    Attributes:
        text: `venue.market_type.SYMBOL`.
        rows: all its rows, of any kind.
        trade: (price, size, side, ref_id, ts_event) of the last trade row; None without one.
        quote: (bid price, bid size, ask price, ask size, venue_seq): each side as its last quote row says (0, 0 if that
            row empties the side or there is none), venue_seq of the last quote row of either side; None without one.
        bids: final book, prices falling; empty if there is none.
        asks: prices rising.
    """

    text: str
    rows: int
    trade: Numbers | None
    quote: Numbers | None
    bids: Levels
    asks: Levels


def serialise(final: InstrumentFinal) -> bytes:
    """Canonical bytes of one instrument, all integers little-endian.

    Length of the text u16 · rows u64 · 1 if a trade follows u8 · 1 if a quote follows u8 · bids u32 · asks u32 · text
    in UTF-8 · trade 5 x i64 · quote 5 x i64 · levels of bids, then asks, each price i64 and size i64.
    """
    text = final.text.encode()
    parts = [
        _LENGTHS.pack(
            len(text), final.rows, final.trade is not None, final.quote is not None, len(final.bids), len(final.asks)
        ),
        text,
    ]
    parts += [_NUMBERS.pack(*numbers) for numbers in (final.trade, final.quote) if numbers is not None]
    parts += [np.ascontiguousarray(levels, "<i8").tobytes() for levels in (final.bids, final.asks)]
    return b"".join(parts)


def digest(finals: Iterable[InstrumentFinal]) -> str:
    """SHA-256 in hex over the instruments that have rows, by the bytes of their texts, in whatever order they come.

    Raises:
        ValueError: two of them have the same text.
    """
    ordered = sorted((final for final in finals if final.rows), key=lambda final: final.text.encode())
    total = sha256(b"MPD" + bytes([DIGEST_VERSION]) + struct.pack("<I", len(ordered)))
    previous = None
    for final in ordered:
        if final.text == previous:
            raise ValueError(f"instrument {final.text} is given twice")
        previous = final.text
        total.update(serialise(final))
    return total.hexdigest()
