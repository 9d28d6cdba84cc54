"""Single orders that rest: what rows say of them, and the rows that say it again."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from models.days.faults import FaultStream
from models.days.orders import RestingOrders
from models.days.plan import FaultPlan
from models.days.state import MarketState
from models.market.instruments import parse
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

AT = 1_760_000_500_000_000_000
ADD, UPDATE, DELETE, CLEAR, TRADE = (int(action) for action in Action)


def order(action: int, name: int, size: int = 0, *, price: int = 100, side: int = 1, instrument: int = 0) -> TickArray:
    row = np.zeros(1, TICK)
    row["kind"], row["flags"], row["instrument_id"] = Kind.ORDER, Flag.LAST, instrument
    row["action"], row["ref_id"], row["size"], row["price"], row["side"] = action, name, size, price, side
    row["ts_event"], row["seq"] = AT - 7, 1
    return row


def market(action: int, instrument: int = 0) -> TickArray:
    return order(action, 0, price=0, side=Side.NONE, instrument=instrument)


def told(orders: RestingOrders, *instruments: int) -> list[tuple[int, ...]]:
    chosen = np.isin(np.arange(4), instruments or range(4))
    rows = orders.rows(chosen)
    return [tuple(row) for row in rows[["instrument_id", "action", "side", "ref_id", "price", "size"]].tolist()]


def after(*rows: TickArray) -> list[tuple[int, ...]]:
    orders = RestingOrders()
    orders.update(np.concatenate(rows))
    return told(orders)[1:]


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([order(ADD, 5, 10)], [(0, ADD, 1, 5, 100, 10)]),
        ([order(ADD, 5, 10), order(DELETE, 5, 4)], [(0, ADD, 1, 5, 100, 6)]),
        ([order(ADD, 5, 10), order(TRADE, 5, 4), order(DELETE, 5, 4)], [(0, ADD, 1, 5, 100, 6)]),
        ([order(ADD, 5, 10), order(DELETE, 5, 4), order(DELETE, 5, 6)], []),
        ([order(ADD, 5, 10), order(DELETE, 5, 4), order(UPDATE, 5, 8, price=99)], [(0, ADD, 1, 5, 99, 8)]),
        ([order(ADD, 5, 10), order(DELETE, 5, 10), order(ADD, 5, 2)], [(0, ADD, 1, 5, 100, 2)]),
        ([order(DELETE, 5, 10)], []),  # it rested before the rows began
        ([order(ADD, 5, 1), market(CLEAR), order(ADD, 6, 2)], [(0, ADD, 1, 6, 100, 2)]),
        ([market(DELETE), market(ADD)], [(0, ADD, 0, 0, 0, 0)]),  # trading halts, and goes on
    ],
)
def test_an_order_is_what_its_last_rows_leave_of_it(rows: list[TickArray], left: list[tuple[int, ...]]) -> None:
    assert after(*rows) == left
    one_by_one = RestingOrders()
    for row in rows:
        one_by_one.update(row)
    assert told(one_by_one)[1:] == left


def test_orders_keep_their_turn_and_a_change_takes_a_new_one() -> None:
    assert [row[3] for row in after(*(order(ADD, n, 1) for n in (9, 3, 5)), order(UPDATE, 9, 2))] == [3, 5, 9]


def test_the_same_id_in_another_instrument_is_another_order() -> None:
    orders = RestingOrders()
    orders.update(np.concatenate([order(ADD, 5, 10), order(ADD, 5, 3, instrument=2), order(DELETE, 5, 10)]))
    assert told(orders, 2) == [(2, CLEAR, 0, 0, 0, 0), (2, ADD, 1, 5, 100, 3)]
    assert told(orders, 0) == [(0, CLEAR, 0, 0, 0, 0)]


def test_any_batches_leave_what_a_dictionary_leaves_and_the_rows_tell_it_again() -> None:
    draw = random.Random(3)
    rows, book = [], dict[tuple[int, int], list[int]]()
    for _ in range(3_000):
        instrument, name = draw.randrange(3), draw.randrange(40)
        action = draw.choice([ADD, ADD, UPDATE, DELETE, DELETE, TRADE] + [CLEAR] * (draw.random() < 0.01))
        size, key = draw.randrange(1, 9), (instrument, name)
        if action == CLEAR:
            rows.append(market(CLEAR, instrument))
            book = {k: v for k, v in book.items() if k[0] != instrument}
            continue
        rows.append(order(action, name, size, price=draw.randrange(90, 110), instrument=instrument))
        if action in (ADD, UPDATE):
            book.pop(key, None)
            book[key] = [int(rows[-1]["price"][0]), size]
        elif action == DELETE and key in book:
            book[key][1] -= size
            if book[key][1] <= 0:
                del book[key]
    wanted = [(i, ADD, 1, name, price, size) for (i, name), (price, size) in book.items()]
    state = MarketState()
    begin = 0
    while begin < len(rows):
        end = begin + draw.randrange(1, 200)
        state.update(np.concatenate(rows[begin:end]))
        begin = end
    standing = state.rows(AT)
    fields = ["instrument_id", "action", "side", "ref_id", "price", "size"]
    assert [row for row in standing[fields].tolist() if row[1] == ADD] == sorted(wanted, key=lambda row: row[0])
    assert (standing["flags"] == Flag.LAST | Flag.SNAPSHOT).all() and set(standing["ts_recv"].tolist()) == {AT}
    again = MarketState()
    again.update(standing)
    assert np.array_equal(again.rows(AT), standing)


def test_a_halt_withdraws_orders_and_tells_at_its_end_what_rests_then() -> None:
    plan = msgspec.convert({"seed": 1, "faults": [{"fault": "halt", "from_s": 10, "to_s": 20}]}, FaultPlan)
    stream = FaultStream(plan, [parse("a.spot.B-C")], AT)
    rows = np.concatenate([order(ADD, 5, 10), order(ADD, 6, 3), order(DELETE, 5, 4), order(ADD, 7, 1)])
    rows["ts_recv"] = AT + np.array([0, 1, 15, 25]) * 10**9
    rows["seq"] = np.arange(1, 5)
    ticks = np.concatenate([part.ticks for part in (stream.apply(rows), stream.finish())])
    seen = [
        ((int(t["ts_recv"]) - AT) // 10**9, int(t["action"]), int(t["ref_id"]), int(t["size"]))
        for t in ticks[ticks["kind"] == Kind.ORDER]
    ]
    assert seen == [
        *((0, ADD, 5, 10), (1, ADD, 6, 3), (10, CLEAR, 0, 0)),
        *((20, CLEAR, 0, 0), (20, ADD, 5, 6), (20, ADD, 6, 3), (25, ADD, 7, 1)),
    ]
