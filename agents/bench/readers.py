"""Scenario `readers`: thousands of open sessions on one reader, its memory smaller than the market, ticks flowing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click

from agents.bench.child import ChildProcess
from agents.bench.counters import read_counters
from agents.bench.process import CpuMeter
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from agents.bench.worker import check_counters
from models.errors import MarketPrismError
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings

_START_S = 120.0
_SERVED_S = 120.0
_SPARE = 1.25  # ticks flow on while the last answers are given

UNITS = {
    "read_p50_ms": "ms",
    "read_p99_ms": "ms",
    "read_p999_ms": "ms",
    "read_max_ms": "ms",
    "unanswered": "1",
    "polls_per_s": "1/s",
    "looks_per_s": "1/s",
    "keys_per_s": "1/s",
    "memory_hit_ratio": "ratio",
    "evictions_per_s": "1/s",
    "memory_bytes": "bytes",
    "memory_entries": "1",
    "reader_cpu_ratio": "ratio",
    "reader_cpu_us_per_key": "us",
    "worker_cpu_ratio": "ratio",
    "redis_cpu_ratio": "ratio",
    "producer_lateness_p99_ms": "ms",
}


@dataclass(frozen=True)
class ReadersScenario:
    """Producer, broker, worker, Redis and the process of the sessions, all on this machine.

    A poll reads the quotes of a session's list, a look the quote and the trade of one instrument. A request is late by
    the time from its due time to its last key, so one that had to wait behind a stall is late, too.
    """

    sessions: int
    instruments: int
    cache_bytes: int
    rate: int
    seconds: float
    most_late_ms: float
    seed: int
    warm_up_s: float = 10.0  # every list was read twice then

    name = "readers"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {
            "sessions": self.sessions, "instruments": self.instruments, "cache_bytes": self.cache_bytes,
            "rate": self.rate, "seconds": self.seconds, "seed": self.seed,
        }  # fmt: skip

    @property
    def n_ticks(self) -> int:
        return max(2, int(self.rate * (self.seconds + self.warm_up_s) * _SPARE))

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a service failed, the producer was late, or a request was not answered with values.
        """
        settings = site.run_settings(self.name)
        settings = replace(settings, reader=replace(settings.reader, memory_bytes=self.cache_bytes))
        await ensure_topics(settings)
        paced = {"instruments": self.instruments, "seed": self.seed, "rate": self.rate, "ticks": self.n_ticks}
        polled = {
            "sessions": self.sessions, "instruments": self.instruments, "seconds": self.seconds,
            "warm_up_s": self.warm_up_s, "seed": self.seed,
        }  # fmt: skip
        log = site.folder / "processes.log"
        try:
            async with (
                WorkerProcess(settings, site.folder / "worker.log") as worker,
                ChildProcess("agents.bench.paced", settings, paced, log) as producer,
            ):
                await wait_served(settings, _offsets(await producer.hear(_START_S)), _SERVED_S)
                async with ChildProcess("agents.bench.poller", settings, polled, log) as poller:
                    return await self._measure(settings, producer, poller, {"worker": worker.pid, **site.pids()})
        finally:
            await forget_run(settings)

    async def _measure(
        self, settings: Settings, producer: ChildProcess, poller: ChildProcess, pids: Mapping[str, int]
    ) -> dict[str, float]:
        asked = await poller.hear(_START_S)
        before = await read_counters(settings)
        producer.tell(go=True)
        await producer.hear(_START_S)
        poller.tell(go=True)
        await poller.hear(_START_S)
        cpu = CpuMeter(pids)
        told = await poller.hear(self.seconds + _START_S)
        used = cpu.read()
        sent = await producer.hear(_SERVED_S)
        if sent["late_ms"][1] > self.most_late_ms:
            raise MarketPrismError(
                f"the producer was late by {sent['late_ms'][1]:.1f} ms (p99): the machine is too busy to measure on; "
                "try again when it is idle, or allow it with --most-late-ms"
            )
        await wait_served(settings, _offsets(sent), _SERVED_S)
        check_counters((await read_counters(settings)).since(before), self.n_ticks)
        if told["empty"] or told["failed"]:
            raise MarketPrismError(f"{told['empty']} keys were missing and {told['failed']} requests failed")
        seconds, names = told["seconds"], ("p50", "p99", "p999", "max")
        return {
            **{f"read_{name}_ms": ms for name, ms in zip(names, told["late_ms"], strict=True)},
            "unanswered": told["due"] - told["answered"],
            "polls_per_s": asked["polls"] / seconds,
            "looks_per_s": asked["looks"] / seconds,
            "keys_per_s": told["keys"] / seconds,
            "memory_hit_ratio": told["hits"] / told["requests"],
            "evictions_per_s": told["evicted"] / seconds,
            "memory_bytes": told["bytes"],
            "memory_entries": told["held"],
            "reader_cpu_ratio": told["cpu_s"] / seconds,
            "reader_cpu_us_per_key": told["cpu_s"] / told["keys"] * 1e6,
            **{f"{name}_cpu_ratio": used[name] / seconds for name in ("worker", "redis") if name in used},
            "producer_lateness_p99_ms": sent["late_ms"][1],
        }


def _offsets(told: Mapping[str, Any]) -> dict[int, int]:
    return {int(number): offset for number, offset in told["offsets"].items()}


@click.command()
@click.option("--sessions", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="Open ones.")
@click.option("--instruments", type=click.IntRange(60, 100_000), default=2_000, show_default=True)
@click.option(
    "--cache-bytes", type=click.IntRange(min=1 << 16), default=5 << 20, show_default=True,
    help="Of the reader's memory: less than the market needs, so that Redis is read, too.",
)  # fmt: skip
@click.option("--rate", type=click.IntRange(1, 10_000_000), default=20_000, show_default=True, help="Ticks a second.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=20.0, show_default=True, help="Of requests.")
@click.option(
    "--most-late-ms", type=click.FloatRange(min=0), default=20.0, show_default=True,
    help="A run whose producer was later (p99) is refused: the machine had no time to pace.",
)  # fmt: skip
@bench_options
def command(
    sessions: int, instruments: int, cache_bytes: int, rate: int, seconds: float, most_late_ms: float, **common: Any
) -> None:
    """Open sessions that poll their lists each 1 to 5 s, from their due time until the last key is there.

    \b
    Examples:
      marketprism bench readers
      marketprism bench readers --sessions 10000 --cache-bytes 67108864 --runs 5 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(ReadersScenario(sessions, instruments, cache_bytes, rate, seconds, most_late_ms, seed), **common)
