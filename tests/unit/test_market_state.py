"""What stands in a market, told as rows: folded into nothing they give the same market again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models.days.state import MarketState
from models.market.fold import OfflineFold
from models.market.tick import Flag, Kind, TickArray
from streams.days.day import Day
from tests.books import diff, snapshot
from tests.feeds import event

DAY = Day.open(Path(__file__).parents[2] / "replay_data" / "sample-day")
AT = 1_760_000_500_000_000_000


@pytest.fixture(scope="module")
def rows() -> TickArray:
    return np.concatenate(list(DAY.batches()))


def held(*parts: TickArray) -> dict[str, tuple[object, ...]]:
    """Quote and book of each instrument after these rows."""
    fold = OfflineFold([instrument.text for instrument in DAY.instruments])
    for part in parts:
        fold.update(part)
    return {f.text: (f.quote, f.bids.tolist(), f.asks.tolist()) for f in fold.finals()}


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 1.0])
def test_a_stream_that_opens_with_what_stands_ends_as_the_whole_does(rows: TickArray, share: float) -> None:
    ends = np.flatnonzero(rows["flags"] & Flag.LAST) + 1
    cuts = [0, *ends[:: len(ends) // 20].tolist(), int(ends[int((len(ends) - 1) * share)])]
    state = MarketState()
    for begin, end in pairwise(sorted({cut for cut in cuts if cut <= cuts[-1]})):
        state.update(rows[begin:end])
    standing = state.rows(AT)
    assert held(standing, rows[cuts[-1] :]) == held(rows)
    assert set(standing["ts_recv"].tolist()) == {AT}
    assert standing["flags"][-1] & Flag.LAST
    assert not set(standing["kind"].tolist()) & {Kind.TRADE, Kind.LIQUIDATION, Kind.BAR}


def test_only_the_instruments_that_are_asked_for_are_told_of(rows: TickArray) -> None:
    state = MarketState()
    state.update(rows)
    whole, some = state.rows(AT), state.rows(AT, [3, 7])
    assert set(some["instrument_id"].tolist()) == {3, 7}
    assert np.array_equal(some, whole[np.isin(whole["instrument_id"], [3, 7])])
    assert not len(state.rows(AT, [99]))
    assert not len(MarketState().rows(AT))


def test_diffs_that_wait_for_a_snapshot_still_wait_behind_what_stands() -> None:
    state = MarketState()
    parts = [snapshot(10, {100: 5}, {101: 6}), diff(10, 11, {99: 4}, {}), diff(13, 14, {98: 3}, {})]  # 12, 13 are lost
    state.update(np.concatenate(parts))
    standing = state.rows(AT)
    assert (standing["flags"] & Flag.SNAPSHOT).astype(bool).tolist() == [True] * 4 + [False]
    again = MarketState()
    again.update(standing)
    assert np.array_equal(again.rows(AT), standing)
    later = snapshot(13, {100: 1}, {101: 1})
    assert held(standing, later) == held(*parts, later)


def test_a_side_of_a_quote_that_is_empty_stays_empty() -> None:
    state = MarketState()
    fields = {"venue_seq": 7, "instrument_id": 2}
    state.update(event(Kind.QUOTE, [{"side": 1, "action": 2, "price": 5, "size": 1, **fields}]))
    state.update(event(Kind.QUOTE, [{"side": 2, "action": 3, **fields}]))
    standing = state.rows(AT)
    assert standing[["side", "action", "price", "size", "venue_seq"]].tolist() == [(1, 2, 5, 1, 7), (2, 3, 0, 0, 7)]
