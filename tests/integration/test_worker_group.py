"""Workers join and leave while ticks flow, in order and by death: shares are even, nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from streams.days.replay import Pause, Replay
from streams.kafka.admin import ensure_topics
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.workers import GOLDEN, merged_digest, reached, sample_day, share

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DEADLINE_S = 90.0


async def test_three_workers_come_and_go_under_load_with_even_shares(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    day = sample_day()
    worker = replace(settings.worker, session_timeout_s=2.0, commit_interval_s=0.5)
    first = replace(settings, worker=worker, publisher=replace(settings.publisher, frame_ticks=64))
    runs = [first] + [
        replace(first, worker=replace(worker, data_dir=str(tmp_path / name), port=free_ports(1)[0]))
        for name in ("two", "three")
    ]
    one, two, three = (WorkerProcess(run, tmp_path / f"{n}.log") for n, run in enumerate(runs))
    under_way: list[asyncio.Future[float | None]] = []

    async def shares(*sizes: int) -> bool:
        found = [await share(run) for run in runs]
        whole = set().union(*found)
        return sorted(map(len, found)) == sorted(sizes) and len(whole) == sum(sizes) == first.kafka.partitions

    async def is_the_day(
        pause_at: list[int], changes: list[Callable[[], Awaitable[float | None]]], speed: float | None = 100
    ) -> None:
        """A replay in which the k-th change begins at the k-th pause and goes on while ticks flow."""
        steps = iter(changes)

        async def change(_: Pause) -> None:
            under_way.append(asyncio.ensure_future(next(steps)()))

        report = await Replay([day], first, live=True, speed=speed, pause_at=pause_at, on_pause=change).run()
        await asyncio.gather(*under_way)
        await wait_until(reached(runs, report.offsets), DEADLINE_S, "every frame on one of the disks")
        assert merged_digest(*runs) == GOLDEN["digest"]

    await ensure_topics(first)
    async with one:
        try:
            await asyncio.gather(two.start(), three.start())
            await wait_until(lambda: shares(2, 1, 1), DEADLINE_S, "even shares of three")
            await asyncio.gather(two.stop(), three.stop())
            await wait_until(lambda: shares(4, 0, 0), DEADLINE_S, "everything with the first one")
            await is_the_day([day.rows // 4, day.rows // 2], [two.start, three.start])
            await wait_until(lambda: shares(2, 1, 1), DEADLINE_S, "even shares of three, who joined under load")
            await is_the_day([day.rows // 4, day.rows // 2], [two.stop, three.kill])
            await wait_until(lambda: shares(4, 0, 0), DEADLINE_S, "everything with the one that stayed")
            await is_the_day([], [], speed=None)
        finally:
            await asyncio.gather(two.stop(), three.stop())
