"""Digest of a run: what every instrument looks like at its end, as one SHA-256; equal at any speed, in any tier."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DIGEST_VERSION = 2  # 2: bars

Numbers = tuple[int, int, int, int, int]
Levels = NDArray[np.int64]  # shape (m, 2): price, size; best first

_LENGTHS = struct.Struct("<HQBBIIB")  # text bytes, rows, has a trade, has a quote, bids, asks, bars
_NUMBERS = struct.Struct("<5q")
_BAR = struct.Struct("<BQ6qQ")


class BarsFinal(NamedTuple):
    """All bars of one length of an instrument.

    Attributes:
        facet: number of `ohlcv:<length>`.
        n: windows that closed; of a venue's own bars the rows it sent.
        last: (open, high, low, close, volume, start ns) of the last one.
        checksum: sum of `models.windows.tumbling.checksum` over the windows, so that no bar of the run may differ; a
            length of which the venue sends bars has it too, if its trades are in the log.
    """

    facet: int
    n: int
    last: tuple[int, int, int, int, int, int]
    checksum: int = 0


@dataclass(frozen=True, eq=False)
class InstrumentFinal:
    """An instrument after its last row.

    Attributes:
        text: `venue.market_type.SYMBOL`.
        rows: all its rows but those of single orders (kind 4), which no state keeps; bars made of trades are no rows.
        trade: (price, size, side, ref_id, ts_event) of the last trade row; None without one.
        quote: (bid price, bid size, ask price, ask size, venue_seq): each side as its last quote row says (0, 0 if that
            row empties the side or there is none), venue_seq of the last quote row of either side; None without one.
        bids: final book, prices falling; empty if there is none.
        asks: prices rising.
        bars: by facet number, rising.
    """

    text: str
    rows: int
    trade: Numbers | None
    quote: Numbers | None
    bids: Levels
    asks: Levels
    bars: tuple[BarsFinal, ...] = ()


def serialise(final: InstrumentFinal) -> bytes:
    """Canonical bytes of one instrument, all integers little-endian.

    Length of the text u16 · rows u64 · 1 if a trade follows u8 · 1 if a quote follows u8 · bids u32 · asks u32 ·
    lengths of bars u8 · text in UTF-8 · trade 5 x i64 · quote 5 x i64 · levels of bids, then asks, each price i64 and
    size i64 · bars, each facet u8, n u64, last 6 x i64, checksum u64.
    """
    text = final.text.encode()
    parts = [
        _LENGTHS.pack(
            len(text),
            final.rows,
            final.trade is not None,
            final.quote is not None,
            len(final.bids),
            len(final.asks),
            len(final.bars),
        ),
        text,
    ]
    parts += [_NUMBERS.pack(*numbers) for numbers in (final.trade, final.quote) if numbers is not None]
    parts += [np.ascontiguousarray(levels, "<i8").tobytes() for levels in (final.bids, final.asks)]
    parts += [_BAR.pack(bars.facet, bars.n, *bars.last, bars.checksum) for bars in final.bars]
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
