"""What changed between two views of a book that shows its best levels only."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Tables = NDArray[np.int64]  # [n, 2 sides (bids, asks), levels best first, 2 (price, size)]; a level of size 0 is none


class DepthChanges(NamedTuple):
    """Level changes of n views, in their order: first the bids of a view, then its asks.

    Attributes:
        n_changes: shape (n,), of each view; -1 = its levels are not best first, and the view was passed over.
        side, price, size: shape (m,), 1 bid, 2 ask; size 0 = the level is gone, from the book or from view.
    """

    n_changes: NDArray[np.int64]
    side: NDArray[np.uint8]
    price: NDArray[np.int64]
    size: NDArray[np.int64]


class DepthView:
    """Remembers the levels that each of many books showed last.

    A level that leaves the view is reported gone, and new when it comes back: whoever applies all changes holds exactly
    what was shown. Cost: one pass over both views.
    """

    def __init__(self, n_levels: int) -> None:
        self._shown = np.zeros((0, 2, n_levels, 2), np.int64)

    def changes(self, slots: NDArray[np.int32], tables: Tables) -> DepthChanges:
        """Take further views, in order.

        Args:
            slots: shape (n,), which book each view is of, >= 0.
            tables: shape (n, 2, levels, 2).
        """
        n, _, n_levels, _ = tables.shape
        missing = int(slots.max(initial=-1)) + 1 - len(self._shown)
        if missing > 0:
            self._shown = np.concatenate([self._shown, np.zeros((missing, *self._shown.shape[1:]), np.int64)])
        most = n * n_levels * 4  # every level goes and another comes
        side, values = np.empty(most, np.uint8), np.empty((most, 2), np.int64)
        n_changes = np.empty(n, np.int64)
        slots, tables = np.ascontiguousarray(slots), np.ascontiguousarray(tables)
        total = _compare(self._shown, slots, tables, n_changes, side, values)
        return DepthChanges(n_changes, side[:total].copy(), values[:total, 0].copy(), values[:total, 1].copy())

    def forget(self, slot: int) -> None:
        """The book is taken to show nothing."""
        if slot < len(self._shown):
            self._shown[slot] = 0


@numba.njit(cache=True)
def _compare(
    shown: Tables,
    slots: NDArray[np.int32],
    tables: Tables,
    n_changes: NDArray[np.int64],
    side_of: NDArray[np.uint8],
    values: NDArray[np.int64],
) -> int:
    k, n_levels = 0, tables.shape[2]
    for i in range(len(tables)):
        if not _ordered(tables[i]):
            n_changes[i] = -1
            continue
        start = k
        for side in range(2):
            sign = -1 if side == 0 else 1  # bids fall
            before, after = shown[slots[i], side], tables[i, side]
            a = b = 0
            while a < n_levels or b < n_levels:
                if a < n_levels and before[a, 1] == 0:
                    a += 1
                    continue
                if b < n_levels and after[b, 1] == 0:
                    b += 1
                    continue
                price, size = np.int64(0), np.int64(0)
                if b == n_levels or (a < n_levels and sign * before[a, 0] < sign * after[b, 0]):
                    price = before[a, 0]
                    a += 1
                else:
                    price, size = after[b, 0], after[b, 1]
                    same = a < n_levels and before[a, 0] == price
                    old = before[a, 1] if same else 0
                    b += 1
                    if same:
                        a += 1
                    if old == size:
                        continue
                side_of[k] = side + 1
                values[k, 0], values[k, 1] = price, size
                k += 1
        shown[slots[i]] = tables[i]
        n_changes[i] = k - start
    return k


@numba.njit(cache=True)
def _ordered(table: Tables) -> bool:
    """Both sides are strictly best first and sizes are not negative."""
    for side in range(2):
        sign = -1 if side == 0 else 1
        last, any_yet = np.int64(0), False
        for price, size in table[side]:
            if size < 0:
                return False
            if size == 0:
                continue
            if any_yet and sign * price <= sign * last:
                return False
            last, any_yet = price, True
    return True
