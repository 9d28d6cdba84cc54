"""Scenario `worker`: what a tick costs the worker that finds a full log before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

import click
import psutil

from agents.bench.counters import WorkerCounters, read_counters
from agents.bench.process import CpuMeter, held
from agents.bench.producer import TickLog, tick_log
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from models.cache.keys import Space, mark_key
from models.cache.mark import unpack_mark
from models.cache.version import offset_of
from models.errors import DeadlineExceeded, MarketPrismError
from models.market.digest import InstrumentFinal, digest
from models.perf.ticks import SeededTicks
from streams.cache.connect import connect_redis, redis_errors
from streams.days.served import redis_differences, served_digest, wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import FRAMES

_PATIENCE_S = 300.0  # while the worker is held its clocks run on; none of its waits may end by that
_SESSION_S = 80.0  # likewise; Faust wants it below its request timeout
LONGEST_HOLD_S = 60.0
SERVED_S = 600.0
_POLL_S = 0.005

UNITS = {
    "ticks_per_cpu_s": "ticks/s",
    "cpu_us_per_tick": "us",
    "ticks_per_s": "ticks/s",
    "worker_cpu_s": "s",
    "broker_cpu_s": "s",
    "redis_cpu_s": "s",
    "producer_cpu_s": "s",
    "frame_bytes_per_tick": "bytes",
    "wire_bytes_per_tick": "bytes",
    "changelog_bytes_per_tick": "bytes",
    "ticks_per_round": "ticks",
    "worker_rss_bytes": "bytes",
}


@dataclass(frozen=True)
class WorkerScenario:
    """A worker of its own takes `ticks` ticks of `instruments` instruments out of a full log.

    It counts from the first tick applied to the last one durable: decoding, state, Redis, invalidations, changelog,
    RocksDB and commits. Before that, and not counted, it applied one event of each kind of every instrument, so start,
    compiled kernels and new instruments are behind it; then it was held while the log filled.
    """

    instruments: int
    ticks: int
    frame_ticks: int
    seed: int

    name = "worker"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {
            "instruments": self.instruments, "ticks": self.ticks, "frame_ticks": self.frame_ticks, "seed": self.seed
        }  # fmt: skip

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a service failed, or what the worker serves is not what was sent.
        """
        settings = patient(site.run_settings(self.name))
        await ensure_topics(settings)
        try:
            source = SeededTicks(self.instruments, seed=self.seed)
            async with tick_log(settings, source, frame_ticks=self.frame_ticks) as log:
                async with WorkerProcess(settings, site.folder / "worker.log") as worker:
                    metrics = await self._measure(site, settings, worker.pid, log)
                await check_served(settings, log.expected())
                return metrics
        finally:
            await forget_run(settings)

    async def _measure(self, site: BenchSite, settings: Settings, pid: int, log: TickLog) -> dict[str, float]:
        await log.send_opening()
        await wait_served(settings, log.sender.offsets, SERVED_S)
        before, stats, log.cpu_s = await read_counters(settings), replace(log.sender.stats), 0.0
        topic = settings.topics.prefix + FRAMES
        old_bytes = site.log_bytes(topic)
        with held(pid):
            began = time.monotonic()
            await log.send(self.ticks)
            if time.monotonic() - began > LONGEST_HOLD_S:
                raise MarketPrismError(f"filling the log took more than {LONGEST_HOLD_S:g} s: measure fewer ticks")
            new_bytes = site.log_bytes(topic)
            cpu = CpuMeter({"worker": pid, **site.pids()})
        began = time.perf_counter()
        await wait_visible(settings, log.sender.offsets)
        seconds = time.perf_counter() - began
        await wait_served(settings, log.sender.offsets, SERVED_S)
        done = (await read_counters(settings)).since(before)
        used = cpu.read()
        check_counters(done, self.ticks)
        ticks = self.ticks
        metrics = {
            "ticks_per_cpu_s": ticks / used["worker"],
            "cpu_us_per_tick": used["worker"] / ticks * 1e6,
            "ticks_per_s": ticks / seconds,
            **{f"{name}_cpu_s": used_s for name, used_s in used.items()},
            "producer_cpu_s": log.cpu_s,
            "frame_bytes_per_tick": (log.sender.stats.n_bytes - stats.n_bytes) / ticks,
            "changelog_bytes_per_tick": done.changelog_bytes / ticks,
            "ticks_per_round": ticks / done.rounds,
            "worker_rss_bytes": psutil.Process(pid).memory_info().rss,
        }
        if old_bytes is not None and new_bytes is not None:
            metrics["wire_bytes_per_tick"] = (new_bytes - old_bytes) / ticks
        return metrics


def check_counters(done: WorkerCounters, ticks: int) -> None:
    """Raises: MarketPrismError when what the worker did is not the work that was meant."""
    if done.ticks != ticks:
        raise MarketPrismError(f"the worker counted {done.ticks} ticks, {ticks} were sent")
    if done.gaps:
        raise MarketPrismError(f"the worker missed frames: {done.gaps} gaps")
    if done.rewrites:
        raise MarketPrismError(f"the worker lost Redis and rewrote {done.rewrites} partitions: measure again")


async def check_served(settings: Settings, expected: list[InstrumentFinal]) -> None:
    """RocksDB and Redis hold what was sent: a fast worker that is wrong does not count.

    Raises:
        MarketPrismError: they do not.
    """
    wanted, found = digest(expected), await asyncio.to_thread(served_digest, settings)
    if found != wanted:
        raise MarketPrismError(f"the worker's RocksDB holds {found}, the ticks that were sent end in {wanted}")
    if wrong := await redis_differences(settings, expected, ended=False):
        raise MarketPrismError(f"{len(wrong)} keys in Redis are not as the ticks that were sent end, as {wrong[0]}")


def patient(settings: Settings) -> Settings:
    """Settings under which a worker that is held notices nothing."""
    return replace(
        settings,
        kafka=replace(settings.kafka, request_timeout_s=_PATIENCE_S),
        redis=replace(settings.redis, timeout_s=_PATIENCE_S),
        worker=replace(settings.worker, session_timeout_s=_SESSION_S),
        publisher=replace(settings.publisher, delivery_timeout_s=_PATIENCE_S),
    )


async def wait_visible(settings: Settings, offsets: Mapping[int, int]) -> None:
    """Until Redis has everything up to these offsets.

    Raises:
        DeadlineExceeded: the worker makes no way.
    """
    numbers = sorted(offsets)
    keys = [mark_key(settings.topics.prefix, Space.MARKET, number) for number in numbers]
    end = time.monotonic() + SERVED_S
    async with aclosing(connect_redis(settings.redis)) as redis:
        with redis_errors(settings.redis.url):
            while True:
                versions = [unpack_mark(data).version for data in cast(list[bytes | None], await redis.mget(keys))]
                if all(
                    version >= 0 and offset_of(version) >= offsets[number]
                    for version, number in zip(versions, numbers, strict=True)
                ):
                    return
                if time.monotonic() > end:
                    raise DeadlineExceeded(f"the worker did not take all ticks within {SERVED_S:g} s")
                await asyncio.sleep(_POLL_S)


@click.command()
@click.option("--instruments", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@click.option("--ticks", type=click.IntRange(min=1), default=5_000_000, show_default=True)
@click.option("--frame-ticks", type=click.IntRange(2, 4096), default=4096, show_default=True, help="Most of a frame.")
@bench_options
def command(instruments: int, ticks: int, frame_ticks: int, **common: Any) -> None:
    """CPU of the worker per tick: frames in, RocksDB, Redis and invalidations out.

    \b
    Examples:
      marketprism bench worker
      marketprism bench worker --instruments 250 --ticks 1000000 --frame-ticks 256 --runs 5 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(WorkerScenario(instruments, ticks, frame_ticks, seed), **common)
