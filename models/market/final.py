"""A partition's state as the digest sees it: every instrument after its last row."""

from __future__ import annotations

from collections.abc import Iterator

from models.market import facets
from models.market.digest import InstrumentFinal, Numbers
from models.market.partition import MarketPartition


def finals(market: MarketPartition) -> Iterator[InstrumentFinal]:
    """One entry an instrument that has rows."""
    rows = market.rows
    for slot, instrument in enumerate(market.slots.instruments):
        counted = int(rows.rows[:, slot, facets.N_ROWS].sum()) + market.books.header(slot).n_rows
        if not counted:
            continue
        bids, asks = market.books.levels(slot)
        yield InstrumentFinal(
            instrument.text,
            counted,
            _numbers(market, facets.TRADE, slot),
            _numbers(market, facets.QUOTE, slot),
            bids,
            asks,
        )


def _numbers(market: MarketPartition, facet: int, slot: int) -> Numbers | None:
    plane = market.rows.plane_of[facet]
    if plane < 0 or not market.rows.rows[plane, slot, facets.N_ROWS]:
        return None
    row = market.rows.rows[plane, slot].tolist()
    v0, v1, v2, v3, v4, _ = row[facets.V0 :]
    return (v0, v1, v2, v3, row[facets.TS_EVENT] if facet == facets.TRADE else v4)
