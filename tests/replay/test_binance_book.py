"""Books rebuilt from recorded Binance streams agree with the venue's own best bid and offer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.market.book import BookPool
from models.market.levels import LIVE
from models.market.tick import Action, Flag, Kind, TickArray
from streams.days.importers.binance import CaptureFile
from streams.days.importers.report import ImportReport
from tests.books import check_structure

pytestmark = pytest.mark.data

# Series -> how often a diff brings a book to an update id that a book ticker before it had: 7,265 times in all.
COMPARISONS = {
    "usdm_btcusdt": 503,
    "usdm_ethusdt": 471,
    "cm_btcusd_perp": 1885,
    "cm_ethusd_perp": 2278,
    "spot_btcusdt": 1072,
    "spot_ethusdt": 1056,
}


def recorded(folder: Path, series: str) -> Iterator[TickArray]:
    """Events of book and quotes in order of receipt."""
    report = ImportReport()
    files = sorted((folder / "market_data" / "binance_websocket").glob(f"{series}_2*.gz"))
    assert files, f"no recording of {series}"
    for file in files:
        for rows in CaptureFile(file, 0, report).chunks(lambda n_bytes: None):
            ends = np.flatnonzero(rows["flags"] & Flag.LAST) + 1
            yield from np.split(rows, ends[:-1])
    assert report.problems == []


@pytest.mark.parametrize("series", COMPARISONS)
def test_best_prices_equal_the_venues_at_every_common_update_id(series: str, shared: Path) -> None:
    pool, slots = BookPool(1), np.zeros(10_000, np.int32)
    tickers: dict[int, tuple[int, ...]] = {}  # update id -> bid price, bid size, ask price, ask size
    began_to_await: list[int] = []
    n_rows = n_compared = n_equal = 0
    for version, event in enumerate(recorded(shared, series)):
        update_id = int(event["venue_seq"][0])
        if event["kind"][0] == Kind.QUOTE:
            tickers[update_id] = tuple(np.column_stack([event["price"], event["size"]]).ravel().tolist())
        if event["kind"][0] != Kind.BOOK:
            continue
        n_rows += len(event)
        if len(pool.apply(event, slots[: len(event)], version).gaps):
            began_to_await.append(n_rows - len(event))
        best = pool.best(0)
        assert best is None or best[0] < best[2], f"the book is crossed at update id {update_id}"
        if update_id in tickers and best is not None and event["action"][0] != Action.CLEAR:
            n_compared += 1
            n_equal += best == tickers[update_id]
    assert (n_equal, n_compared) == (COMPARISONS[series], COMPARISONS[series])
    assert began_to_await == [0], "nothing is awaited but the first snapshot"
    assert (pool.header(0).state, pool.header(0).n_rows, pool.n_lost_events) == (LIVE, n_rows, 0)
    check_structure(pool)
