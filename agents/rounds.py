"""Thin Faust agents over rounds: one a source topic, and what all of them do with a round."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from streams import metrics
from streams.failstop import FailStop
from streams.kafka.transport import Round, Rounds
from streams.watchdog import Watchdog

Process = Callable[[Round], Awaitable[None]]


class RoundAgents:
    """Adds agents to an app that is not finalized yet.

    Args:
        app: the Faust app.
        prefix: of topics.
        failstop: an error in a round ends the worker.

    Attributes:
        draining: rounds that come are passed over, because the last barrier has begun.
    """

    def __init__(self, app: Any, rounds: Rounds, *, prefix: str, watchdog: Watchdog, failstop: FailStop) -> None:
        self.draining = False
        self._app = app
        self._rounds = rounds
        self._prefix = prefix
        self._watchdog = watchdog
        self._failstop = failstop

    def add(self, name: str, topic: str, process: Process, *, columnar: bool = False) -> None:
        """An agent on a channel of rounds; the channel's bound of one is the back-pressure on the fetch.

        Args:
            columnar: its rounds bring columns instead of records.
        """
        channel = self._app.channel(maxsize=1)
        full_name = self._prefix + topic
        self._rounds.sinks[full_name] = channel.put
        if columnar:
            self._rounds.columnar.add(full_name)
        self._app.topics.add(self._app.topic(full_name, key_serializer="raw", value_serializer="raw"))

        async def rounds(stream: AsyncIterator[Round]) -> None:
            async for round_ in stream:
                await self._guarded(process, round_)

        self._app.agent(channel, name=name)(rounds)

    @property
    def is_over(self) -> bool:
        """No further round is processed: the worker stops, or has failed."""
        return self.draining or self._failstop.reason is not None

    async def _guarded(self, process: Process, round_: Round) -> None:
        if self.is_over or round_.generation != self._app.consumer_generation_id:
            return
        began = time.perf_counter()
        try:
            with self._watchdog.watching(f"a round of {round_.topic}, partitions {sorted(round_.records)}"):
                await process(round_)
        except Exception as exc:
            self._failstop.fail(exc)
            raise
        metrics.ROUND_SECONDS.labels(round_.topic.removeprefix(self._prefix)).observe(time.perf_counter() - began)
