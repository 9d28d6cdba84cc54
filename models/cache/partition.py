"""The generic entries of one partition of `cache.writes.v1`: writes in, changes to announce and pages out.

No value is read back: the log's order decides, so a partition holds in memory only what the next barrier writes.
"""

from __future__ import annotations

from typing import NamedTuple

from models.cache.entry import StoredEntry, encode_entry
from models.cache.write import CacheWrite
from models.market import pages
from models.market.pages import Record

FLUSH_ALL = "*"


class EntryChange(NamedTuple):
    """What one write changed: exactly one of key and floor is set."""

    version: int
    key: str  # "" for a floor
    stored: bytes | None  # version and entry, None = deleted
    expires_at_ms: int | None
    floor: str  # `t:<tag>`, `n:<namespace>` or `*`, "" for a key


class EntryPartition:
    """State of one partition of `cache.writes.v1`.

    Attributes:
        applied: version of the newest write applied, -1 = none.
        held: writes at or below this version are dropped, because the control page already counts them.
        unsaved: entries written since the last flush, None = deleted.
        saving: entries that flushes took and that are not durable yet, likewise; see `saved`.
        floors: newest version of each tag, namespace and flush-all; entries below their floor do not exist (rule 13).
    """

    def __init__(self) -> None:
        self.applied = self.held = -1
        self.floors: dict[str, int] = {}
        self.unsaved: dict[str, bytes | None] = {}
        self.saving: dict[str, bytes | None] = {}

    def apply(self, write: CacheWrite, *, version: int, append_ms: int) -> EntryChange | None:
        """Apply one write of a rising version; None if it was applied before.

        Args:
            write: a checked write.
            version: of the record.
            append_ms: the record's log-append time, from which its life counts (rule 5).
        """
        if version <= max(self.applied, self.held):
            return None
        self.applied = version
        match write.op:
            case "put":
                expires = None if write.ttl_ms is None else append_ms + write.ttl_ms
                stored = encode_entry(version, StoredEntry(expires, write.tags, write.value))
                self.unsaved[write.key] = stored
                return EntryChange(version, write.key, stored, expires, "")
            case "delete":
                self.unsaved[write.key] = None
                return EntryChange(version, write.key, None, None, "")
            case "delete_tag":
                floor = f"t:{write.tag}"
            case "clear":
                floor = FLUSH_ALL if write.namespace is None else f"n:{write.namespace}"
        self.floors[floor] = version
        return EntryChange(version, "", None, None, floor)

    def advance(self, version: int) -> None:
        """Count a record as applied that held no write."""
        self.applied = max(self.applied, version)

    def flush(self) -> list[list[Record]]:
        """Pages changed since the last call, one a key."""
        groups: list[list[Record]] = [[(pages.ENTRY + key.encode(), stored)] for key, stored in self.unsaved.items()]
        self.saving |= self.unsaved
        self.unsaved = {}
        return groups

    def saved(self) -> None:
        """What was flushed is durable: it is read from the pages again."""
        self.saving = {}

    def ahead(self) -> dict[str, bytes | None]:
        """Entries that are newer than the durable pages, None = deleted."""
        return self.saving | self.unsaved

    def covered(self, key: str, version: int, tags: tuple[str, ...]) -> bool:
        """Whether a floor says that an entry of this version does not exist."""
        names = (FLUSH_ALL, f"n:{key.partition(':')[0]}", *(f"t:{tag}" for tag in tags))
        return any(version < self.floors.get(name, -1) for name in names)
