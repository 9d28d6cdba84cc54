"""Rows that invalidations carried a moment ago, of keys that memory does not hold."""

from __future__ import annotations

from models.cache.coherence import PartitionView
from models.cache.keys import Location
from streams.cache.held import Held

RECENT_BYTES = 320  # of a row: 250 to 310 were measured


class RecentRows:
    """The newest row of each of the `capacity` keys that were named last and are not in memory.

    Redis has what readers were told some 20 ms later, so whoever misses a key just then would wait for it (rule 9). A
    row that is here is right as of all that was heard: a later record that named its key replaced it, or took it out.
    As an answer it is held against the reader's floors as any tier's.
    """

    name = "stream"

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: dict[int | str, tuple[int, bytes]] = {}  # version of the record and row, by floor; the oldest first

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, floor: int, version: int, row: bytes) -> None:
        """A record up to `version`, the newest of its partition, carries this row of ROW_BYTES (`Location.floor`)."""
        rows = self._rows
        rows.pop(floor, None)
        rows[floor] = version, row
        if len(rows) > self._capacity:
            del rows[next(iter(rows))]

    def forget(self, floor: int) -> None:
        """A record named the key, and its row is not to be noted."""
        self._rows.pop(floor, None)

    def clear(self) -> None:
        """Something was not heard."""
        self._rows.clear()

    def find(self, at: Location, view: PartitionView) -> Held | None:
        """The row of this key, if it is here."""
        if (recent := self._rows.get(at.floor)) is None:
            return None
        held = Held(at, view)
        if not held.renew(*recent):
            return None
        held.as_of = view.position
        return held
