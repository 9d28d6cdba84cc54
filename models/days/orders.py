"""Single orders (L3) that rest in their markets, folded from rows and told as rows again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray


class RestingOrders:
    """Orders by instrument and id, in the order in which they came to rest or were changed last.

    Orders that rested before the rows began are not known, whatever the rows say of them. The rows of a batch and all
    orders are sorted at once: some 0.2 us for each of both.
    """

    def __init__(self) -> None:
        self._orders = np.empty(0, TICK)  # the row that set each, its size what is left
        self._told: dict[int, int] = {}  # instruments with orders at some time: ts_event of their newest row
        self._status: dict[int, TickArray] = {}  # whether trading goes on, by instrument: a row of side 0

    def update(self, ticks: TickArray) -> None:
        """Take whole events, TICK[n] in order; rows of other kinds are passed over."""
        rows = ticks[ticks["kind"] == Kind.ORDER]
        if not len(rows):
            return
        ids = rows["instrument_id"]
        newest = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        for at in newest.tolist():
            self._told[int(ids[at])] = int(rows["ts_event"][at])
        whole = rows["side"] == Side.NONE  # of the market, not of an order
        clears = whole & (rows["action"] == Action.CLEAR)
        for at in np.flatnonzero(whole & ~clears).tolist():
            self._status[int(ids[at])] = rows[at : at + 1].copy()
        kept, standing = ~whole, self._orders
        for instrument in np.unique(ids[clears]).tolist():
            last = int(np.flatnonzero(clears & (ids == instrument))[-1])
            kept[:last] &= ids[:last] != instrument
            standing = standing[standing["instrument_id"] != instrument]
        self._orders = _left(np.concatenate([standing, rows[kept]]))

    def rows(self, chosen: NDArray[np.bool_]) -> TickArray:
        """What stands in the chosen instruments: a clearing row, the trading status if it was told, a row an order.

        Each is an event, because a market may have more orders than a frame can take.
        """
        told = [instrument for instrument in sorted(self._told) if chosen[instrument]]
        clears = np.zeros(len(told), TICK)
        clears["instrument_id"], clears["kind"], clears["action"] = told, Kind.ORDER, Action.CLEAR
        clears["ts_event"] = [self._told[instrument] for instrument in told]
        orders = self._orders[chosen[self._orders["instrument_id"]]]
        orders["action"] = Action.ADD
        found = np.concatenate([clears, *(self._status[i] for i in told if i in self._status), orders])
        found["flags"], found["seq"] = Flag.LAST | Flag.SNAPSHOT, 0
        return found


def _left(rows: TickArray) -> TickArray:
    """Orders that still rest after these rows, each as the last one that set it, with what is left of its size."""
    if not len(rows):
        return rows
    order = np.lexsort((rows["ref_id"], rows["instrument_id"]))  # stable: an order's rows stay in their order
    ids, names = rows["instrument_id"][order], rows["ref_id"][order]
    starts = np.flatnonzero(np.append(True, (ids[1:] != ids[:-1]) | (names[1:] != names[:-1])))
    place = np.arange(len(rows))
    sets = np.isin(rows["action"][order], (Action.ADD, Action.UPDATE))
    last = np.maximum.reduceat(np.where(sets, place, -1), starts)
    after = place > np.repeat(last, np.diff(np.append(starts, len(rows))))
    off = after & (rows["action"][order] == Action.DELETE)
    gone = np.add.reduceat(np.where(off, rows["size"][order], 0), starts)
    known = last >= 0
    at, gone = order[last[known]], gone[known]
    left = rows["size"][at] - gone
    at, left = at[left > 0], left[left > 0]
    by_time = np.argsort(at)
    orders: TickArray = rows[at[by_time]]
    orders["size"] = left[by_time]
    return orders
