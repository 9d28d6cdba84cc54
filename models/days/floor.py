"""The markets of a generated day as arrays: what its kernel (`trading.py`) works on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVELS = 16  # a side
ORDERS = 128  # a market has that will be taken out again
MAX_FILLS = 6  # prints of a market order

Ints = NDArray[np.int64]

MARKET = np.dtype(
    [
        ("tick", "<i8"),  # price mantissa of one tick
        ("unit", "<i8"),  # size mantissa of one unit
        ("spread", "<i8"),  # usual spread, ticks
        ("anchor", "<i8"),  # opening price in ticks; trades lean back to it
        ("lag_ns", "<i8"),  # delay of the feed, venue clock included
        ("update_id", "<i8"),
        ("trade_id", "<i8"),
        ("recv_ns", "<i8"),  # last time of receipt
        ("left", "<i8"),  # arrivals to come
        ("owed", "<i8"),  # arrivals whose place was taken
        ("n_orders", "<i8"),
        ("aggressor", "<i8"),  # of the last trade
        ("wide", "<i8"),  # 1 while nobody quotes inside the spread
        ("silent", "<i8"),  # 1 while messages get lost
    ]
)
LEVEL = np.dtype([("price", "<i8"), ("size", "<i8")])  # ticks, units
ORDER = np.dtype([("until_ns", "<i8"), ("price", "<i8"), ("size", "<i8"), ("side", "<i8")])


class Floor(NamedTuple):
    """All markets of a day; a side's line is `2 * market + (0 bids, 1 asks)`, best level first."""

    markets: NDArray[np.void]  # MARKET[markets]
    levels: NDArray[np.void]  # LEVEL[2 * markets, LEVELS]
    depth: Ints  # [2 * markets] levels in use
    orders: NDArray[np.void]  # ORDER[markets, ORDERS]
    life_ns: Ints  # quantiles of how long an order stands
    lag_ns: Ints  # quantiles of a message's own delay
    odds: NDArray[np.float64]  # trade_share, split_share, round_lot_share
    stamp_ns: int  # grid of the venue's clock
    base_units: int  # usual size of an order
    random: NDArray[np.uint64]  # [1] state
    filled: Ints  # [MAX_FILLS, 2] work space of a trade: price and what is left of a level
