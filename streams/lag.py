"""How late an event loop is: whatever blocks it, nobody's tick moves meanwhile."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import Self

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

NAME = "marketprism_worker_loop_lag_seconds"
INTERVAL_S = 0.01  # 100 short wake-ups a second; a block of B ms shows as B - 10 or more
BOUNDS_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 60)


class LoopLag(Collector):
    """A histogram of by how much a timer of the event loop came too late, measured while the block lasts.

    Counted here and told when it is asked for: prometheus_client's own histogram costs ten times the measurement.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0
        self._due = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._registry.register(self)
        self._wait(time.monotonic())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._registry.unregister(self)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        total, buckets = 0, []
        for bound, n in zip((*BOUNDS_S, float("inf")), self._counts, strict=True):
            total += n
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(total)))
        yield HistogramMetricFamily(NAME, "By how much a timer of the event loop came too late.", buckets, self._sum_s)

    def _wait(self, now: float) -> None:
        # Not the loop's own clock: uvloop's stands still while a callback runs.
        self._due = now + INTERVAL_S
        self._timer = self._loop.call_later(INTERVAL_S, self._observe)

    def _observe(self) -> None:
        now = time.monotonic()
        late_s = max(0.0, now - self._due)
        self._counts[bisect_left(BOUNDS_S, late_s)] += 1
        self._sum_s += late_s
        self._wait(now)
