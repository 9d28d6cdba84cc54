"""Whoever applies the changes between views of a book holds what the last view showed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.market.depth import DepthView

LEVELS = 4
# sizes by price, best first once sorted; some places of the view stay empty
Side = dict[int, int]
sides = st.dictionaries(st.integers(-50, 50), st.integers(1, 3), max_size=LEVELS)
views = st.lists(st.tuples(st.integers(0, 2), sides, sides), min_size=1, max_size=40)


def table(bids: Side, asks: Side) -> np.ndarray:
    made = np.zeros((2, LEVELS, 2), np.int64)
    for side, levels in ((0, sorted(bids.items(), reverse=True)), (1, sorted(asks.items()))):
        made[side, : len(levels)] = np.array(levels, np.int64).reshape(-1, 2)
    return made


@given(views=views, cut=st.integers(0, 40))
def test_changes_make_of_each_view_the_next_one(views: list[tuple[int, Side, Side]], cut: int) -> None:
    view, held = DepthView(LEVELS), [({}, {}) for _ in range(3)]
    for part in (views[:cut], views[cut:]):
        slots = np.array([slot for slot, _, _ in part], np.int32)
        tables = np.array([table(bids, asks) for _, bids, asks in part], np.int64).reshape(-1, 2, LEVELS, 2)
        changes = view.changes(slots, tables)
        start = 0
        for (slot, bids, asks), n in zip(part, changes.n_changes.tolist(), strict=True):
            before = [dict(levels) for levels in held[slot]]
            for k in range(start, start + n):
                levels, price, size = held[slot][changes.side[k] - 1], int(changes.price[k]), int(changes.size[k])
                assert levels.get(price, 0) != size, "nothing is told that was known"
                if size:
                    levels[price] = size
                else:
                    del levels[price]
            start += n
            assert held[slot] == (bids, asks), before


@given(views=views)
def test_a_view_that_is_not_best_first_is_passed_over(views: list[tuple[int, Side, Side]]) -> None:
    tables = np.array([table(bids, asks) for _, bids, asks in views], np.int64)
    zeros = np.zeros(len(views), np.int32)
    wrong = tables.copy()
    wrong[:, 0, :2] = [[5, 1], [5, 1]]  # the same price twice
    both = np.concatenate([tables[:1], wrong, tables])
    changes = DepthView(LEVELS).changes(np.zeros(len(both), np.int32), both)
    assert (changes.n_changes[1 : len(views) + 1] == -1).all()
    plain = DepthView(LEVELS).changes(zeros, tables)
    assert changes.n_changes[len(views) + 1 :].tolist()[1:] == plain.n_changes.tolist()[1:]
