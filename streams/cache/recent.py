"""Rows that invalidations carried a moment ago, and rows that had to leave memory, of keys that it does not hold."""

from __future__ import annotations

from models.cache.coherence import PartitionView
from models.cache.keys import Location
from models.cache.rows import carrier_version
from models.cache.version import NOTHING
from streams.cache.held import Held

RECENT_BYTES = 320  # of a row: 250 to 310 were measured


class RecentRows:
    """The newest row of each of the `capacity` keys that were named or left memory last, and are not in it.

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

    def note(self, floor: int | str, version: int, row: bytes) -> None:
        """A record up to `version`, the newest of its partition, carries this row of ROW_BYTES (`Location.floor`)."""
        rows = self._rows
        rows.pop(floor, None)
        rows[floor] = version, row
        if len(rows) > self._capacity:
            del rows[next(iter(rows))]

    def keep(self, held: Held) -> None:
        """An entry that leaves memory for want of room: no record named its key since its row was made."""
        if held.row and held.version != NOTHING:
            self.note(held.at.floor, carrier_version(held.row, held.version), held.row)

    def forget(self, floor: int | str) -> None:
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
        held.as_of = max(view.position, held.version)  # a tier may have been ahead of the stream
        return held
