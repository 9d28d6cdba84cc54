"""How far a worker is on its way to serving: joining its group, reading the changelog, taking partitions over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

import faust

from streams import metrics
from streams.kafka.admin import describe_topics, topic_offsets
from streams.kafka.table import PageTable
from streams.log import event
from streams.settings import Settings
from streams.watchdog import Watchdog, Watched

log = logging.getLogger(__name__)

SAY_EACH_S = 2.0


class Phase(Enum):
    JOINING = "joining"  # its group, which hands partitions out
    RECOVERING = "recovering"  # pages from the changelog that the disk does not have
    TAKING_OVER = "taking over"  # a token, and Redis rewritten
    SERVING = "serving"


class Recovery:
    """The way from no partitions to serving them; each phase has to make progress within the watchdog's deadline.

    Records are counted by changelog offsets, so compaction makes them fewer than they seem.

    Args:
        n_owned: how many partitions have been taken over; a rise is progress.
    """

    def __init__(
        self, app: faust.App, table: PageTable, settings: Settings, *, watchdog: Watchdog, n_owned: Callable[[], int]
    ) -> None:
        self.phase = Phase.SERVING
        self._app = app
        self._table = table
        self._settings = settings
        self._watchdog = watchdog
        self._n_owned = n_owned
        self._work: Watched | None = None
        self._began = self._said = time.monotonic()
        self._replayed_before = self._replayed = 0
        self._moved: tuple[int, ...] = ()
        self._seconds = 0.0

    def enter(self, phase: Phase) -> None:
        """A phase begins, and the one before it ends."""
        now = time.monotonic()
        if self._work is not None:
            self._watchdog.end(self._work)
            self._work = None
        if phase is Phase.SERVING:
            if self.phase is not Phase.SERVING:
                self._seconds = now - self._began
                metrics.RECOVERY_SECONDS.set(self._seconds)
                event(log, "recovered", records=self.done, seconds=round(self._seconds, 3))
        else:
            if self.phase is Phase.SERVING or phase is Phase.JOINING:
                self._began = self._said = now
                self._replayed_before = self._table.data.replayed
            self._work = self._watchdog.begin(f"{phase.value} (group {self._app.conf.id})")
        self.phase = phase
        self.look()

    @property
    def done(self) -> int:
        """Changelog records applied since the last assignment began."""
        return int(self._table.data.replayed) - self._replayed_before

    @property
    def remaining(self) -> int:
        """Changelog records that Faust still has to read; 0 outside of `recovering`."""
        if self.phase is not Phase.RECOVERING or not self._app.in_recovery:
            return 0
        return sum(max(left, 0) for left in self._app.tables.recovery.active_remaining().values())

    def look(self) -> None:
        """Note progress, show it in metrics, say it now and then."""
        remaining, replayed = self.remaining, int(self._table.data.replayed)
        moved = (replayed, remaining, self._n_owned())
        if moved != self._moved and self._work is not None:
            self._watchdog.progress(self._work)
        self._moved = moved
        metrics.RECOVERY_RECORDS.inc(replayed - self._replayed)
        self._replayed = replayed
        metrics.RECOVERY_REMAINING.set(remaining)
        if self.phase is not Phase.SERVING and time.monotonic() - self._said >= SAY_EACH_S:
            self._said = time.monotonic()
            event(
                log, "recovery_progress", phase=self.phase.value, done=self.done, total=self.done + remaining,
                seconds=round(self._said - self._began, 1),
            )  # fmt: skip

    def report(self) -> dict[str, Any]:
        """For `/health`."""
        seconds = self._seconds if self.phase is Phase.SERVING else time.monotonic() - self._began
        return {
            "phase": self.phase.value,
            "records_done": self.done,
            "records_total": self.done + self.remaining,
            "seconds": round(seconds, 3),
        }

    async def explain(self) -> str:
        """Why nothing comes, as far as the changelog tells; for the error that ends the worker.

        Raises:
            ServiceUnavailable: no broker answers.
        """
        if self.phase is not Phase.RECOVERING:
            return ""
        name = self._table.changelog_topic_name
        firsts = (await topic_offsets(self._settings, (await describe_topics(self._settings, [name])).values()))[name]
        for tp, left in sorted(self._app.tables.recovery.active_remaining().items()):
            first, end = firsts[tp.partition]
            if left > 0 and first >= end:
                return (
                    f": partition {tp.partition} of {name} was emptied, its offsets up to {end} are gone and {left} of "
                    "them are not on this disk; delete the topic to begin without them, the sources are then read "
                    "from their first record"
                )
        return ""
