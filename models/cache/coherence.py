"""What a reader knows of one partition of a source topic, and what it may therefore believe (protocol rules 9-13)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from models.cache.floors import GroupFloors, KeyFloors
from models.cache.version import NOTHING


class PartitionView:
    """Position, floors and watermark; versions are of the one source topic that the view is of.

    Attributes:
        synced: a first record was heard since the start or the last loss; nothing may be kept before.
        position: every change up to this version was heard.
        watermark_ns: all that the source held at this instant (UTC ns, the broker's clock) was heard; 0 = not proven.
        floors: by subject: an instrument's hash with a facet, or a generic key's text (`Location.floor`).
        groups: tag, namespace and flush floors as the tier holds them, exact; complete up to `groups_version`.
        heard_groups: the same as heard: a copy made before one of them is not kept.
    """

    __slots__ = ("floors", "groups", "groups_version", "heard_groups", "position", "synced", "watermark_ns")

    def __init__(self, ring: int) -> None:
        self.synced = False
        self.position = NOTHING
        self.watermark_ns = 0
        self.floors = KeyFloors(ring)
        self.groups = GroupFloors()
        self.groups_version = 0
        self.heard_groups = GroupFloors()

    def __repr__(self) -> str:
        return f"PartitionView(position {self.position}, synced {self.synced}, {self.floors})"

    def hear(self, from_version: int, to_version: int) -> None:
        """A record announces what changed in `(from, to]`; call it before the names in it are noted."""
        if not self.synced:
            self.floors.raise_start(from_version)
            self.synced = True
        self.position = max(self.position, to_version)

    def prove(self, watermark_ns: int, *, latest_ns: int) -> None:
        """The record that was just dealt with carried this watermark; one beyond `latest_ns` voids what was proven."""
        self.watermark_ns = 0 if watermark_ns > latest_ns else max(self.watermark_ns, watermark_ns)

    def miss(self, up_to: int | None) -> None:
        """Something up to this version was not heard (None: not even that is known). Drop what is held."""
        self.watermark_ns = 0
        if up_to is None:
            self.synced = False
        else:
            self.floors.raise_start(up_to)

    def name_group(self, field: str, version: int) -> None:
        """A tag, a namespace or everything was deleted: any key may be concerned."""
        self.heard_groups.note(field, version)
        self.floors.raise_start(version)

    def admits(self, subject: Hashable, as_of: int) -> bool:
        """Whether a tier's answer that was right as of this version is new enough for the reader (rule 9)."""
        return as_of >= self.floors.floor(subject)

    def accept(self, subject: Hashable, as_of: int, given: int) -> bool:
        """Whether the view admits an answer that was right as of a version. The reader is then given the version
        `given` of the key, and may not be given an older one afterwards.
        """
        floor = self.floors.floor(subject)
        if as_of < floor:
            return False
        if given > floor and given > self.position:
            self.floors.note(subject, given)
        return True

    def keeps(self, as_of: int, namespace: str, tags: Iterable[str]) -> bool:
        """Whether a generic entry that was right as of a version still stands against the groups heard since."""
        return self.heard_groups.exists(as_of, namespace, tags)
