"""Work that makes no progress is noticed and named: a hang becomes an error with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Watched:
    """One piece of work under way.

    Attributes:
        what: for people, such as `a barrier`.
        since: seconds of the watchdog's clock at its last progress.
    """

    what: str
    since: float


class Watchdog:
    """Knows what is under way and since when it has not moved.

    Args:
        deadline_s: so long may a piece of work go without progress.
        clock: seconds, monotonic.
    """

    def __init__(self, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.deadline_s = deadline_s
        self._clock = clock
        self._works: list[Watched] = []

    @contextmanager
    def watching(self, what: str) -> Iterator[Watched]:
        """What happens inside has to end, or say `progress`, within the deadline."""
        work = self.begin(what)
        try:
            yield work
        finally:
            self.end(work)

    def begin(self, what: str) -> Watched:
        work = Watched(what, self._clock())
        self._works.append(work)
        return work

    def end(self, work: Watched) -> None:
        """Harmless when it has ended."""
        self._works = [other for other in self._works if other is not work]

    def progress(self, work: Watched) -> None:
        work.since = self._clock()

    def overdue(self) -> str | None:
        """What has stood still for longer than the deadline, the longest first; None = nothing."""
        late = min(self._works, key=lambda work: work.since, default=None)
        if late is None or self._clock() - late.since <= self.deadline_s:
            return None
        return f"{late.what} made no progress for {self._clock() - late.since:.1f} s"
