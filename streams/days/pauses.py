"""Where a replay pauses and whether it is to end: at rows named before, and whenever somebody wants it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection

from streams.clock import Clock
from streams.days.pacing import Pace
from streams.days.report import Pause
from streams.kafka.frame_sender import FrameSender

OnPause = Callable[[Pause], Awaitable[int | None]]  # a number: go so many rows on, then pause again


class Stopped(Exception):
    """Somebody asked for the end."""


class Pauses:
    """The pauses of a run, known and wanted.

    Args:
        at: rows after which to pause.
        on_pause: is awaited as soon as everything before is acknowledged; None = nobody waits.
        clock: UTC ns, what paces count in.
        timeout_s: how long acknowledgements may take.

    Attributes:
        wanted: somebody wants a pause or the end as soon as what is due now has been sent.
        spent_ns: time of all pauses.
    """

    def __init__(self, at: Collection[int], on_pause: OnPause | None, *, clock: Clock, timeout_s: float) -> None:
        self._at = sorted(at, reverse=True)
        self._on_pause, self._clock, self._timeout_s = on_pause, clock, timeout_s
        self._pause_wanted = self._stop_wanted = False
        self.spent_ns = 0

    def pause(self) -> None:
        self._pause_wanted = True

    def stop(self) -> None:
        self._stop_wanted = True

    @property
    def wanted(self) -> bool:
        return self._pause_wanted or self._stop_wanted

    @property
    def next_at(self) -> int | None:
        """The next row after which to pause."""
        return self._at[-1] if self._at else None

    async def look(self, sent: int, pace: Pace | None, sender: FrameSender) -> None:
        """Pause if somebody wants it, with `sent` rows out. Raises: Stopped."""
        if self._stop_wanted:
            raise Stopped
        if self._pause_wanted:
            self._pause_wanted = False
            await self.rest(sent, pace, sender)

    async def rest(self, seq: int, pace: Pace | None, sender: FrameSender) -> None:
        """Pause behind row `seq`; what is still to come is due so much later. Raises: Stopped."""
        stopped_ns, since = self._clock(), time.monotonic_ns()
        while self._at and self._at[-1] <= seq:
            self._at.pop()
        await sender.drain(self._timeout_s)
        if self._on_pause and (step := await self._on_pause(Pause(seq, dict(sender.offsets)))):
            self._at = sorted({*self._at, seq + step}, reverse=True)
        if self._stop_wanted:
            raise Stopped
        self.spent_ns += time.monotonic_ns() - since
        if pace:
            pace.shift(self._clock() - stopped_ns)
