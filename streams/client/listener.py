"""What a reader does with each invalidation: floors rise, entries leave memory, watchers wake."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

from models.cache.coherence import PartitionView
from models.cache.floors import namespace_field, tag_field
from models.cache.invalidation import Invalidation, KeyOp, Source
from models.cache.keys import Location, Space
from models.errors import ServiceUnavailable
from streams.cache.memory import Memory
from streams.client.events import Gap, Heartbeat
from streams.client.invalidations import InvalidationConsumer
from streams.clock import Clock
from streams.log import event as log_event
from streams.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_NAMES_A_TURN = 4_096  # about 1 ms of work; then others may run
_SPACES = {Source.FRAMES: Space.MARKET, Source.WRITES: Space.GENERIC}
Views = dict[tuple[Space, int], PartitionView]


class Listener:
    """Follows `cache.invalidations.v1` from its end on and keeps views and memory true.

    While Kafka refuses it, nothing is kept: reads go to Redis. It tries again each second.
    """

    def __init__(self, settings: Settings, views: Views, memory: Memory, clock: Clock) -> None:
        self._settings = settings
        self._consumer = InvalidationConsumer(settings, clock=clock)
        self._views = views
        self._memory = memory
        self._clock = clock
        self._skew_ns = int(settings.clock.max_skew_ms * 1_000_000)
        self._watchers: dict[tuple[Space, int], dict[int | str, set[asyncio.Event]]] = defaultdict(dict)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def __aenter__(self) -> Self:
        """Stands at the topic's end when it returns. Raises: ServiceUnavailable."""
        await self._consumer.__aenter__()
        self._stopped = False
        self._task = asyncio.create_task(self._run(), name="invalidations")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopped = True
        self._consumer.stop()
        task, self._task = self._task, None
        try:
            if task is not None:
                await task
        finally:
            await self._consumer.__aexit__(None, None, None)

    @contextmanager
    def watch(self, at: Location) -> Iterator[asyncio.Event]:
        """An event that is set whenever the key may have changed."""
        subjects = self._watchers[at.key.space, at.partition]
        event = asyncio.Event()
        subjects.setdefault(at.subject, set()).add(event)
        try:
            yield event
        finally:
            subjects[at.subject].discard(event)
            if not subjects[at.subject]:
                del subjects[at.subject]

    async def _run(self) -> None:
        while not self._stopped:
            try:
                await self._follow()
            except ServiceUnavailable as exc:
                log_event(log, "invalidations_interrupted", level=logging.WARNING, detail=str(exc))
                self._miss_all()
                await asyncio.sleep(_RETRY_S)
                await self._reopen()

    async def _follow(self) -> None:
        n_named = 0
        async for event in self._consumer:
            if isinstance(event, Gap):
                self._miss(event)
                continue
            self._hear(event.partition, event.record, names=not isinstance(event, Heartbeat))
            n_named += len(event.record.changes) + len(event.record.keys)
            if n_named >= _NAMES_A_TURN:
                n_named = 0
                await asyncio.sleep(0)

    async def _reopen(self) -> None:
        with suppress(ServiceUnavailable):
            await self._consumer.__aexit__(None, None, None)
        consumer = InvalidationConsumer(self._settings, clock=self._clock)
        with suppress(ServiceUnavailable):
            await consumer.__aenter__()
        self._consumer = consumer  # one that did not open says so when it is asked for events

    def _hear(self, partition: int, record: Invalidation, *, names: bool) -> None:
        space = _SPACES[record.source]
        view = self._views.get((space, partition))
        if view is None:
            return
        view.hear(record.from_version, record.to_version)
        if names and space is Space.MARKET:
            self._name_instruments(partition, view, record)
        elif names:
            self._name_keys(partition, view, record)
        view.prove(record.watermark_ns, latest_ns=self._clock() + self._skew_ns)

    def _name_instruments(self, partition: int, view: PartitionView, record: Invalidation) -> None:
        version, note, held_facets = record.to_version, view.floors.note, self._memory.facets
        watchers = self._watchers[Space.MARKET, partition]
        for instrument, bits in record.changes.tolist():
            note(instrument, version)
            if facets := held_facets(instrument):
                for facet, held in list(facets.items()):
                    # An entry that was read from a tier ahead of the stream holds this change already.
                    if bits >> facet & 1 and held.as_of < version:
                        self._memory.drop(held.at.key.text)
            if watchers and instrument in watchers:
                _wake(watchers[instrument])

    def _name_keys(self, partition: int, view: PartitionView, record: Invalidation) -> None:
        version = record.to_version
        watchers = self._watchers[Space.GENERIC, partition]
        for op, text in record.keys:
            if op in (KeyOp.PUT, KeyOp.DELETE):
                view.floors.note(text, version)
                held = self._memory.get(text)
                if held is not None and held.as_of < version:
                    self._memory.drop(text)
                if text in watchers:
                    _wake(watchers[text])
            else:
                view.name_group(tag_field(text) if op is KeyOp.TAG else namespace_field(text or None), version)
                for events in watchers.values():
                    _wake(events)

    def _miss(self, gap: Gap) -> None:
        for space in Space if gap.source is None else (_SPACES[gap.source],):
            if (space, gap.partition) in self._views:
                self._lose(space, gap.partition, None if gap.source is None else gap.got)

    def _miss_all(self) -> None:
        for space, partition in self._views:
            self._lose(space, partition, None)

    def _lose(self, space: Space, partition: int, up_to: int | None) -> None:
        """Drop what is held of a partition (rule 12); entries are read again when they are asked for."""
        self._views[space, partition].miss(up_to)
        self._memory.drop_partition(space, partition)
        for events in self._watchers[space, partition].values():
            _wake(events)


def _wake(events: set[asyncio.Event]) -> None:
    for event in events:
        event.set()
