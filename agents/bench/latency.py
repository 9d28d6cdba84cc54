"""Scenario `latency`: how long a paced tick takes from its due time into another process's memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from agents.bench.child import ChildProcess
from agents.bench.counters import parse_counters, parse_histogram, read_metrics
from agents.bench.follower import FACETS
from agents.bench.process import CpuMeter
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from agents.bench.worker import check_counters, check_served
from models.cache.rows import Row, Value, as_people_see
from models.errors import MarketPrismError
from models.market.digest import InstrumentFinal
from models.market.facets import QUOTE, TRADE
from models.market.fold import OfflineFold
from models.market.instruments import partition_of
from models.perf.latency import NS_A_SECOND, as_live, due_times, visible_latencies
from models.perf.ticks import SeededTicks
from streams.clock import now_ns
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.lag import NAME as LAG
from streams.services.worker import WorkerProcess
from streams.settings import Settings

_SERVED_S = 120.0
_START_S = 120.0
_WARM_UP_S = 3.0
_BYTES_A_KEY = 2_048

UNITS = {
    "publish_visible_p50_ms": "ms",
    "publish_visible_p99_ms": "ms",
    "publish_visible_p999_ms": "ms",
    "publish_visible_max_ms": "ms",
    "worker_cpu_ratio": "ratio",
    "worker_cpu_s": "s",
    "broker_cpu_s": "s",
    "redis_cpu_s": "s",
    "producer_cpu_s": "s",
    "reader_cpu_s": "s",
    "rounds_per_s": "1/s",
    "loop_lag_p999_ms": "ms",
    "loop_lag_max_ms": "ms",
    "producer_lateness_p99_ms": "ms",
}


@dataclass(frozen=True)
class LatencyScenario:
    """Producer, broker, worker, Redis and reader as processes of their own, all on this machine.

    A tick is visible when the reader's memory is as the record says that announces it. Before ticks and CPU count,
    every instrument has had an event of each kind, the reader holds all of them, and `_WARM_UP_S` of paced ticks went
    by: a broker that has just started is still being compiled.
    """

    rate: int
    instruments: int
    seconds: float
    frame_ms: float
    most_late_ms: float
    seed: int

    name = "latency"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {
            "rate": self.rate, "instruments": self.instruments, "seconds": self.seconds, "frame_ms": self.frame_ms,
            "seed": self.seed,
        }  # fmt: skip

    @property
    def n_ticks(self) -> int:
        return max(2, int(self.rate * (self.seconds + _WARM_UP_S)))

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a service failed, the producer was late, or worker or reader are not as the ticks end.
        """
        settings = self._settings(site)
        await ensure_topics(settings)
        spec = {"instruments": self.instruments}
        paced = spec | {"seed": self.seed, "rate": self.rate, "ticks": self.n_ticks}
        log = site.folder / "processes.log"
        try:
            async with (
                WorkerProcess(settings, site.folder / "worker.log") as worker,
                ChildProcess("agents.bench.paced", settings, paced, log) as producer,
            ):
                await wait_served(settings, _offsets(await producer.hear(_START_S)), _SERVED_S)
                async with ChildProcess("agents.bench.follower", settings, spec, log) as reader:
                    pids = {"worker": worker.pid, "producer": producer.pid, "reader": reader.pid, **site.pids()}
                    metrics, told, start_ns = await self._measure(settings, producer, reader, pids)
            ids, finals = self._truth(start_ns)
            await check_served(settings, finals)
            check_memory(told, finals)
            return metrics | self._latencies(settings, ids, start_ns, told["seen"])
        finally:
            await forget_run(settings)

    def _settings(self, site: BenchSite) -> Settings:
        settings = site.run_settings(self.name)
        memory = max(settings.reader.memory_bytes, self.instruments * len(FACETS) * _BYTES_A_KEY)
        return replace(
            settings,
            publisher=replace(settings.publisher, frame_ms=self.frame_ms),
            reader=replace(settings.reader, memory_bytes=memory),
        )

    async def _measure(
        self, settings: Settings, producer: ChildProcess, reader: ChildProcess, pids: Mapping[str, int]
    ) -> tuple[dict[str, float], dict[str, Any], int]:
        held = (await reader.hear(_START_S))["held"]
        if held != self.instruments * len(FACETS):
            raise MarketPrismError(f"the reader holds {held} keys of {self.instruments * len(FACETS)}")
        before = parse_counters(await read_metrics(settings))
        producer.tell(go=True)
        start_ns = (await producer.hear(_START_S))["start_ns"]
        await asyncio.sleep(max(0.0, _WARM_UP_S - (now_ns() - start_ns) / 1e9))
        warm, cpu, began = await read_metrics(settings), CpuMeter(pids), time.perf_counter()
        sent = await producer.hear(self.seconds + _WARM_UP_S + _SERVED_S)
        used, seconds = cpu.read(), time.perf_counter() - began
        if sent["late_ms"][1] > self.most_late_ms:
            raise MarketPrismError(
                f"the producer was late by {sent['late_ms'][1]:.1f} ms (p99): the machine is too busy to measure on; "
                "try again when it is idle, or allow it with --most-late-ms"
            )
        await wait_served(settings, _offsets(sent), _SERVED_S)
        after = await read_metrics(settings)
        done = parse_counters(after)
        lag = parse_histogram(after, LAG).since(parse_histogram(warm, LAG))
        reader.tell(offsets=sent["offsets"])
        told = await reader.hear(_SERVED_S)
        check_counters(done.since(before), self.n_ticks)
        metrics = {
            "worker_cpu_ratio": used["worker"] / seconds,
            **{f"{name}_cpu_s": used_s for name, used_s in used.items()},
            "rounds_per_s": done.since(parse_counters(warm)).rounds / seconds,
            "loop_lag_p999_ms": lag.quantile(0.999) * 1e3,
            "loop_lag_max_ms": lag.quantile(1) * 1e3,
            "producer_lateness_p99_ms": sent["late_ms"][1],
        }
        return metrics, told, start_ns

    def _truth(self, start_ns: int) -> tuple[NDArray[np.int32], list[InstrumentFinal]]:
        """The instrument of every paced tick, and how all instruments end."""
        source = SeededTicks(self.instruments, seed=self.seed)
        fold = OfflineFold([instrument.text for instrument in source.instruments])
        fold.update(source.opening())
        due_ns, ids = due_times(start_ns, self.rate, self.n_ticks), []
        for ticks in source.batches(self.n_ticks):
            fold.update(as_live(ticks, due_ns[: len(ticks)]))
            ids.append(ticks["instrument_id"].copy())
            due_ns = due_ns[len(ticks) :]
        return np.concatenate(ids), fold.finals()

    def _latencies(
        self, settings: Settings, ids: NDArray[np.int32], start_ns: int, seen: list[list[tuple[int, int]]]
    ) -> dict[str, float]:
        texts = [instrument.text for instrument in SeededTicks(self.instruments).instruments]
        partitions = np.array([partition_of(text, settings.kafka.partitions) for text in texts], np.int64)
        due_ns = due_times(start_ns, self.rate, len(ids))
        late_ns = visible_latencies(due_ns, partitions[ids], seen, from_ns=start_ns + int(_WARM_UP_S * NS_A_SECOND))
        late_ms = np.percentile(late_ns, [50, 99, 99.9, 100]) / 1e6
        return {
            f"publish_visible_{name}_ms": ms for name, ms in zip(("p50", "p99", "p999", "max"), late_ms, strict=True)
        }


def _offsets(told: Mapping[str, Any]) -> dict[int, int]:
    return {int(number): offset for number, offset in told["offsets"].items()}


def check_memory(told: Mapping[str, Any], finals: list[InstrumentFinal]) -> None:
    """The reader's memory holds what was sent. Raises: MarketPrismError."""
    if told["from_memory"] != len(finals) * len(FACETS):
        raise MarketPrismError(f"only {told['from_memory']} of {len(finals) * len(FACETS)} keys were in memory")
    wrong = [
        key
        for final in finals
        for key, value in as_read(final).items()
        if {name: told["values"].get(key, {}).get(name) for name in value} != value
    ]
    if wrong:
        raise MarketPrismError(f"{len(wrong)} keys in the reader's memory are not as the ticks end, as {wrong[0]}")


def as_read(final: InstrumentFinal) -> dict[str, Value]:
    """Trade and quote as a reader gives them; the fold does not keep a quote's event time."""
    assert final.trade is not None
    assert final.quote is not None
    *trade, trade_ns = final.trade
    seen = {
        "trade": as_people_see(Row(0, trade_ns, 0, (*trade, 0, 0), -9, -9, TRADE)),
        "quote": as_people_see(Row(0, 0, 0, (*final.quote, 0), -9, -9, QUOTE)),
    }
    del seen["quote"]["ts_ns"]
    return {f"md:{final.text}:{facet}": value for facet, value in seen.items()}


@click.command()
@click.option("--rate", type=click.IntRange(1, 10_000_000), default=50_000, show_default=True, help="Ticks a second.")
@click.option("--instruments", type=click.IntRange(1, 100_000), default=250, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=20.0, show_default=True, help="Of paced ticks.")
@click.option(
    "--frame-ms", type=click.FloatRange(min=0.1, max=1000), default=7.0, show_default=True,
    help="How long the publisher gathers a frame.",
)  # fmt: skip
@click.option(
    "--most-late-ms", type=click.FloatRange(min=0), default=20.0, show_default=True,
    help="A run whose producer was later (p99) is refused: the machine had no time to pace.",
)  # fmt: skip
@bench_options
def command(rate: int, instruments: int, seconds: float, frame_ms: float, most_late_ms: float, **common: Any) -> None:
    """From a tick's due time until another process has it in memory, at a paced rate; CPU of every process.

    \b
    Examples:
      marketprism bench latency
      marketprism bench latency --rate 200000 --instruments 10000 --seconds 20 --runs 3 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(LatencyScenario(rate, instruments, seconds, frame_ms, most_late_ms, seed), **common)
