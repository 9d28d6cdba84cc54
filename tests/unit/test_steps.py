"""What a round becomes for Redis and for readers: which rows travel, and when they may leave before Redis has them."""

from __future__ import annotations

import numpy as np
import pytest

from models.cache.invalidation import ROW_BYTES
from models.market.tick import Action, Kind, Side, TickArray
from streams.cache.steps import Step, market_batch, market_rewrite, market_step
from streams.kafka.owned import OwnedPartition
from tests.books import snapshot
from tests.feeds import INSTRUMENTS, Sent, event


def trade(price: int) -> TickArray:
    return event(Kind.TRADE, [{"action": Action.TRADE, "side": Side.BID, "price": price, "size": 1}])


def owned_after(*events: TickArray) -> OwnedPartition:
    """A partition that applied these events of its first instrument, a frame each."""
    owned = OwnedPartition(0, "", token=1)
    owned.market.add(INSTRUMENTS[:2])
    for version, rows in enumerate(events):
        rows["instrument_id"], rows["seq"] = 0, np.arange(len(rows)) + 10 * version + 1
        owned.market.apply([Sent(7, rows, [0]).opened(version)])
    return owned


def step_of(owned: OwnedPartition, carried_rows: int = 10) -> Step:
    return market_step(owned, carried_rows=carried_rows)


def test_a_step_of_rows_alone_need_not_wait_for_redis() -> None:
    step = step_of(owned := owned_after(trade(5)))
    assert step.stands_alone
    assert step.rows is not None
    assert len(step.rows) == ROW_BYTES
    assert list(market_batch(owned).row_keys) == [f"md:{{p0}}:{INSTRUMENTS[0].text}:trade".encode()]


def test_a_step_with_a_book_waits_and_carries_its_other_rows() -> None:
    step = step_of(owned_after(trade(5), snapshot(3, {1: 1}, {2: 1})))
    assert not step.stands_alone
    assert step.rows is not None
    assert len(step.rows) == ROW_BYTES


@pytest.mark.parametrize("carried_rows", [0, 1])
def test_a_step_of_more_rows_than_may_travel_carries_none_and_waits(carried_rows: int) -> None:
    funding = event(Kind.FUNDING, [{"action": Action.UPDATE, "price": 1}])
    step = step_of(owned := owned_after(trade(5), funding), carried_rows)
    assert step.rows is None
    assert not step.stands_alone
    assert len(market_batch(owned).row_keys) == 2


def test_redis_gets_what_several_steps_told_and_what_no_step_told_yet() -> None:
    owned = owned_after(trade(5))
    step_of(owned)
    rows = event(Kind.FUNDING, [{"action": Action.UPDATE, "price": 1}])
    rows["instrument_id"], rows["seq"] = 1, 100
    owned.market.apply([Sent(7, rows, [0, 1]).opened(5)])
    batch = market_batch(owned)
    assert len(batch.row_keys) == 2, "its mark says that it holds all that was applied"
    assert batch.to_version == 5
    assert len(market_batch(owned).row_keys) == 0
    assert step_of(owned).changes["hash"].tolist() == [INSTRUMENTS[1].hash], "readers are still to be told"


def test_a_rewrite_names_every_row_and_book_that_is_there() -> None:
    owned = owned_after(trade(5), snapshot(3, {1: 1}, {2: 1}))
    step_of(owned)
    batch, known = market_rewrite(owned)
    stem = f"md:{{p0}}:{INSTRUMENTS[0].text}:"
    assert known == {(stem + facet).encode() for facet in ("trade", "book")}
    assert list(batch.row_keys) == [(stem + "trade").encode()]
    assert batch.rewrite
