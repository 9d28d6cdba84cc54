"""Following the invalidations: what is heard keeps the reader's memory true, what is missed empties it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Self

from models.cache.keys import Space
from models.errors import ServiceUnavailable
from streams.client.events import Gap
from streams.client.invalidations import InvalidationConsumer
from streams.client.upkeep import SPACES, Upkeep
from streams.clock import Clock
from streams.log import event as log_event
from streams.settings import Settings

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_TURN_S = 0.001  # of work on records; then others may run


class Listener:
    """Follows `cache.invalidations.v1` from its end on and hands it to the upkeep of the memory.

    While Kafka refuses it, nothing is kept: reads go to Redis. It tries again each second.

    Args:
        start: asked when it opens: offsets to go on from, None = the end.
    """

    def __init__(
        self,
        settings: Settings,
        upkeep: Upkeep,
        clock: Clock,
        *,
        start: Callable[[], Mapping[int, int] | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._start = start
        self._consumer = InvalidationConsumer(settings, clock=clock)  # another one each time it opens
        self._upkeep = upkeep
        self._clock = clock
        self._skew_ns = int(settings.clock.max_skew_ms * 1_000_000)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def __aenter__(self) -> Self:
        """Stands at the topic's end, or where it goes on, when it returns. Raises: ServiceUnavailable."""
        self._consumer = InvalidationConsumer(self._settings, start=self._start() or "latest", clock=self._clock)
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

    @property
    def positions(self) -> Mapping[int, int]:
        """Next record of each partition, by what is dealt with."""
        return self._consumer.positions

    async def _run(self) -> None:
        while not self._stopped:
            try:
                await self._follow()
            except ServiceUnavailable as exc:
                log_event(log, "invalidations_interrupted", level=logging.WARNING, detail=str(exc))
                self._upkeep.lose_all()
                await asyncio.sleep(_RETRY_S)
                await self._reopen()

    async def _follow(self) -> None:
        worked_s = 0.0
        async for event in self._consumer:
            if isinstance(event, Gap):
                self._miss(event)
                continue
            began_s = time.monotonic()
            self._upkeep.hear(event.partition, event.record, latest_ns=self._clock() + self._skew_ns)
            worked_s += time.monotonic() - began_s
            if worked_s >= _TURN_S:
                worked_s = 0.0
                await asyncio.sleep(0)

    async def _reopen(self) -> None:
        with suppress(ServiceUnavailable):
            await self._consumer.__aexit__(None, None, None)
        consumer = InvalidationConsumer(self._settings, clock=self._clock)
        with suppress(ServiceUnavailable):
            await consumer.__aenter__()
        self._consumer = consumer  # one that did not open says so when it is asked for events

    def _miss(self, gap: Gap) -> None:
        for space in Space if gap.source is None else (SPACES[gap.source],):
            self._upkeep.lose(space, gap.partition, None if gap.source is None else gap.got)
