"""Facets: what the worker keeps per instrument, and which tick field lands in which value of its row (docs/wire.md)."""

from __future__ import annotations

from models.market.tick import Kind

BAR_INTERVALS_S = {"1s": 1, "10s": 10, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86400}

FACETS: tuple[str, ...] = (
    "trade",
    "quote",
    "funding",
    "open_interest",
    "liquidation",
    "volatility",
    "lsr_top",
    "lsr_all",
    *(f"ohlcv:{name}" for name in BAR_INTERVALS_S),
    "book",
)
TRADE, QUOTE, FUNDING, OPEN_INTEREST, LIQUIDATION, VOLATILITY, LSR_TOP, LSR_ALL = range(8)
FIRST_BAR = 8
BOOK = len(FACETS) - 1
N_ROW_FACETS = BOOK  # the book is not a row

# Columns of a state row, all int64.
VERSION, TS_EVENT, TS_RECV, N_ROWS, V0 = range(5)
N_VALUES = 6
N_COLUMNS = V0 + N_VALUES

# Kinds whose rows number their field in `side` and lie in the facet of the same name.
FIELD_FACETS = {Kind.FUNDING: FUNDING, Kind.OPEN_INTEREST: OPEN_INTEREST, Kind.VOLATILITY: VOLATILITY}


def facet_number(name: str) -> int | None:
    """Number of a facet's name, None if there is none."""
    return FACETS.index(name) if name in FACETS else None
