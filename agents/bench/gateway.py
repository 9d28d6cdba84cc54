"""Scenario `gateway`: what a JSON tick costs the worker that finds a log full of them before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import psutil

from agents.bench.counters import WorkerCounters, read_counters
from agents.bench.json_log import JsonLog, json_log
from agents.bench.process import CpuMeter, held
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from agents.bench.worker import LONGEST_HOLD_S, SERVED_S, check_counters, check_served, patient, wait_visible
from models.errors import DeadlineExceeded, MarketPrismError
from models.perf.ticks import SeededTicks
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.kafka.offsets import committed, last_offsets
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import FRAMES, JSON_TICKS

_POLL_S = 0.02

UNITS = {
    "cpu_us_per_record": "us",
    "gateway_cpu_us_per_record": "us",
    "records_per_cpu_s": "records/s",
    "records_per_s": "records/s",
    "ticks_per_record": "ticks",
    "worker_cpu_s": "s",
    "broker_cpu_s": "s",
    "redis_cpu_s": "s",
    "producer_cpu_s": "s",
    "json_bytes_per_record": "bytes",
    "wire_bytes_per_record": "bytes",
    "frame_wire_bytes_per_record": "bytes",
    "worker_rss_bytes": "bytes",
}


@dataclass(frozen=True)
class GatewayScenario:
    """A worker of its own finds `ticks` ticks as JSON trades and quotes in `md.json.v1`, one a record.

    It counts everything that the worker does until the last of them is durable: fetching and parsing JSON, packing and
    sending frames, and then fetching and applying these frames, with Redis, invalidations, changelog and RocksDB. What
    the gateway alone computes is told apart by the worker's own clock of its thread.
    """

    instruments: int
    ticks: int
    batch_records: int
    seed: int

    name = "gateway"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {
            "instruments": self.instruments, "ticks": self.ticks, "batch_records": self.batch_records,
            "seed": self.seed,
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
            async with json_log(settings, source, batch_records=self.batch_records) as log:
                async with WorkerProcess(settings, site.folder / "worker.log") as worker:
                    metrics = await self._measure(site, settings, worker.pid, log)
                await check_served(settings, log.expected())
                return metrics
        finally:
            await forget_run(settings)

    async def _measure(self, site: BenchSite, settings: Settings, pid: int, log: JsonLog) -> dict[str, float]:
        await log.send_opening()
        await wait_packed(settings, log.offsets)
        await wait_served(settings, await last_offsets(settings), SERVED_S)
        before, log.cpu_s = await read_counters(settings), 0.0
        records, n_bytes = log.records, log.n_bytes
        topics = [settings.topics.prefix + topic for topic in (JSON_TICKS, FRAMES)]
        old = [site.log_bytes(topic) for topic in topics]
        with held(pid):
            began = time.monotonic()
            await log.send(self.ticks)
            if time.monotonic() - began > LONGEST_HOLD_S:
                raise MarketPrismError(f"filling the log took more than {LONGEST_HOLD_S:g} s: measure fewer ticks")
            cpu = CpuMeter({"worker": pid, **site.pids()})
        began = time.perf_counter()
        await wait_packed(settings, log.offsets)
        frames = await last_offsets(settings)
        await wait_visible(settings, frames)
        seconds = time.perf_counter() - began
        await wait_served(settings, frames, SERVED_S)
        done = (await read_counters(settings)).since(before)
        used = cpu.read()
        sent = log.records - records
        check_gateway(done, ticks=self.ticks, records=sent)
        metrics = {
            "cpu_us_per_record": used["worker"] / sent * 1e6,
            "gateway_cpu_us_per_record": done.gateway_cpu_s / sent * 1e6,
            "records_per_cpu_s": sent / used["worker"],
            "records_per_s": sent / seconds,
            "ticks_per_record": self.ticks / sent,
            **{f"{name}_cpu_s": used_s for name, used_s in used.items()},
            "producer_cpu_s": log.cpu_s,
            "json_bytes_per_record": (log.n_bytes - n_bytes) / sent,
            "worker_rss_bytes": psutil.Process(pid).memory_info().rss,
        }
        names = ("wire_bytes_per_record", "frame_wire_bytes_per_record")
        for name, topic, before_bytes in zip(names, topics, old, strict=True):
            after_bytes = site.log_bytes(topic)
            if before_bytes is not None and after_bytes is not None:
                metrics[name] = (after_bytes - before_bytes) / sent
        return metrics


def check_gateway(done: WorkerCounters, *, ticks: int, records: int) -> None:
    """Raises: MarketPrismError when what the worker did is not the work that was meant."""
    check_counters(done, ticks)
    if done.json_records != records:
        raise MarketPrismError(f"the gateway packed {done.json_records} records, {records} were sent")
    if done.dead:
        raise MarketPrismError(f"the gateway refused {done.dead} records, all of which are right")


async def wait_packed(settings: Settings, offsets: Mapping[int, int]) -> None:
    """Until the gateway has committed every JSON record up to these offsets: their frames are in the log.

    Raises:
        DeadlineExceeded: it makes no way.
    """
    end = time.monotonic() + SERVED_S
    while True:
        at = await committed(settings, JSON_TICKS)
        if all(at[number] >= offset for number, offset in offsets.items()):
            return
        if time.monotonic() > end:
            raise DeadlineExceeded(f"the gateway did not take all records within {SERVED_S:g} s")
        await asyncio.sleep(_POLL_S)


@click.command()
@click.option("--instruments", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@click.option("--ticks", type=click.IntRange(min=1), default=1_000_000, show_default=True, help="Rows; 3 in 2 records.")
@click.option(
    "--batch-records", type=click.IntRange(1, 2000), default=200, show_default=True,
    help="Records of one Kafka batch of the producer.",
)  # fmt: skip
@bench_options
def command(instruments: int, ticks: int, batch_records: int, **common: Any) -> None:
    """CPU of the worker per JSON record: JSON in, frames out, and those frames applied.

    \b
    Examples:
      marketprism bench gateway
      marketprism bench gateway --instruments 250 --ticks 300000 --runs 5 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(GatewayScenario(instruments, ticks, batch_records, seed), **common)
