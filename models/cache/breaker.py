"""A circuit breaker: who calls a tier that is down must not wait for it each time (Nygard, Release It!, 2007).

Pure: instants come in as seconds of any monotonic clock.
"""

from __future__ import annotations

OPENS_AT = 3.0
_FORGETS = 0.8  # of the score, a success: three failures in a row open it, and so do calls that fail half of the time


class Breaker:
    """Closed while calls succeed; open after failures; closed again by a probe that succeeds.

    While it is open nobody calls but the probe, so there is no half-open state in which a caller takes the risk.

    Args:
        first_pause_s, longest_pause_s: from opening to the first probe, doubled after each one that fails.

    Attributes:
        is_open: callers are to pass the tier by.
        failure: what the last call that failed raised; None = none did since it closed.
    """

    __slots__ = ("_due_s", "_longest_pause_s", "_pause_s", "_score", "failure", "first_pause_s", "is_open")

    def __init__(self, *, first_pause_s: float = 0.1, longest_pause_s: float = 2.0) -> None:
        self.first_pause_s, self._longest_pause_s = first_pause_s, longest_pause_s
        self.is_open = False
        self.failure: Exception | None = None
        self._score = 0.0
        self._pause_s = first_pause_s
        self._due_s = 0.0

    def __repr__(self) -> str:
        return f"Breaker({'open' if self.is_open else 'closed'}, score {self._score:.1f})"

    def succeeded(self) -> None:
        """A call of a user, while closed, was answered."""
        if self._score:
            self._score = self._score * _FORGETS if self._score > 0.1 else 0.0

    def failed(self, failure: Exception, now_s: float) -> None:
        """A call of a user was not answered. Those that were under way when it opened change nothing."""
        self.failure = failure
        if self.is_open:
            return
        self._score += 1
        if self._score >= OPENS_AT:
            self.is_open = True
            self._pause_s = self.first_pause_s
            self._due_s = now_s + self._pause_s

    def probe_due(self, now_s: float) -> bool:
        return self.is_open and now_s >= self._due_s

    def probed(self, failure: Exception | None, now_s: float) -> None:
        """A probe ended. Once closed, two failures more than successes open it again, not three."""
        if failure is None:
            self.is_open = False
            self.failure = None
            self._score = OPENS_AT - 2
        elif self.is_open:
            self.failure = failure
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
            self._due_s = now_s + self._pause_s
