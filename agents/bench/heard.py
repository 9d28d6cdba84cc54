"""Waiting for what a reader has heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from models.cache.keys import Space
from models.cache.version import offset_of
from models.errors import DeadlineExceeded
from streams.client.reader import MarketCache

_DEADLINE_S = 60.0
_POLL_S = 0.01


async def wait_synced(cache: MarketCache, spaces: Iterable[Space], n_partitions: int) -> None:
    """Until something was heard of every partition, so that entries are kept. Raises: DeadlineExceeded."""
    groups = [(space, number) for space in spaces for number in range(n_partitions)]
    await until(lambda: all(cache.synced(*group) for group in groups), "the first invalidations")


async def wait_heard(cache: MarketCache, offsets: Mapping[int, int]) -> None:
    """Until every market invalidation up to these offsets (partition -> offset) was heard. Raises: DeadlineExceeded."""
    await until(
        lambda: all(_reached(cache.position(Space.MARKET, number), offset) for number, offset in offsets.items()),
        "the last invalidations",
    )


async def until(condition: Callable[[], bool], what: str) -> None:
    """Raises: DeadlineExceeded, it did not come true within a minute."""
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise DeadlineExceeded(f"{what} did not come within {_DEADLINE_S:g} s")
        await asyncio.sleep(_POLL_S)


def _reached(version: int, offset: int) -> bool:
    return version >= 0 and offset_of(version) >= offset
