"""Waiting for several things at once when none may be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def together(*waits: Awaitable[None]) -> None:
    """Wait until all have ended, also when one fails; then raise the first failure, in the order of the arguments.

    `asyncio.gather` returns at the first failure and lets the others run on, a `TaskGroup` ends them in mid-send.
    """
    for failure in await asyncio.gather(*waits, return_exceptions=True):
        if failure is not None:
            raise failure
