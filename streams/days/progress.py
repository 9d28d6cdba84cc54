"""How far a replay is, as people want to see it: share, rate, lag and time to go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from streams.days.feed import DayFeed

_REPORT_S = 0.1
_RATE_OVER_S = 1.0


@dataclass(frozen=True)
class Progress:
    """Where a round of a replay stands.

    Attributes:
        sent: rows of this round.
        rows: of a round; None where only its end tells.
        share: 0..1, of rows if their number is known, else of market time.
        rows_per_s: over the last second or so.
        lag_ms: how late what was sent last was; 0 when nothing has a due time.
        left_s: until the round's end; None while it cannot be told.
    """

    sent: int
    rows: int | None
    share: float
    rows_per_s: float
    lag_ms: float
    left_s: float | None


class Meter:
    """Hears of every step of a replay, and tells somebody ten times a second.

    Args:
        speed, rate: of the replay.
        tell: who hears of it; None = nobody.
    """

    def __init__(
        self,
        feed: DayFeed,
        *,
        speed: float | None,
        rate: float | None,
        tell: Callable[[Progress], None] | None,
    ) -> None:
        self._feed, self._speed, self._rate, self._tell = feed, speed, rate, tell
        self._told_s = self._since_s = self._begun_s = time.monotonic()
        self._sent = self._sent_before = 0
        self._per_s = 0.0
        self._newest_ns = feed.first_ns
        self._lag_ns = 0

    def told(self, sent: int, newest_ns: int, late_ns: int = 0) -> None:
        """Rows up to number `sent`, received at `newest_ns`, have left, the last ones `late_ns` late."""
        if self._tell is None:
            return
        if sent < self._sent:  # a new round
            self._sent_before, self._begun_s = 0, time.monotonic()
        self._sent, self._newest_ns, self._lag_ns = sent, newest_ns, late_ns
        self._report(force=sent == self._feed.rows)

    def waited(self, left_ns: int) -> None:
        """Nothing is due for `left_ns` yet."""
        if self._tell is not None:
            self._lag_ns = 0
            self._report(force=False)

    def _report(self, *, force: bool) -> None:
        now = time.monotonic()
        if self._tell is None or not (force or now - self._told_s > _REPORT_S):
            return
        self._told_s = now
        if now - self._since_s > _RATE_OVER_S or not self._per_s:
            self._per_s = (self._sent - self._sent_before) / max(now - self._since_s, 1e-9)
            self._since_s, self._sent_before = now, self._sent
        self._tell(
            Progress(self._sent, self._feed.rows, self._share(), self._per_s, self._lag_ns / 1e6, self._left_s(now))
        )

    def _share(self) -> float:
        if self._feed.rows:
            return min(self._sent / self._feed.rows, 1.0)
        length = self._feed.last_ns - self._feed.first_ns
        return min(max((self._newest_ns - self._feed.first_ns) / length, 0.0), 1.0) if length else 1.0

    def _left_s(self, now: float) -> float | None:
        if self._speed:
            return max(self._feed.last_ns - self._newest_ns, 0) / 1e9 / self._speed
        if self._rate and self._feed.rows:
            return (self._feed.rows - self._sent) / self._rate
        share = self._share()
        return (now - self._begun_s) * (1 - share) / share if share else None
