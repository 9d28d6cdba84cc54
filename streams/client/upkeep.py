"""What a reader does with each invalidation: floors rise, entries are renewed or leave memory, watchers wake."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from models.cache.coherence import PartitionView
from models.cache.floors import namespace_field, tag_field
from models.cache.invalidation import ROW_BYTES, Invalidation, KeyOp, Source
from models.cache.keys import Location, Space, facet_floor
from models.market.facets import BOOK
from streams.cache.held import Held
from streams.cache.memory import Memory
from streams.cache.recent import RecentRows

SPACES = {Source.FRAMES: Space.MARKET, Source.WRITES: Space.GENERIC}

Views = Mapping[tuple[Space, int], PartitionView]
Heard = Callable[[int, Invalidation], None]  # partition, record
_Watched = dict[Location, set[asyncio.Event]]


class Upkeep:
    """Keeps views and memory true by what is announced; one call a record, in the order of the log, no I/O.

    A record that carries its rows renews what is held or watched, and nobody needs to read it back; others drop it.
    Rows of keys that are not held are remembered for a moment.

    Args:
        recent: where; None = nowhere.
        heard: called with a partition and a record once memory is as the record says.
    """

    def __init__(
        self, views: Views, memory: Memory, heard: Heard | None = None, *, recent: RecentRows | None = None
    ) -> None:
        self._views = views
        self._memory = memory
        self._recent = RecentRows(0) if recent is None else recent
        self._heard = heard
        self._watched: dict[tuple[Space, int], dict[int | str, _Watched]] = defaultdict(dict)

    @contextmanager
    def watch(self, at: Location) -> Iterator[asyncio.Event]:
        """An event that is set whenever the key may have changed."""
        subjects = self._watched[at.key.space, at.partition]
        watched = subjects.setdefault(at.subject, {})
        event = asyncio.Event()
        watched.setdefault(at, set()).add(event)
        try:
            yield event
        finally:
            watched[at].discard(event)
            if not watched[at]:
                del watched[at]
            if not watched:
                del subjects[at.subject]

    def hear(self, partition: int, record: Invalidation, *, latest_ns: int) -> None:
        """A record in order, of an owner that is believed; `latest_ns`: a watermark beyond it proves nothing."""
        space = SPACES[record.source]
        view = self._views.get((space, partition))
        if view is None:
            return
        view.hear(record.from_version, record.to_version)
        if len(record.changes):
            self._name_instruments(partition, view, record)
        if record.keys:
            self._name_keys(partition, view, record)
        view.prove(record.watermark_ns, latest_ns=latest_ns)
        self._memory.sweep()
        if self._heard is not None:
            self._heard(partition, record)

    def lose(self, space: Space, partition: int, up_to: int | None) -> None:
        """Drop what is held of a partition (rule 12); entries are read again when they are asked for."""
        if (view := self._views.get((space, partition))) is None:
            return
        view.miss(up_to)
        self._recent.clear()
        self._memory.drop_partition(space, partition)
        for watched in self._watched[space, partition].values():
            _wake(watched)

    def lose_all(self) -> None:
        for space, partition in self._views:
            self.lose(space, partition, None)

    def _name_instruments(self, partition: int, view: PartitionView, record: Invalidation) -> None:
        version, rows, end = record.to_version, record.rows, 0
        watched_subjects = self._watched[Space.MARKET, partition]
        for instrument, bits in record.changes.tolist():
            start = end
            if rows is not None:
                end += (bits & ~(1 << BOOK)).bit_count() * ROW_BYTES
            self._renew(view, record, instrument, bits, start)
            if watched_subjects and instrument in watched_subjects:
                self._tell(watched_subjects[instrument], view, bits, version, rows, start)

    def _renew(self, view: PartitionView, record: Invalidation, instrument: int, bits: int, at: int) -> None:
        """Entries of one instrument; those that were read from a tier ahead of the stream hold this change already."""
        stale = []
        version, rows, note_floor = record.to_version, record.rows, view.floors.note
        named = self._memory.named
        for facet in _facets(bits):
            floor = facet_floor(instrument, facet)
            held = named(floor)
            note_floor(floor, version)
            if facet == BOOK or rows is None:
                self._recent.forget(floor)
                if held is not None and held.as_of < version:
                    stale.append(held)
                continue
            if held is not None:
                self._recent.forget(floor)
                if held.as_of < version and not held.renew(version, rows[at : at + ROW_BYTES]):
                    stale.append(held)
            elif version == view.position:  # after a take-over records come again
                self._recent.note(floor, version, rows[at : at + ROW_BYTES])
            at += ROW_BYTES
        for held in stale:
            self._memory.drop(held.at.key.text)

    def _tell(
        self, watched: _Watched, view: PartitionView, bits: int, version: int, rows: bytes | None, at: int
    ) -> None:
        """Wake who watches one of these facets; what is watched is kept although nobody read it yet."""
        for place, events in watched.items():
            facet = place.key.facet
            if not bits >> facet & 1:
                continue
            # After a take-over records come again; what is older than what was heard before is not kept.
            known = self._memory.look(place.key.text) is not None or version < view.floors.floor(place.floor)
            if rows is not None and facet != BOOK and not known:
                nth = (bits & ((1 << facet) - 1)).bit_count()
                fresh = Held(place, view)
                if fresh.renew(version, rows[at + nth * ROW_BYTES : at + (nth + 1) * ROW_BYTES]):
                    self._memory.put(fresh)
            for event in events:
                event.set()

    def _name_keys(self, partition: int, view: PartitionView, record: Invalidation) -> None:
        version = record.to_version
        watched = self._watched[Space.GENERIC, partition]
        for op, text in record.keys:
            if op in (KeyOp.PUT, KeyOp.DELETE):
                view.floors.note(text, version)
                held = self._memory.look(text)
                if held is not None and held.as_of < version:
                    self._memory.drop(text)
                if text in watched:
                    _wake(watched[text])
            else:
                view.name_group(tag_field(text) if op is KeyOp.TAG else namespace_field(text or None), version)
                for subject in watched.values():
                    _wake(subject)


def _facets(bits: int) -> Iterator[int]:
    """Numbers of the bits that are set, rising."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _wake(watched: _Watched) -> None:
    for events in watched.values():
        for event in events:
            event.set()
