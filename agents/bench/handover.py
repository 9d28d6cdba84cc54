"""Scenario `handover`: how long partitions are not served when their worker dies, and when it leaves in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click

from agents.bench.again import DEADLINE_S, health, seconds_until_served
from agents.bench.counting import count_served
from agents.bench.flow import flowing
from agents.bench.process import CpuMeter, cpu_s
from agents.bench.producer import TickLog, tick_log
from agents.bench.recovery import static_member
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from models.errors import DeadlineExceeded
from models.perf.ticks import SeededTicks
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings, WorkerSettings

_FRAME_TICKS = 4096
_SERVED_S = 120.0
_POLL_S = 0.05

UNITS = {
    "takeover_s": "s",
    "graceful_s": "s",
    "left_s": "s",
    "lost": "ticks",
    "duplicated": "ticks",
    "ticks_sent": "ticks",
    "worker_cpu_s": "s",
    "broker_cpu_s": "s",
    "redis_cpu_s": "s",
}


@dataclass(frozen=True)
class HandoverScenario:
    """Two workers share the partitions while ticks flow. One is killed (SIGKILL), comes back, and leaves (SIGTERM).

    Each time the other has to serve all partitions. Who dies is missed until its session ends; who leaves says so.
    """

    instruments: int
    ticks_per_s: int
    session_timeout_s: float
    seed: int

    name = "handover"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {
            "instruments": self.instruments, "ticks_per_s": self.ticks_per_s,
            "session_timeout_s": self.session_timeout_s, "seed": self.seed,
        }  # fmt: skip

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a service failed, nobody took over, or other rows are served than were sent.
        """
        run = site.run_settings(self.name)
        worker = replace(run.worker, session_timeout_s=self.session_timeout_s)
        stays = static_member(replace(run, worker=worker), "stays")
        other = replace(worker, data_dir=f"{worker.data_dir}-other", port=free_ports(1)[0])
        goes = static_member(replace(run, worker=other), "goes")
        await ensure_topics(run)
        try:
            source = SeededTicks(self.instruments, seed=self.seed)
            async with tick_log(run, source, frame_ticks=_FRAME_TICKS) as log:
                async with (
                    WorkerProcess(stays, site.folder / "stays.log") as staying,
                    WorkerProcess(goes, site.folder / "goes.log") as going,
                ):
                    metrics = await self._measure(site, staying, going, log)
                counted = await count_served(stays, log.expected())
                return {**metrics, **counted._asdict(), "ticks_sent": source.position}
        finally:
            await forget_run(run)

    async def _measure(
        self, site: BenchSite, staying: WorkerProcess, going: WorkerProcess, log: TickLog
    ) -> dict[str, float]:
        settings = staying.settings
        await log.send_opening()
        await _wait_shared(settings, going.settings)
        cpu, used_before = CpuMeter(site.pids()), cpu_s(staying.pid)
        async with flowing(log, self.ticks_per_s):
            await seconds_until_served(settings, time.monotonic())
            killed = time.monotonic()
            await going.kill()
            takeover_s = await seconds_until_served(settings, killed)
            await going.start()
            await _wait_shared(settings, going.settings)
            await seconds_until_served(settings, time.monotonic())
            told = time.monotonic()
            leaving = asyncio.create_task(going.stop())
            graceful_s = await seconds_until_served(settings, told)
            left_s = await leaving
        await wait_served(settings, log.sender.offsets, _SERVED_S)
        return {
            "takeover_s": takeover_s,
            "graceful_s": graceful_s,
            "left_s": left_s,
            "worker_cpu_s": cpu_s(staying.pid) - used_before,
            **{f"{name}_cpu_s": used_s for name, used_s in cpu.read().items()},
        }


async def _wait_shared(*workers: Settings) -> None:
    """Until each of them serves some partitions, and together they serve all.

    Raises:
        DeadlineExceeded: that did not happen within `DEADLINE_S`.
    """
    end = time.monotonic() + DEADLINE_S
    while True:
        reports = [await health(settings) for settings in workers]
        held = [report["partitions"] for report in reports if report.get("ready")]
        if len(held) == len(workers) and all(held) and sum(map(len, held)) == workers[0].kafka.partitions:
            return
        if time.monotonic() > end:
            raise DeadlineExceeded(f"{len(workers)} workers did not share the partitions within {DEADLINE_S:g} s")
        await asyncio.sleep(_POLL_S)


@click.command()
@click.option("--instruments", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@click.option("--ticks-per-s", type=click.IntRange(1, 1_000_000), default=20_000, show_default=True)
@click.option("--session-timeout-s", type=click.FloatRange(2, 60), default=WorkerSettings.session_timeout_s,
              show_default=True, help="worker.session_timeout_s of both.")  # fmt: skip
@bench_options
def command(instruments: int, ticks_per_s: int, session_timeout_s: float, **common: Any) -> None:
    """Seconds until another worker serves: after `kill -9`, and after SIGTERM.

    \b
    Examples:
      marketprism bench handover
      marketprism bench handover --session-timeout-s 3 --instruments 1000 --runs 5 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(HandoverScenario(instruments, ticks_per_s, session_timeout_s, seed), **common)
