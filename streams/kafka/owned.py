"""What a worker holds of one partition it owns: the state, its token, and how far each copy of it has come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.cache.key_bytes import KeyBytes
from models.cache.keys import Space
from models.cache.packed_keys import PackedKeys
from models.cache.partition import EntryChange, EntryPartition
from models.cache.touched import Touched
from models.cache.version import NOTHING, epoch_of, offset_of, version
from models.market import pages
from models.market.pages import ControlPage, Flush
from models.market.partition import MarketPartition
from streams.kafka.clients import Outgoing


@dataclass
class Sweep:
    """How far entries were looked through for those that are over, turn after turn; see `streams.kafka.sweep`.

    Attributes:
        next_key: of the page to look at next; `pages.ENTRY` = a turn begins.
    """

    next_key: bytes = pages.ENTRY
    _began: int = NOTHING
    _ended: int | None = None

    def rests(self, counted: int) -> bool:
        """Whether a whole turn has seen all there is to find while control pages count no more than this version."""
        if self.next_key == pages.ENTRY:
            self._began = counted
        return self.next_key == pages.ENTRY and self._ended == counted

    def end(self) -> None:
        """There is no further page: the turn is over."""
        self.next_key, self._ended = pages.ENTRY, self._began


@dataclass
class OwnedPartition:
    """One partition number of all source topics.

    Attributes:
        token: epoch of the changelog and offset of the owner record in it; rises with each assignment (rule 1).
        epoch: how often the source topics were created anew (rule 6).
        tier: newest version that Redis acknowledged, by space; -1 = nothing.
        announced: newest version that went out as an invalidation, by space.
        told_at: when changes were last announced, by space; monotonic, s.
        append_ns: log-append time of the newest record applied, by space; a proof of freshness (rule 11).
        redis_behind: spaces whose tier has to be rewritten before it may be written on (outage, gap, lost data).
        untold, unwritten: rows that readers were not told of, and that Redis does not have.
        unwritten_entries: generic entries that Redis does not have, in log order.
        stamps: due time (ns) and ticks of frames that readers were not told of.
        windows: records that are to be acknowledged when readers are told.
        published_books: slots whose hash in Redis was written whole by this owner, so that parts may follow.
        sweep: for entries that are over.
    """

    number: int
    prefix: str
    token: int = -1
    epoch: int = 0
    topic_ids: dict[str, str] = field(default_factory=dict)
    market: MarketPartition = field(default_factory=MarketPartition)
    entries: EntryPartition = field(default_factory=EntryPartition)
    tier: dict[Space, int] = field(default_factory=lambda: dict.fromkeys(Space, -1))
    announced: dict[Space, int] = field(default_factory=lambda: dict.fromkeys(Space, -1))
    told_at: dict[Space, float] = field(default_factory=lambda: dict.fromkeys(Space, 0.0))
    append_ns: dict[Space, int] = field(default_factory=lambda: dict.fromkeys(Space, 0))
    redis_behind: set[Space] = field(default_factory=lambda: set(Space))
    untold: Touched = field(default_factory=Touched)
    unwritten: Touched = field(default_factory=Touched)
    unwritten_entries: list[EntryChange] = field(default_factory=list)
    stamps: list[tuple[int, int]] = field(default_factory=list)
    windows: list[Outgoing] = field(default_factory=list)
    published_books: set[int] = field(default_factory=set)
    sweep: Sweep = field(default_factory=Sweep)
    _keys: KeyBytes = field(init=False)

    def __post_init__(self) -> None:
        self._keys = KeyBytes(self.prefix, self.number)

    def applied(self, space: Space) -> int:
        return self.market.applied if space is Space.MARKET else self.entries.applied

    def redis_keys(self, names: NDArray[np.int32]) -> PackedKeys:
        """Redis keys by name, `slot * 16 + facet`."""
        self._keys.catch_up(self.market.slots.instruments)
        return self._keys.pack(names)

    def flush(self) -> Flush:
        """Copy of all changed pages and of the control page that fits them: one synchronous step."""
        groups, sources = self.market.flush()
        control = ControlPage(
            frames_version=self.market.applied,
            writes_version=self.entries.applied,
            sources=sources,
            floors=dict(self.entries.floors),
            topic_ids=self.topic_ids,
            epoch=self.epoch,
            watermark_ns=self.market.windows.watermark_ns,
        )
        return Flush(groups + self.entries.flush(), (pages.CONTROL, pages.encode_control(control)))

    def load(self, records: list[tuple[bytes, bytes]]) -> None:
        """Restore from the pages that recovery left, keys rising. Raises: CorruptPage."""
        self.market.load(records)
        for key, body in records:
            if key[:1] == pages.ENTRY:
                self.entries.load(key[1:].decode(), body)
            elif key == pages.CONTROL:
                control = pages.decode_control(body)
                self.market.held = self.market.applied = control.frames_version
                self.entries.held = self.entries.applied = control.writes_version
                self.entries.graves.saved(control.writes_version)
                self.market.sources = control.sources
                self.market.windows.watermark_ns = control.watermark_ns
                self.entries.floors = control.floors
                self.epoch, self.topic_ids = control.epoch, control.topic_ids
        self.announced = {space: self.applied(space) for space in Space}

    def rewrite_pages(self, records: list[tuple[bytes, bytes]]) -> None:
        """All pages are to be written again at the next barrier (rule 1); `records` are those that were loaded."""
        self.market.rewrite_pages()
        self.entries.rewrite({key[1:].decode(): body for key, body in records if key.startswith(pages.ENTRY)})

    def check_topics(self, topics: Mapping[Space, tuple[str, str]], *, beyond_end: Collection[Space]) -> bool:
        """Raise the epoch when a source topic was created anew or lost its end (rule 6); positions of sources stay.

        What was applied of the other topic counts in the new epoch: its log is the same, and nothing in it comes twice.

        Args:
            topics: name and Kafka's id of the source topics as they are now.
            beyond_end: of which a version was applied that lies beyond the topic's end: the log lost it.

        Returns:
            whether the epoch rose.
        """
        over = {space for space, (name, id_) in topics.items() if self.topic_ids.get(name, id_) != id_}
        over.update(beyond_end)
        self.topic_ids = dict(topics.values())
        if not over:
            return False
        before, self.epoch = self.epoch, self.epoch + 1
        for space in set(Space) - over:
            if (applied := self.applied(space)) != NOTHING and epoch_of(applied) == before:
                state = self.market if space is Space.MARKET else self.entries
                state.held = state.applied = self.announced[space] = version(self.epoch, offset_of(applied))
        return True

    def next_offset(self, space: Space) -> int:
        """Of the next record of a source topic that the pages need: the first one, if they know nothing of its log."""
        applied = self.applied(space)
        return 0 if applied == NOTHING or epoch_of(applied) != self.epoch else offset_of(applied) + 1
