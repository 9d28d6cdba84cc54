"""What a reader knows of the entries on its own disk without reading them: where they are, and which of them stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from models.cache.coherence import PartitionView
from models.cache.policy import Capacity, Reason
from models.cache.s3fifo import S3FIFO
from models.cache.version import NOTHING
from streams.cache.disk_store import Group


class Place(NamedTuple):
    """Attributes:
    floor: the view's subject.
    as_of: the entry was right as of this version.
    expires_at_ms: UTC ms; None = never.
    restored: an earlier process kept it.
    """

    group: Group
    floor: int | str
    as_of: int
    expires_at_ms: int | None
    restored: bool

    def is_over(self, now_ms: int) -> bool:
        return self.expires_at_ms is not None and self.expires_at_ms <= now_ms


class DiskIndex:
    """Entries by text, bounded by the bytes that all of them take.

    Args:
        max_bytes: bound; S3-FIFO decides which leave.
        on_leave: called with the text and the place of an entry that left; not when all are forgotten.

    Attributes:
        marks: as of which version all that was in the store was right, by group.
    """

    def __init__(self, max_bytes: int, on_leave: Callable[[str, Place], None]) -> None:
        self.marks: dict[Group, int] = {}
        self._on_leave = on_leave
        self._policy: S3FIFO[str] = S3FIFO(Capacity(weight=max_bytes), self._left)
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, text: str) -> bool:
        return text in self._places

    @property
    def bytes(self) -> int:
        """What all entries take."""
        return self._policy.weight

    def find(self, text: str) -> Place | None:
        """Not a read yet: see `touch`."""
        return self._places.get(text)

    def touch(self, text: str) -> None:
        """The entry was read, which counts towards its staying."""
        self._policy.touch(text)

    def takes(self, text: str, group: Group, as_of: int) -> bool:
        """Whether an entry that is right as of a version is newer than what is known of it and of its group.

        Below the mark it would be believed after a restart although what came between was not heard yet.
        """
        place = self._places.get(text)
        if place is None:
            return as_of >= self.marks.get(group, NOTHING)
        return as_of >= self.marks.get(group, NOTHING) and as_of > place.as_of

    def put(self, text: str, place: Place, n_bytes: int) -> None:
        """The store has this entry now."""
        self._places[text] = place
        self._policy.put(text, n_bytes)

    def drop(self, text: str) -> None:
        """Let it leave, if it is there."""
        self._policy.remove(text)

    def clear(self) -> None:
        """Forget all, marks included."""
        self._policy.clear()
        self._places.clear()
        self.marks = {}

    def worthless(self, views: Mapping[Group, PartitionView], now_ms: int) -> Iterator[tuple[str, bool]]:
        """Every text, and whether its entry is over or not admitted any more; the index may change between two."""
        for text, place in list(self._places.items()):
            view = views[place.group]
            stale = view.synced and not view.admits(place.floor, place.as_of)
            yield text, (place.is_over(now_ms) or stale) and self._places.get(text) is place

    def _left(self, text: str, weight: int, reason: Reason) -> None:
        """The policy's listener."""
        if reason is Reason.REPLACED:
            return
        place = self._places.pop(text, None)
        if place is not None and reason is not Reason.CLEARED:
            self._on_leave(text, place)
