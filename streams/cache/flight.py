"""Single-flight: of all who want a key at the same time, one does the work and all have what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from models.errors import ServiceUnavailable

T = TypeVar("T")

_AGAIN_S = 0.5  # what lost its cancellation (redis-py does at times, see `LoadLocks`) gets another


@dataclass
class Flight(Generic[T]):
    """One piece of work under way.

    Attributes:
        base: version that was known of the key when the work began; None = it has not begun.
    """

    base: int | None = None
    task: asyncio.Task[T] | None = None


class Flights(Generic[T]):
    """At most one flight a key that a caller may join. Flights belong to nobody who waits: a caller that is cancelled,
    or has waited long enough, leaves the flight to the others, and to itself if there are none."""

    def __init__(self) -> None:
        self._open: dict[str, Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def join(self, key: str, floor: int, start: Callable[[Flight[T]], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """The task of a key's flight, to wait for with `asyncio.wait`.

        Args:
            floor: the caller knows of a change at this version: a flight that began before it is not for the caller.
            start: makes the work of a new flight.

        Raises:
            ServiceUnavailable: the flights are closed.
        """
        if self._closed:
            raise ServiceUnavailable(f"{key}: loads are closed")
        flight = self._open.get(key)
        if flight is None or flight.task is None or (flight.base is not None and floor > flight.base):
            flight = self._open[key] = Flight()
            flight.task = asyncio.create_task(start(flight), name=f"load {key}")
            self._tasks.add(flight.task)
            flight.task.add_done_callback(lambda task, flight=flight: self._land(key, flight, task))  # type: ignore[misc]
        return flight.task

    async def close(self) -> None:
        """Cancel what is under way and wait for its end."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=_AGAIN_S)

    def _land(self, key: str, flight: Flight[T], task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        if self._open.get(key) is flight:
            del self._open[key]
        if not task.cancelled():
            task.exception()  # seen: perhaps nobody waits any more
