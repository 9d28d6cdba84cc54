"""The audit agent: compares a few keys of Redis with the worker's pages each second, for as long as it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from models.errors import ServiceUnavailable
from streams.cache.audit import Auditor
from streams.log import event

log = logging.getLogger(__name__)

EVERY_S = 1.0


class AuditAgent:
    """Args:
    keys_per_s: how many keys a second, 0 = none.
    ready: whether the worker serves; else there is nothing to compare.
    """

    def __init__(self, auditor: Auditor, keys_per_s: int, *, ready: Callable[[], bool]) -> None:
        self._auditor = auditor
        self._keys_per_s = keys_per_s
        self._ready = ready

    async def run(self) -> None:
        """Until it is cancelled; a Redis that is away is the heartbeat's to report.

        Raises: whatever the worker's disk gives instead of pages.
        """
        while self._keys_per_s:
            await asyncio.sleep(EVERY_S)
            if self._ready():
                try:
                    await self._auditor.look(self._keys_per_s)
                except ServiceUnavailable as exc:
                    event(log, "audit_missed", level=logging.WARNING, detail=str(exc))
