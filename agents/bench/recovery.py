"""Scenario `recovery`: how long a worker that is killed is missed, and whether a tick was lost or counted twice."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from agents.bench.again import health, seconds_until_served
from agents.bench.counting import count_served
from agents.bench.flow import flowing
from agents.bench.process import CpuMeter, cpu_s
from agents.bench.producer import TickLog, tick_log
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from models.errors import MarketPrismError
from models.perf.ticks import SeededTicks
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings

_SERVED_S = 120.0
_FRAME_TICKS = 4096

# parts of a start, by what the worker notes in /health when one has ended
START_PARTS = {
    "import_s": "imported",
    "connect_s": "connected",
    "prepare_s": "prepared",
    "kernels_s": "compiled",
    "join_s": "assigned",
    "recover_s": "recovered",
    "take_over_s": "served",
}
UNITS = {
    "serve_again_s": "s",
    "ready_s": "s",
    **dict.fromkeys(START_PARTS, "s"),
    "lost": "ticks",
    "duplicated": "ticks",
    "ticks_sent": "ticks",
    "worker_cpu_s": "s",
    "broker_cpu_s": "s",
    "redis_cpu_s": "s",
}


@dataclass(frozen=True)
class RecoveryScenario:
    """A worker of `instruments` instruments with full state is killed (SIGKILL) while ticks flow, and started again.

    Ticks flow on at their pace over the kill and the start. The worker is a static member of its group, so its
    successor needs not wait for the end of its session.

    Args:
        disk: `kept`, or `lost`: RocksDB is deleted while the worker is dead.
        warm_up_s: how long ticks flow before the kill.
    """

    instruments: int
    ticks_per_s: int
    disk: str
    warm_up_s: float
    seed: int

    name = "recovery"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {
            "instruments": self.instruments, "ticks_per_s": self.ticks_per_s, "disk": self.disk,
            "warm_up_s": self.warm_up_s, "seed": self.seed,
        }  # fmt: skip

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a service failed, the worker did not come back, or it serves other rows than were sent.
        """
        settings = static_member(site.run_settings(self.name), "bench")
        await ensure_topics(settings)
        try:
            source = SeededTicks(self.instruments, seed=self.seed)
            async with tick_log(settings, source, frame_ticks=_FRAME_TICKS) as log:
                async with WorkerProcess(settings, site.folder / "worker.log") as worker:
                    metrics = await self._measure(site, worker, log)
                counted = await count_served(settings, log.expected())
                return {**metrics, **counted._asdict(), "ticks_sent": source.position}
        finally:
            await forget_run(settings)

    async def _measure(self, site: BenchSite, worker: WorkerProcess, log: TickLog) -> dict[str, float]:
        settings = worker.settings
        await log.send_opening()
        await wait_served(settings, log.sender.offsets, _SERVED_S)
        async with flowing(log, self.ticks_per_s):
            await asyncio.sleep(self.warm_up_s)
            cpu, killed = CpuMeter(site.pids()), time.monotonic()
            await worker.kill()
            if self.disk == "lost":
                shutil.rmtree(Path(settings.worker.data_dir))
            starting = asyncio.create_task(worker.start())
            serve_again_s = await seconds_until_served(settings, killed)
            await starting
            ready_s = time.monotonic() - killed
            used = {"worker": cpu_s(worker.pid), **cpu.read()}
            parts = start_parts(await health(settings))
        await wait_served(settings, log.sender.offsets, _SERVED_S)
        return {
            "serve_again_s": max(serve_again_s, ready_s),
            "ready_s": ready_s,
            **parts,
            **{f"{name}_cpu_s": used_s for name, used_s in used.items()},
        }


def start_parts(report: Mapping[str, Any]) -> dict[str, float]:
    """Seconds that each part of a worker's start took, by what it says in `/health`.

    Raises:
        MarketPrismError: it does not say.
    """
    passed: Mapping[str, float] = report.get("start_s", {})
    if lacking := [step for step in START_PARTS.values() if step not in passed]:
        raise MarketPrismError(f"the worker does not say when it had {', '.join(lacking)}")
    ends = [0.0, *(passed[step] for step in START_PARTS.values())]
    return {part: after - before for part, (before, after) in zip(START_PARTS, pairwise(ends), strict=True)}


def static_member(settings: Settings, name: str) -> Settings:
    return replace(settings, worker=replace(settings.worker, instance_id=name))


@click.command()
@click.option("--instruments", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@click.option("--ticks-per-s", type=click.IntRange(1, 1_000_000), default=50_000, show_default=True)
@click.option("--disk", type=click.Choice(["kept", "lost"]), default="kept", show_default=True,
              help="What becomes of the worker's RocksDB.")  # fmt: skip
@click.option("--warm-up-s", type=click.FloatRange(0, 3600), default=5.0, show_default=True,
              help="How long ticks flow before the kill.")  # fmt: skip
@bench_options
def command(instruments: int, ticks_per_s: int, disk: str, warm_up_s: float, **common: Any) -> None:
    """Seconds from `kill -9` of the worker until its successor serves what was published after it.

    \b
    Examples:
      marketprism bench recovery
      marketprism bench recovery --disk lost --instruments 1000 --runs 5 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(RecoveryScenario(instruments, ticks_per_s, disk, warm_up_s, seed), **common)
