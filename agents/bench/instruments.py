"""Scenario `instruments`: what more instruments cost, in CPU a tick, in changelog, on disk and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from agents.bench.counters import read_counters
from agents.bench.flow import flowing
from agents.bench.process import disk_bytes
from agents.bench.producer import tick_log
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from agents.bench.worker import SERVED_S, UNITS, WorkerScenario, check_served
from models.perf.ticks import SeededTicks
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess

_FRAME_TICKS = 4096
_OF_EACH = (
    "cpu_us_per_tick", "changelog_bytes_per_tick", "ticks_per_round", "worker_cpu_s", "broker_cpu_s", "redis_cpu_s",
    "producer_cpu_s", "worker_rss_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class InstrumentsScenario:
    """Scenario `worker` once for each of `sizes`, then a paced market of the middle one to see what reaches the disk.

    Args:
        sizes: numbers of instruments, rising.
        ticks: of each.
        paced_s: how long the paced market lasts, `ticks_per_s` is its pace.
    """

    sizes: tuple[int, ...]
    ticks: int
    paced_s: float
    ticks_per_s: int
    seed: int

    name = "instruments"

    @property
    def units(self) -> Mapping[str, str]:
        each = {f"{name}_{n}": UNITS[name] for name in _OF_EACH for n in self.sizes}
        return {
            **each,
            self._ratio: "ratio",
            "worker_bytes_per_instrument": "bytes",
            "paced_changelog_bytes_per_tick": "bytes",
            "rocksdb_write_amplification": "ratio",
        }

    @property
    def parameters(self) -> dict[str, int | float | str]:
        return {
            "sizes": ",".join(map(str, self.sizes)), "ticks": self.ticks, "paced_s": self.paced_s,
            "ticks_per_s": self.ticks_per_s, "seed": self.seed,
        }  # fmt: skip

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a service failed, or what the worker serves is not what was sent.
        """
        metrics: dict[str, float] = {}
        for n in self.sizes:
            of_size = await WorkerScenario(n, self.ticks, _FRAME_TICKS, self.seed).run(site)
            metrics |= {f"{name}_{n}": of_size[name] for name in _OF_EACH if name in of_size}
        few, many = self.sizes[0], self.sizes[-1]
        metrics[self._ratio] = metrics[f"cpu_us_per_tick_{many}"] / metrics[f"cpu_us_per_tick_{few}"]
        more_bytes = metrics[f"worker_rss_bytes_{many}"] - metrics[f"worker_rss_bytes_{few}"]
        metrics["worker_bytes_per_instrument"] = more_bytes / (many - few)
        return metrics | await self._on_disk(site)

    @property
    def _ratio(self) -> str:
        return f"ratio_{self.sizes[-1]}_{self.sizes[0]}"

    async def _on_disk(self, site: BenchSite) -> dict[str, float]:
        """Of a market that lasts: changelog a tick, and bytes written to disk for a byte of pages.

        The pages that go to the changelog are those that RocksDB is given; all else that the worker writes is a few
        lines of log.
        """
        settings = site.run_settings(self.name)
        await ensure_topics(settings)
        try:
            source = SeededTicks(self.sizes[len(self.sizes) // 2], seed=self.seed)
            async with tick_log(settings, source, frame_ticks=_FRAME_TICKS) as log:
                async with WorkerProcess(settings, site.folder / "worker.log") as worker:
                    await log.send_opening()
                    await wait_served(settings, log.sender.offsets, SERVED_S)
                    before, position = await read_counters(settings), source.position
                    written = disk_bytes(worker.pid)
                    async with flowing(log, self.ticks_per_s):
                        await asyncio.sleep(self.paced_s)
                    await wait_served(settings, log.sender.offsets, SERVED_S)
                    done = (await read_counters(settings)).since(before)
                    written_after = disk_bytes(worker.pid)
                await check_served(settings, log.expected())
        finally:
            await forget_run(settings)
        found = {"paced_changelog_bytes_per_tick": done.changelog_bytes / (source.position - position)}
        if written and written_after:
            found["rocksdb_write_amplification"] = (written_after - written) / done.changelog_bytes
        return found


class _Sizes(click.ParamType):
    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(int(part) for part in value.split(","))
        except ValueError:
            sizes = ()
        if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] > 1_000_000:
            self.fail(f"{value!r} is not two or more rising numbers up to 1000000, such as 250,10000", param, ctx)
        return sizes


@click.command()
@click.option("--sizes", type=_Sizes(), default="250,10000,100000", show_default=True, help="Numbers of instruments.")
@click.option("--ticks", type=click.IntRange(min=1), default=40_000_000, show_default=True,
              help="Of each. Few are over before barriers come as seldom as in a long catch-up.")  # fmt: skip
@click.option("--paced-s", type=click.FloatRange(1, 3600), default=30.0, show_default=True,
              help="How long a paced market writes to the disk.")  # fmt: skip
@click.option("--ticks-per-s", type=click.IntRange(1, 1_000_000), default=50_000, show_default=True, help="Its pace.")
@bench_options
def command(sizes: tuple[int, ...], ticks: int, paced_s: float, ticks_per_s: int, **common: Any) -> None:
    """CPU per tick, changelog, disk and memory, by the number of instruments.

    \b
    Examples:
      marketprism bench instruments
      marketprism bench instruments --sizes 250,10000 --ticks 1000000 --runs 1 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(InstrumentsScenario(sizes, ticks, paced_s, ticks_per_s, seed), **common)
