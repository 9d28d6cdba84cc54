"""`md.tick.v1`: one row of 64 bytes, int64 fixed point; docs/wire.md says which kind uses which field how."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

TICK = np.dtype(
    [
        ("ts_event", "<i8"),  # ns UTC, the venue's time
        ("ts_recv", "<i8"),  # ns UTC, capture time: the ordering key together with seq
        ("seq", "<u8"),  # position in its source, strictly rising
        ("venue_seq", "<i8"),  # update id of the venue, 0 = none
        ("price", "<i8"),  # mantissa; value = price * 10**price_exp
        ("size", "<i8"),  # mantissa; value = size * 10**size_exp
        ("ref_id", "<i8"),  # trade id, previous update id, period: by kind
        ("instrument_id", "<i4"),  # index into the frame's or day's list of instruments, -1 = none
        ("kind", "u1"),
        ("action", "u1"),
        ("side", "u1"),
        ("flags", "u1"),
    ]
)
TickArray = NDArray[np.void]  # one-dimensional, dtype TICK
RAW = np.dtype(f"V{TICK.itemsize}")  # a tick as bytes: NumPy copies structured rows field by field, ten times slower


class Kind(IntEnum):
    TRADE = 1
    QUOTE = 2  # one side of the best bid and offer; a two-sided quote is two rows
    BOOK = 3  # L2 level, snapshot or delta
    ORDER = 4  # L3 order
    FUNDING = 5
    OPEN_INTEREST = 6
    LIQUIDATION = 7
    VOLATILITY = 8
    CONTROL = 9
    LONG_SHORT = 10
    BAR = 11


class Action(IntEnum):
    ADD = 1
    UPDATE = 2
    DELETE = 3
    CLEAR = 4
    TRADE = 5


class Side(IntEnum):
    NONE = 0
    BID = 1  # or buyer aggressor
    ASK = 2  # or seller aggressor


class Flag(IntFlag):
    LAST = 128  # last row of its event
    TOB = 64  # top of book
    SNAPSHOT = 32
    MBP = 16  # aggregated by price level
    BAD_TS_RECV = 8
    MAYBE_BAD_BOOK = 4
