"""Several streams of rows joined into one by time of receipt, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from models.market.tick import TICK, Flag, TickArray


def merge(sources: Sequence[Iterable[TickArray]]) -> Iterator[TickArray]:
    """Join sources (TICK arrays) by `ts_recv`; equal times keep the order of the sources and within each.

    Arrays of a source must end where an event ends, so that no event is torn apart. A receiving clock that stepped back
    inside a source does not reorder it: such rows take the highest time seen and flag BAD_TS_RECV. Memory is bounded by
    one array of each source, however many rows share an instant.
    """
    heads = [_Head(iter(source)) for source in sources]
    while heads := [head for head in heads if head.fill()]:
        bound = min((head.newest for head in heads if not head.done), default=None)
        # the first source to set the bound may bring more of that instant: those after it keep theirs back
        first = next((i for i, head in enumerate(heads) if not head.done and head.newest == bound), len(heads))
        parts = [
            part for i, head in enumerate(heads) if len(part := head.take(bound, "right" if i <= first else "left"))
        ]
        if len(parts) == 1:
            yield parts[0]
        else:
            rows = np.concatenate(parts)
            yield rows[np.argsort(rows["ts_recv"], kind="stable")]


class _Head:
    """The next rows of one source. `newest` is the time of the last row held."""

    def __init__(self, source: Iterator[TickArray]) -> None:
        self._source = source
        self._rows = np.empty(0, TICK)
        self.newest = 0
        self.done = False

    def fill(self) -> bool:
        """Hold at least a row if there is one; False when nothing is left."""
        while not len(self._rows) and not self.done:
            more = next(self._source, None)
            if more is None:
                self.done = True
            elif len(more):
                self._rows = self._monotone(more)
                self.newest = int(self._rows["ts_recv"][-1])
        return bool(len(self._rows))

    def _monotone(self, rows: TickArray) -> TickArray:
        recv = rows["ts_recv"]
        if recv[0] >= self.newest and (recv[1:] >= recv[:-1]).all():
            return rows
        rows = rows.copy()
        highest = np.maximum(np.maximum.accumulate(recv), self.newest)
        rows["flags"][highest > recv] |= np.uint8(Flag.BAD_TS_RECV)
        rows["ts_recv"] = highest
        return rows

    def take(self, bound: int | None, side: Literal["left", "right"]) -> TickArray:
        """Hand out the rows before `bound` (right: and those at it), or all of them."""
        cut = len(self._rows) if bound is None else int(np.searchsorted(self._rows["ts_recv"], bound, side))
        taken, self._rows = self._rows[:cut], self._rows[cut:]
        return taken
