"""What a worker does now and then: heartbeats, writes to Redis, looks at its changelogs, memory given back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from faust.types import TP

from streams.allocator import give_back
from streams.cache.coherence import Coherence
from streams.kafka.ownership import SOURCE_TOPICS, Ownership
from streams.watchdog import Watchdog

HEARTBEAT_S = 0.1  # proof of freshness on a quiet market
SETTLE_S = 0.02  # how long Redis lacks what readers were told
PATROL_S = 10.0  # far below the 10 minutes that compaction leaves records alone
GIVE_BACK_S = 30.0  # the pages that rounds take again cost some 20 ms of faults each time


class Duties:
    """Each goes on until it is cancelled, and raises what it cannot go on with.

    Args:
        log_ends: see `FetchTurns.ends`.
        serves: whether the worker owns what it was assigned and has not failed.
        may_write: whether the disk has room.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        coherence: Coherence,
        watchdog: Watchdog,
        prefix: str,
        log_ends: Callable[[], Mapping[TP, tuple[int, int]]],
        serves: Callable[[], bool],
        may_write: Callable[[], bool],
    ) -> None:
        self._ownership = ownership
        self._coherence = coherence
        self._watchdog = watchdog
        self._names = {space: prefix + topic for space, topic in SOURCE_TOPICS.items()}
        self._log_ends = log_ends
        self._serves = serves
        self._may_write = may_write

    def all(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return self.heartbeats(), self.settle(), self.patrol(), self.memory()

    async def heartbeats(self) -> None:
        """Each 100 ms: how far every partition is, and by when that was the log's end (rule 11)."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if not self._serves():
                continue
            with self._watchdog.watching("a heartbeat"):
                async with self._ownership.lock:
                    owned, ends = self._ownership.partitions, self._log_ends()
                    proven = {
                        (space, number): ends[tp][0]
                        for space, name in self._names.items()
                        for number in owned
                        if (tp := TP(name, number)) in ends and at_end(owned[number].next_offset(space), ends[tp][1])
                    }
                    await self._coherence.heartbeat(list(owned.values()), proven)

    async def settle(self) -> None:
        """Redis gets what several rounds changed in one go: each send costs as much as the rows of a round."""
        while True:
            await self._coherence.unsettled.wait()
            await asyncio.sleep(SETTLE_S)
            self._coherence.unsettled.clear()
            if self._serves():
                with self._watchdog.watching("a write to Redis"):
                    async with self._ownership.lock:
                        await self._coherence.settle(self._ownership.partitions.values())

    async def patrol(self) -> None:
        """Each 10 s: whether somebody else writes our changelogs."""
        while True:
            await asyncio.sleep(PATROL_S)
            if self._serves() and self._may_write():
                with self._watchdog.watching("a look at the changelogs"):
                    await self._ownership.patrol()

    async def memory(self) -> None:
        """Each 30 s: what no round needed again goes back to the kernel."""
        while True:
            await asyncio.sleep(GIVE_BACK_S)
            gc.collect(1)  # young objects are so few that it would not run by itself for hours
            give_back()


def at_end(next_offset: int, end: int) -> bool:
    """Whether all of a log was applied, as it is now; `end` is exclusive."""
    return next_offset >= end
