"""Rows as they are received, and what becomes of each on its way to the log."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.market.tick import TICK, TickArray


class Fate(IntEnum):
    """What becomes of a row on its way to the log."""

    SENT = 0
    LOST = 1
    TWICE = 2


class Arrivals(NamedTuple):
    """Rows in the order in which they are received.

    Attributes:
        ticks: TICK[n], whole events; `seq` is dense from 1 on over all arrivals of a stream.
        owner: int32[n], the instrument that decides a row's partition; a control row has no instrument of its own.
        arrival_ns: int64[n], when each is received by a right clock, never falling.
        fate: uint8[n], equal for all rows of an event; None = all are sent.
    """

    ticks: TickArray
    owner: NDArray[np.int32]
    arrival_ns: NDArray[np.int64]
    fate: NDArray[np.uint8] | None = None


def clean(ticks: TickArray) -> Arrivals:
    """Rows as they were received, `seq` already dense."""
    return Arrivals(ticks, ticks["instrument_id"], ticks["ts_recv"])


class Pool(NamedTuple):
    """Rows on their way, in any order; `order` decides among those of one instant."""

    ticks: TickArray
    owner: NDArray[np.int32]
    arrival_ns: NDArray[np.int64]
    order: NDArray[np.int64]
    fate: NDArray[np.uint8] | None

    @classmethod
    def empty(cls) -> Pool:
        return cls(np.empty(0, TICK), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64), None)

    @classmethod
    def joined(cls, pools: Sequence[Pool]) -> Pool:
        fates = [np.zeros(len(p.ticks), np.uint8) if p.fate is None else p.fate for p in pools]
        ticks, owner, arrival_ns, order = (np.concatenate([pool[field] for pool in pools]) for field in range(4))
        return cls(ticks, owner, arrival_ns, order, np.concatenate(fates))

    def until(self, bound_ns: int) -> tuple[Pool, Pool]:
        """What is received before `bound_ns`, in order, and the rest: more rows of that instant may come."""
        in_order = self._part(np.lexsort((self.order, self.arrival_ns)))
        cut = int(np.searchsorted(in_order.arrival_ns, bound_ns, "left"))
        return in_order._part(slice(0, cut)), in_order._part(slice(cut, None))

    def _part(self, which: NDArray[np.int64] | slice) -> Pool:
        return Pool(*(None if column is None else column[which] for column in self))  # type: ignore[arg-type]
