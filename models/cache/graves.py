"""Graves: what a key that is gone leaves behind, until nothing can come any more that has to be kept away from it."""

from __future__ import annotations

from heapq import heappop, heappush

from models.cache.entry import grave_version
from models.cache.version import NOTHING

MAX_OVERTAKEN = 65_536  # writes of its partition that may pass a load before its fill is dropped unseen


class Graves:
    """The keys of one partition whose pages are graves: of deleted ones, and of entries that are over.

    A grave serves twice: a replay must see that a page was deleted by a write after those it applies again, and a fill
    must see a deletion, or a put, that came after its load began (rule 10). The first ends when a control page counts
    that write, the second after `MAX_OVERTAKEN` further writes, because older fills are dropped. Both are counted in
    versions alone, so a replay decides the same.

    Attributes:
        counted: a control page on disk counts writes up to this version.
    """

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._oldest: list[tuple[int, str]] = []  # a heap; some are of keys that were put again
        self.counted = NOTHING

    def __len__(self) -> int:
        return len(self._versions)

    def load(self, key: str, stored: bytes) -> None:
        """This is the key's newest page: a grave or an entry."""
        version = grave_version(stored)
        if version is None:
            self._versions.pop(key, None)
        else:
            self._versions[key] = version
            heappush(self._oldest, (version, key))

    def saved(self, version: int) -> None:
        """A control page on disk counts writes up to this version."""
        self.counted = max(self.counted, version)

    def take_served(self) -> list[str]:
        """Keys whose graves have served; they are forgotten."""
        served = []
        while self._oldest and self._oldest[0][0] < self.counted - MAX_OVERTAKEN:
            version, key = heappop(self._oldest)
            if self._versions.get(key) == version:
                del self._versions[key]
                served.append(key)
        return served

    def forgets(self, base: int, *, by: int) -> bool:
        """Whether a deletion after version `base` may have left no grave by the time of version `by`."""
        return by - base > MAX_OVERTAKEN
