"""Scenario `soak`: a worker at full speed for long; its memory has to stay flat and its event loop free."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import click
import psutil

from agents.bench.counters import parse_counters, parse_histogram, read_metrics
from agents.bench.process import CpuMeter
from agents.bench.producer import TickLog, tick_log
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from agents.bench.worker import SERVED_S, check_counters, check_served, wait_visible
from models.errors import MarketPrismError
from models.perf.ticks import LoopedTicks, SeededTicks
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import TOPICS, Topic

_FRAME_TICKS = 4096
_BATCH_TICKS = 1 << 17
_BATCHES = 16
_AHEAD = 32  # batches that the log is ahead of the worker: more than one fetch brings, so it always finds some
_SAMPLE_S = 1.0
_WARM_UP = 0.2  # of the time
_WINDOW = 0.25  # of what follows the warm-up: its first and its last quarter are compared
_LOOP_LAG = "marketprism_worker_loop_lag_seconds"
# Of each partition of every topic that forgets: far more than the worker is behind, and nothing for a disk.
_KEPT_BYTES, _SEGMENT_BYTES, _DELETE_MS = 512 << 20, 64 << 20, 1_000

UNITS = {
    "rss_growth_ratio": "ratio",
    "rss_median_bytes": "bytes",
    "rss_max_bytes": "bytes",
    "loop_lag_p999_ms": "ms",
    "loop_lag_max_ms": "ms",
    "ticks_per_s": "ticks/s",
    "ticks_per_cpu_s": "ticks/s",
    "worker_cpu_ratio": "ratio",
    "worker_cpu_s": "s",
    "broker_cpu_s": "s",
    "redis_cpu_s": "s",
    "producer_cpu_s": "s",
    "log_max_bytes": "bytes",
}


@dataclass
class Samples:
    """What was seen of a worker, once a second.

    Attributes:
        rss_bytes: resident memory.
        log_bytes: of the broker's whole log; empty if it is not to be seen.
    """

    rss_bytes: list[int] = field(default_factory=list)
    log_bytes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class SoakScenario:
    """A worker finds its log full for `minutes`: the producer stays ahead of it by about four million ticks.

    The log is bounded by bytes, so that the disk does not fill. Memory is compared by medians over the first and the
    last quarter of what follows a warm-up of a fifth of the time.
    """

    minutes: float
    instruments: int
    seed: int

    name = "soak"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {"minutes": self.minutes, "instruments": self.instruments, "seed": self.seed}

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a service failed, or what the worker serves is not what was sent.
        """
        settings = site.run_settings(self.name)
        await ensure_topics(settings, [_bounded(topic) for topic in TOPICS])
        try:
            async with tick_log(
                settings, SeededTicks(self.instruments, seed=self.seed), frame_ticks=_FRAME_TICKS
            ) as log:
                async with WorkerProcess(settings, site.folder / "worker.log") as worker:
                    metrics = await self._measure(site, settings, worker.pid, log)
                await check_served(settings, log.expected())
                return metrics
        finally:
            await forget_run(settings)

    async def _measure(self, site: BenchSite, settings: Settings, pid: int, log: TickLog) -> dict[str, float]:
        batches = [log.source.opening(), *log.source.batches(_BATCHES * _BATCH_TICKS, _BATCH_TICKS)]
        ticks = LoopedTicks(batches)
        before, cpu = await read_metrics(settings), CpuMeter({"worker": pid, **site.pids()})
        began, ahead, sent = time.monotonic(), deque[dict[int, int]](), 0
        async with _sampled(site, pid) as samples:
            while time.monotonic() - began < self.minutes * 60:
                batch = ticks.next()
                await log.send_rows(batch)
                sent += len(batch)
                ahead.append(dict(log.sender.offsets))
                if len(ahead) > _AHEAD:
                    await wait_visible(settings, ahead.popleft())
            await wait_visible(settings, log.sender.offsets)
            seconds, used = time.monotonic() - began, cpu.read()
        await wait_served(settings, log.sender.offsets, SERVED_S)
        after = await read_metrics(settings)
        check_counters(parse_counters(after).since(parse_counters(before)), sent)
        metrics = {
            "rss_growth_ratio": growth(samples.rss_bytes),
            "rss_median_bytes": median(samples.rss_bytes),
            "rss_max_bytes": max(samples.rss_bytes),
            "ticks_per_s": sent / seconds,
            "ticks_per_cpu_s": sent / used["worker"],
            "worker_cpu_ratio": used["worker"] / seconds,
            **{f"{name}_cpu_s": used_s for name, used_s in used.items()},
            "producer_cpu_s": log.cpu_s,
        }
        if samples.log_bytes:
            metrics["log_max_bytes"] = max(samples.log_bytes)
        lag = parse_histogram(after, _LOOP_LAG)
        if lag.counts:
            lag = lag.since(parse_histogram(before, _LOOP_LAG))
            metrics |= {"loop_lag_p999_ms": lag.quantile(0.999) * 1e3, "loop_lag_max_ms": lag.quantile(1) * 1e3}
        return metrics


def growth(rss_bytes: Sequence[int]) -> float:
    """By how much memory grew after the warm-up, as a share: medians of the first and the last quarter compared.

    Raises:
        MarketPrismError: there are too few samples to tell.
    """
    warm = rss_bytes[int(len(rss_bytes) * _WARM_UP) :]
    n = int(len(warm) * _WINDOW)
    if n < 2:
        raise MarketPrismError(f"{len(rss_bytes)} samples of memory tell no growth: let the soak last longer")
    first, last = median(warm[:n]), median(warm[-n:])
    return (last - first) / first


@contextlib.asynccontextmanager
async def _sampled(site: BenchSite, pid: int) -> AsyncIterator[Samples]:
    """Samples of the worker, taken for the length of the block."""
    samples, process = Samples(), psutil.Process(pid)

    async def sample() -> None:
        while True:
            samples.rss_bytes.append(process.memory_info().rss)
            if (n_bytes := site.log_bytes("*")) is not None:
                samples.log_bytes.append(n_bytes)
            await asyncio.sleep(_SAMPLE_S)

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _bounded(topic: Topic) -> Topic:
    if topic.config["cleanup.policy"] != "delete":
        return topic
    bounds = {"retention.bytes": _KEPT_BYTES, "segment.bytes": _SEGMENT_BYTES, "file.delete.delay.ms": _DELETE_MS}
    return replace(topic, config={**topic.config, **{name: str(value) for name, value in bounds.items()}})


@click.command(context_settings={"default_map": {"runs": 1}})
@click.option("--minutes", type=click.FloatRange(0.05, 24 * 60), default=20.0, show_default=True)
@click.option("--instruments", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@bench_options
def command(minutes: float, instruments: int, **common: Any) -> None:
    """Memory and event loop of a worker at full speed for long.

    \b
    Examples:
      marketprism bench soak
      marketprism bench soak --minutes 2 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(SoakScenario(minutes, instruments, seed), **common)
