"""A loop that was blocked says so."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, generate_latest

from agents.bench.counters import parse_histogram
from models.perf.histogram import Histogram
from streams.lag import INTERVAL_S, NAME, LoopLag
from tests.conftest import WaitUntil

BLOCK_S = 0.08


async def test_a_block_of_the_loop_is_in_the_histogram(wait_until: WaitUntil) -> None:
    registry = CollectorRegistry()

    def told() -> Histogram:
        return parse_histogram(generate_latest(registry).decode(), NAME)

    async with LoopLag(registry):
        await wait_until(lambda: sum(told().counts.values()), 60, "a measurement")
        before = told()
        time.sleep(BLOCK_S)  # noqa: ASYNC251 - the block that is to be seen
        await wait_until(lambda: sum(told().since(before).counts.values()), 60, "a measurement of the block")
        assert told().since(before).quantile(1) >= BLOCK_S - INTERVAL_S
    assert generate_latest(registry) == b""
