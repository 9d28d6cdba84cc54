"""A market that goes on at its own pace, whatever becomes of the worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from agents.bench.producer import TickLog

_STEP_S = 0.01
_LEAVE_S = 30.0


@contextlib.asynccontextmanager
async def flowing(log: TickLog, ticks_per_s: float) -> AsyncIterator[None]:
    """Send ticks at this rate for the length of the block, and until Kafka has all of them.

    Open loop: what is due is sent, also when a step came late.

    Raises:
        PublishFailed: Kafka did not take them.
    """
    leave = asyncio.Event()

    async def flow() -> None:
        began, sent = time.monotonic(), 0
        while not leave.is_set():
            due = int((time.monotonic() - began) * ticks_per_s)
            if due > sent:
                await log.hand_over(due - sent)
                sent = due
            await asyncio.sleep(_STEP_S)
        await log.sender.drain(_LEAVE_S)

    task = asyncio.create_task(flow())
    try:
        yield
    finally:
        leave.set()
        await task
