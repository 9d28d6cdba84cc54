"""A partition's state as the digest sees it: every instrument after its last row."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import numpy as np

from models.market import facets
from models.market.conflate import OWN_BAR
from models.market.digest import BarsFinal, InstrumentFinal, Numbers
from models.market.partition import MarketPartition
from models.windows.window import INTERVALS


def finals(market: MarketPartition) -> Iterator[InstrumentFinal]:
    """One entry an instrument that has rows, as if the run ended here: windows that are still open count as closed."""
    rows, windows = deepcopy(market.rows), deepcopy(market.windows)
    windows.begin()
    windows.end()
    windows.page_version[:] = rows.page_version[:] = -1  # what is closed here is newer than any page
    windows.close(0)
    rows.put_bars(windows.closed(), 0)
    made = rows.rows[:, :, facets.TS_RECV] == OWN_BAR  # of trades: they are no rows
    made[[facet < facets.FIRST_BAR for facet in rows.facet_of]] = False
    counted = np.where(made, 0, rows.rows[:, :, facets.N_ROWS]).sum(axis=0)
    for slot, instrument in enumerate(market.slots.instruments):
        n_rows = int(counted[slot]) + market.books.header(slot).n_rows
        if not n_rows:
            continue
        bids, asks = market.books.levels(slot)
        yield InstrumentFinal(
            instrument.text,
            n_rows,
            _numbers(market, facets.TRADE, slot),
            _numbers(market, facets.QUOTE, slot),
            bids,
            asks,
            tuple(
                _bars(facet, rows.rows[plane, slot].tolist(), windows.sums[slot].tolist())
                for facet, plane in sorted(zip(rows.facet_of, range(len(rows.facet_of)), strict=True))
                if facet >= facets.FIRST_BAR and rows.rows[plane, slot, facets.N_ROWS]
            ),
        )


def _bars(facet: int, row: list[int], sums: list[int]) -> BarsFinal:
    opened, high, low, close, volume, start_ns = row[facets.V0 :]
    interval = facet - facets.FIRST_BAR
    checksum = sums[interval] if interval < len(INTERVALS) else 0
    return BarsFinal(facet, row[facets.N_ROWS], (opened, high, low, close, volume, start_ns), checksum)


def _numbers(market: MarketPartition, facet: int, slot: int) -> Numbers | None:
    plane = market.rows.plane_of[facet]
    if plane < 0 or not market.rows.rows[plane, slot, facets.N_ROWS]:
        return None
    row = market.rows.rows[plane, slot].tolist()
    v0, v1, v2, v3, v4, _ = row[facets.V0 :]
    return (v0, v1, v2, v3, row[facets.TS_EVENT] if facet == facets.TRADE else v4)
