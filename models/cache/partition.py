"""The generic entries of one partition of `cache.writes.v1`: writes in, changes to announce and pages out.

The log's order decides. `put` and `delete` read nothing; `fill`, `incr` and `put_if` look at what the key holds, in
what is not on disk yet or else in its page. All that they decide follows from the log and the pages, so a replay after
a crash decides the same again, also where a page is ahead of the control page: what it holds is not applied twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from models.cache.entry import Found, StoredEntry, decode_entry, decode_stored, encode_entry, encode_grave
from models.cache.floors import namespace_field, tag_field
from models.cache.graves import Graves
from models.cache.outcome import OUTCOME_MS, Outcome
from models.cache.version import NOTHING
from models.cache.write import MAX_COUNT, CacheWrite
from models.market import pages
from models.market.pages import Record

FLUSH_ALL = "*"
BURIED_AFTER_MS = 600_000  # an ended life is over for good then: logs' clocks may be set back, or differ by broker

Stored = Callable[[str], bytes | None]  # a key's page as the last barrier left it: entry or grave


class EntryChange(NamedTuple):
    """What one write changed: at most one of key and floor is set; none, if it only has an outcome."""

    version: int
    key: str  # "" for a floor
    stored: bytes | None  # version and entry, None = deleted
    expires_at_ms: int | None
    floor: str  # `t:<tag>`, `n:<namespace>` or `*`, "" for a key
    outcome: Outcome | None = None

    @property
    def changes(self) -> bool:
        """Whether readers have to hear of it."""
        return bool(self.key or self.floor)


def nothing_stored(key: str) -> bytes | None:
    """A disk without pages."""
    return None


class EntryPartition:
    """State of one partition of `cache.writes.v1`.

    Attributes:
        applied: version of the newest write applied, -1 = none.
        held: writes at or below this version are dropped, because the control page already counts them.
        unsaved: entries, and graves of deleted ones, that are not known to be on disk.
        floors: newest version of each tag, namespace and flush-all; entries below their floor do not exist (rule 13).
        graves: of keys that are gone, which keep late fills away.
    """

    def __init__(self) -> None:
        self.applied = self.held = NOTHING
        self.floors: dict[str, int] = {}
        self.unsaved: dict[str, bytes] = {}
        self.graves = Graves()
        self._unsent: set[str] = set()  # of the unsaved: no flush holds them yet
        self._sent: dict[str, bytes] = {}  # of the unsaved: the last flush holds them
        self._sent_version = NOTHING
        self._append_ms = self._sent_ms = self._counted_ms = NOTHING  # log time: applied, flushed, on disk

    def apply(
        self, write: CacheWrite, *, version: int, append_ms: int, stored: Stored = nothing_stored
    ) -> EntryChange | None:
        """Apply one write of a rising version; None if it was applied before, or is a fill that came too late.

        Args:
            write: a checked write.
            version: of the record.
            append_ms: the record's log-append time, from which its life counts (rule 5).
            stored: gives a key's page; it is asked only about keys that are not in `unsaved`.
        """
        if version <= max(self.applied, self.held):
            return None
        self.applied = version
        self._append_ms = append_ms
        match write.op:
            case "put":
                return self._put(write, version, append_ms)
            case "delete":
                self._store(write.key, encode_grave(version))
                return EntryChange(version, write.key, None, None, "")
            case "delete_tag":
                return self._raise_floor(tag_field(write.tag), version)
            case "clear":
                return self._raise_floor(namespace_field(write.namespace), version)
        data = self.unsaved.get(write.key)
        found = decode_stored(stored(write.key) if data is None else data)
        if found.version >= version:
            return None  # its page holds this write already
        match write.op:
            case "fill":
                return None if self._is_overtaken(write, version, found) else self._put(write, version, append_ms)
            case "put_if":
                return self._put_if(write, version, append_ms, found)
            case "incr":
                return self._incr(write, version, append_ms, found)

    def advance(self, version: int) -> None:
        """Count a record as applied that held no write."""
        self.applied = max(self.applied, version)

    def load(self, key: str, stored: bytes) -> None:
        """Take note of a page that recovery found."""
        self.graves.load(key, stored)

    def over(self, key: str, stored: bytes, *, now_ms: int) -> int | None:
        """Version of an entry on disk that no write can find alive any more; None for all others, and for graves.

        A floor covers it, or its life has ended. Either has to be counted by a control page on disk: a replay begins
        behind that, and so judges by what comes later. `now_ms` only puts it off: a log whose clock ran ahead for a
        while must not end what others still see alive.
        """
        if (decoded := decode_entry(stored)) is None:
            return None
        version, entry = decoded
        ended_ms = min(self._counted_ms, now_ms) - BURIED_AFTER_MS
        if entry.expires_at_ms is not None and entry.expires_at_ms <= ended_ms:
            return version
        floors = [self.floors.get(name, NOTHING) for name in _floor_names(key, entry.tags)]
        return version if any(version < floor <= self.graves.counted for floor in floors) else None

    def bury(self, over: Iterable[tuple[str, int]]) -> None:
        """Leave graves of these entries, keys and versions as `over` told them, unless they were written meanwhile."""
        for key, version in over:
            if key not in self.unsaved:
                self._store(key, encode_grave(version))

    def rewrite(self, stored: dict[str, bytes]) -> None:
        """All pages are to be written again; `stored` are those that recovery found."""
        self.unsaved = {**stored, **self.unsaved}
        self._unsent.update(self.unsaved)

    @property
    def n_unsent(self) -> int:
        """Entries and graves that the next flush holds."""
        return len(self._unsent)

    def flush(self) -> list[list[Record]]:
        """Pages changed since the last call, one a key, and deletions of graves that have done their service."""
        gone = self.graves.take_served()
        for key in gone:
            self.unsaved.pop(key, None)
        self._unsent.difference_update(gone)
        self._sent = {key: self.unsaved[key] for key in self._unsent}
        self._unsent = set()
        self._sent_version, self._sent_ms = self.applied, self._append_ms
        groups: list[list[Record]] = [[(pages.ENTRY + key.encode(), data)] for key, data in self._sent.items()]
        return groups + [[(pages.ENTRY + key.encode(), None)] for key in gone]

    def saved(self) -> None:
        """The last flush is on disk, with the control page that belongs to it."""
        for key, data in self._sent.items():
            if self.unsaved.get(key) is data:
                del self.unsaved[key]
        self._sent = {}
        self.graves.saved(self._sent_version)
        self._counted_ms = self._sent_ms

    def covered(self, key: str, version: int, tags: tuple[str, ...]) -> bool:
        """Whether a floor says that an entry of this version does not exist."""
        return version < self._floor(key, tags)

    def _put(self, write: CacheWrite, version: int, append_ms: int) -> EntryChange:
        expires = None if write.ttl_ms is None else append_ms + write.ttl_ms
        return self._keep(write.key, version, StoredEntry(expires, write.tags, write.value))

    def _put_if(self, write: CacheWrite, version: int, append_ms: int, found: Found) -> EntryChange:
        present = found.version if self._alive(write.key, found, append_ms) else NOTHING
        won = present == write.base
        change = self._put(write, version, append_ms) if won else EntryChange(version, "", None, None, "")
        return change._replace(outcome=_outcome(write, append_ms, won))

    def _incr(self, write: CacheWrite, version: int, append_ms: int, found: Found) -> EntryChange:
        entry = self._alive(write.key, found, append_ms)
        before = 0 if entry is None else _number(entry.value)
        if before is None:
            why = f"key {write.key!r} holds no whole number to increment: put one, or delete it"
        elif not -MAX_COUNT - 1 <= before + write.by <= MAX_COUNT:
            why = f"key {write.key!r}: {before} + {write.by} is not a signed 64-bit integer"
        else:
            after = before + write.by
            if entry is None:
                entry = StoredEntry(None if write.ttl_ms is None else append_ms + write.ttl_ms, (), b"")
            change = self._keep(write.key, version, msgspec.structs.replace(entry, value=msgspec.msgpack.encode(after)))
            return change._replace(outcome=_outcome(write, append_ms, after))
        return EntryChange(version, "", None, None, "", _outcome(write, append_ms, why))

    def _is_overtaken(self, write: CacheWrite, version: int, found: Found) -> bool:
        """Rule 10. What graves do not remember any more is taken for newer than the fill."""
        touched = max(found.version, self._floor(write.key, write.tags))
        return touched > write.base or self.graves.forgets(write.base, by=version)

    def _alive(self, key: str, found: Found, append_ms: int) -> StoredEntry | None:
        """The entry, if it has not expired and no floor covers it."""
        entry = found.entry
        if entry is None or self.covered(key, found.version, entry.tags):
            return None
        return None if entry.expires_at_ms is not None and entry.expires_at_ms <= append_ms else entry

    def _floor(self, key: str, tags: tuple[str, ...]) -> int:
        return max(self.floors.get(name, NOTHING) for name in _floor_names(key, tags))

    def _keep(self, key: str, version: int, entry: StoredEntry) -> EntryChange:
        stored = encode_entry(version, entry)
        self._store(key, stored)
        return EntryChange(version, key, stored, entry.expires_at_ms, "")

    def _store(self, key: str, stored: bytes) -> None:
        self.unsaved[key] = stored
        self._unsent.add(key)
        self.graves.load(key, stored)

    def _raise_floor(self, floor: str, version: int) -> EntryChange:
        self.floors[floor] = version
        return EntryChange(version, "", None, None, floor)


def _floor_names(key: str, tags: tuple[str, ...]) -> tuple[str, ...]:
    return FLUSH_ALL, namespace_field(key.partition(":")[0]), *map(tag_field, tags)


def _number(value: bytes) -> int | None:
    """The whole number that msgpack bytes hold; None for anything else, true and false included."""
    try:
        number = msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return number if type(number) is int else None


def _outcome(write: CacheWrite, append_ms: int, value: bool | int | str) -> Outcome:
    return Outcome(value, append_ms + OUTCOME_MS if write.reply else None)
