"""Partitions as Faust hands them out and takes them away: from recovered pages to serving, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faust.types import TP

from streams import metrics
from streams.failstop import FailStop
from streams.kafka.admin import topic_ids
from streams.kafka.app import claim_store
from streams.kafka.ownership import Ownership
from streams.kafka.recovery import Phase, Recovery
from streams.kafka.table import PageTable
from streams.settings import Settings


class Assignment:
    """Listens to an app's rebalances.

    Args:
        app: the Faust app.
        failstop: pages that cannot be owned end the worker.
        passed: told of the steps of the first start: `assigned`, `recovered`, `served`.

    Attributes:
        ready: all partitions that were assigned are recovered and served.
    """

    def __init__(
        self,
        app: Any,
        settings: Settings,
        *,
        table: PageTable,
        ownership: Ownership,
        recovery: Recovery,
        failstop: FailStop,
        passed: Callable[[str], None],
    ) -> None:
        self.ready = False
        self._app = app
        self._settings = settings
        self._table = table
        self._ownership = ownership
        self._recovery = recovery
        self._failstop = failstop
        self._passed = passed
        self._holds_partitions = False
        table.on_recover(self._recovered)
        app.on_partitions_revoked.connect(self._revoked)
        app.on_partitions_assigned.connect(self._assigned)

    async def changelog_id(self) -> str | None:
        """Kafka's id of the changelog; None if there is none."""
        name = self._table.changelog_topic_name
        return (await topic_ids(self._settings, [name]))[name]

    async def _recovered(self) -> None:
        if not self._holds_partitions:  # lost while they were recovered: a token taken now would fence their new owner
            return
        self._passed("recovered")
        name = self._table.changelog_topic_name
        numbers = sorted(tp.partition for tp in self._app.assignor.assigned_actives() if tp.topic == name)
        try:
            self._recovery.enter(Phase.TAKING_OVER)
            changelog_id = await self.changelog_id() or ""
            claim_store(self._app, changelog_id)
            if self._table.data.checkpoints is not None:
                self._table.data.checkpoints.changelog_id = changelog_id
            await self._ownership.assign(numbers)
        except Exception as exc:
            self._failstop.fail(exc)
            raise
        metrics.PARTITIONS.set(len(numbers))
        self._recovery.enter(Phase.SERVING)
        self.ready = True
        self._passed("served")

    async def _revoked(self, app: Any, revoked: set[TP], **_: Any) -> None:
        self._holds_partitions = False
        async with self._ownership.lock:  # the round in flight ends first, so its offsets are not of what comes next
            self.ready = False
            self._ownership.revoke()
            metrics.PARTITIONS.set(0)
        self._recovery.enter(Phase.JOINING)

    async def _assigned(self, app: Any, assigned: set[TP], **_: Any) -> None:
        self._holds_partitions = True
        self._passed("assigned")
        self._recovery.enter(Phase.RECOVERING)
