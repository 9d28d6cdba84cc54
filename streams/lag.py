"""How late an event loop is: whatever blocks it, nobody's tick moves meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Self

from streams import metrics

INTERVAL_S = 0.005  # 200 short wake-ups a second, 0.3 % of a core; a block of B ms shows as B - 5 or more


class LoopLag:
    """Observes `marketprism_worker_loop_lag_seconds` while the block lasts: by how much a timer came too late."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        # Not the loop's own clock: uvloop's stands still while a callback runs.
        due = time.monotonic() + INTERVAL_S
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._observe, due)

    def _observe(self, due: float) -> None:
        metrics.LOOP_LAG.observe(max(0.0, time.monotonic() - due))
        self._wait()
