"""Floors: the version below which a reader may not go for a key, remembered for the keys named last (rule 9).

One object serves one partition of one source topic; keys are whatever the caller counts by (instrument hashes, texts).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from models.cache.version import NOTHING


class KeyFloors:
    """A ring of the `capacity` keys that were named last, with the newest version that named each.

    A key that fell out of the ring is not forgotten but rounded up: its floor is the ring's start, the newest version
    that ever fell out. A floor may therefore be too high (the reader waits a little), never too low.
    """

    def __init__(self, capacity: int, start: int = NOTHING) -> None:
        if capacity < 1:
            raise ValueError("a ring of floors needs room for one key")
        self.capacity = capacity
        self.start = start
        self._newest: dict[Hashable, int] = {}  # in the order in which keys were named

    def __len__(self) -> int:
        return len(self._newest)

    def __repr__(self) -> str:
        return f"KeyFloors({len(self)}/{self.capacity} keys, start {self.start})"

    def note(self, key: Hashable, version: int) -> None:
        """A record of this version named the key; O(1). Versions may come in any order."""
        newest = self._newest
        version = max(version, newest.pop(key, version))
        newest[key] = version
        if len(newest) > self.capacity:
            self.start = max(self.start, newest.pop(next(iter(newest))))

    def floor(self, key: Hashable) -> int:
        """Newest version that may have named the key, -1 if none did."""
        newest, start = self._newest.get(key, NOTHING), self.start
        return newest if newest > start else start  # asked with each read: max() takes twice as long

    def raise_start(self, version: int) -> None:
        """Whatever happened up to this version was not heard: every key may have been named."""
        self.start = max(self.start, version)


class GroupFloors:
    """Floors of tags, namespaces and flush-all: an entry whose version is below one of its floors is gone (rule 13).

    Bounded like `KeyFloors`: what falls out is rounded up, which makes a miss too many, never a value that was deleted.

    Attributes:
        newest: no floor is above it.
    """

    def __init__(self, capacity: int = 65_536) -> None:
        self._tags = KeyFloors(capacity)
        self._namespaces = KeyFloors(capacity)
        self._flush = NOTHING
        self.newest = NOTHING

    def note(self, field: str, version: int) -> None:
        """`field` is `t:<tag>`, `n:<namespace>` or `*`, as in the Redis hash `@floors`; other fields are ignored."""
        self.newest = max(self.newest, version)
        if field == "*":
            self._flush = max(self._flush, version)
        elif field.startswith("t:"):
            self._tags.note(field, version)
        elif field.startswith("n:"):
            self._namespaces.note(field, version)

    def exists(self, version: int, namespace: str, tags: Iterable[str]) -> bool:
        """Whether an entry written at `version` is above the floors of flush-all, its namespace and its tags."""
        if version >= self.newest:
            return True
        if version < self._flush or version < self._namespaces.floor(namespace_field(namespace)):
            return False
        return all(version >= self._tags.floor(tag_field(tag)) for tag in tags)


def tag_field(tag: str) -> str:
    return "t:" + tag


def namespace_field(namespace: str | None) -> str:
    """The field of a namespace, or of flush-all if it is None."""
    return "*" if namespace is None else "n:" + namespace
