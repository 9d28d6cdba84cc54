"""Fail-stop: the first error of any part ends the whole, because the log has everything that was not committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from streams.log import event

log = logging.getLogger(__name__)


class FailStop:
    """What a worker cannot go on with. The first error counts, later ones are its consequences.

    Args:
        forget: called at once, before anybody hears of the error: nothing may be committed any more.

    Attributes:
        reason: None = it goes on.
    """

    def __init__(self, forget: Callable[[], None]) -> None:
        self.reason: BaseException | None = None
        self._forget = forget
        self._failed = asyncio.Event()

    def fail(self, exc: BaseException) -> None:
        """The worker cannot go on."""
        if self.reason is None:
            event(log, "worker_failed", level=logging.ERROR, exc_info=True, detail=str(exc))
            self._forget()
            self.reason = exc
            self._failed.set()

    async def failed(self) -> BaseException:
        """Wait until the worker cannot go on; the reason."""
        await self._failed.wait()  # no timeout: a worker that is well never fails
        assert self.reason is not None
        return self.reason

    async def lasting(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that lasts as long as the worker: whatever ends it ends the worker."""
        try:
            await work
        except Exception as exc:
            self.fail(exc)

    async def unless_failed(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for work; it is cancelled when the worker fails meanwhile. Raises: what the worker failed with."""
        doing, failing = asyncio.create_task(work), asyncio.create_task(self.failed())
        try:
            await asyncio.wait({doing, failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failing.cancel()
        if self.reason is not None:
            doing.cancel()
            raise self.reason
        await doing
