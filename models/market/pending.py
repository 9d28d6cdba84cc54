"""Diffs of one book that wait for a snapshot: whole events in arrival order, bounded in rows."""

from __future__ import annotations

from collections import deque

import numpy as np

from models.market.tick import TICK, Flag, TickArray


class PendingDiffs:
    """A queue of events; when more than `max_rows` rows wait, the oldest whole events go."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.n_rows = 0
        self._events: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._events)

    def append(self, event: TickArray) -> int:
        """Keep one event; returns how many old events had to go.

        The rows' `instrument_id` becomes 0: it is an index into the list of a frame that is gone, and the kept bytes
        must not depend on how rows were framed.
        """
        rows = event.copy()
        rows["instrument_id"] = 0
        rows["flags"][-1] |= Flag.LAST  # the end of a frame ends an event too, and that end is gone as well
        self._events.append(rows.tobytes())
        self.n_rows += len(rows)
        n_lost = 0
        while self.n_rows > self.max_rows:
            self._pop()
            n_lost += 1
        return n_lost

    def extend(self, rows: TickArray) -> int:
        """Keep many events, told apart by flag LAST; returns how many old events had to go."""
        ends = np.flatnonzero(rows["flags"] & Flag.LAST) + 1
        return sum(self.append(event) for event in np.split(rows, ends) if len(event))

    def discard(self, n_rows: int) -> None:
        """Forget the oldest events that make up `n_rows` rows."""
        left = self.n_rows - n_rows
        while self.n_rows > left:
            self._pop()

    def to_bytes(self) -> bytes:
        return b"".join(self._events)

    def rows(self) -> TickArray:
        """All rows that wait, TICK[n_rows]."""
        return np.frombuffer(self.to_bytes(), TICK)

    def first(self) -> np.void | None:
        """First row of the oldest event, None when nothing waits."""
        return np.frombuffer(self._events[0], TICK, 1)[0] if self._events else None

    def _pop(self) -> None:
        self.n_rows -= len(self._events.popleft()) // TICK.itemsize
