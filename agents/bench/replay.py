"""Scenario `replay`: what a tick costs whoever replays it at full speed, and how late ticks leave at a pace."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agents.bench.child_cpu import run_child
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from models.errors import MarketPrismError
from models.market.frame import decode_header
from models.market.instruments import instrument_hash
from streams.days.day import Day
from streams.days.replay import Replay, ReplayReport
from streams.days.sample import make_sample
from streams.kafka.admin import ensure_topics
from streams.kafka.clients import start_consumer, stop_client
from streams.settings import Settings, environment_of
from streams.topics import FRAMES

_POLL_MS = 200

UNITS = {
    "ticks_per_producer_cpu_s": "ticks/s",
    "cpu_us_per_tick": "us",
    "ticks_per_command_cpu_s": "ticks/s",
    "ticks_per_s": "ticks/s",
    "wire_bytes_per_tick": "bytes",
    "ticks_per_frame": "ticks",
    "lateness_p50_ms": "ms",
    "lateness_p99_ms": "ms",
    "lateness_max_ms": "ms",
    "paced_cpu_ratio": "1",
}


@dataclass(frozen=True)
class ReplayScenario:
    """A day into Kafka as fast as it goes, by this process and by the command; then evenly at `rate` rows a second.

    Attributes:
        day: folder; None = a sample day of this seed.
        ticks: at least so many at full speed: the day again and again.
        paced_s: how long the even stream lasts at least: it is of whole days, too.
    """

    day: Path | None
    ticks: int
    rate: float
    paced_s: float
    seed: int

    name = "replay"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        name = "sample" if self.day is None else Day.open(self.day).name
        return {"day": name, "ticks": self.ticks, "rate": self.rate, "paced_s": self.paced_s, "seed": self.seed}

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: Kafka failed, or the log does not hold what was to be sent.
        """
        day = self._open(site)
        rounds = math.ceil(self.ticks / day.rows)
        at_once = await self._at_once(site, day, rounds)
        command_s = await self._command(site, day, rounds)
        paced = await self._paced(site, day)
        return at_once | {"ticks_per_command_cpu_s": rounds * day.rows / command_s} | paced

    def _open(self, site: BenchSite) -> Day:
        if self.day is not None:
            return Day.open(self.day)
        folder = site.folder / "sample-day"
        return Day.open(folder) if folder.exists() else make_sample(folder, self.seed)

    async def _at_once(self, site: BenchSite, day: Day, rounds: int) -> dict[str, float]:
        settings = site.run_settings(self.name)
        await self._sent(settings, day, rounds=1)  # compiled kernels and connections of a first run are not counted
        before, topic = site.log_bytes(settings.topics.prefix + FRAMES), settings.topics.prefix + FRAMES
        report, used_s = await self._sent(settings, day, rounds=rounds)
        metrics = {
            "ticks_per_producer_cpu_s": report.rows / used_s,
            "cpu_us_per_tick": used_s / report.rows * 1e6,
            "ticks_per_s": report.rows_per_s,
            "ticks_per_frame": report.rows / report.frames,
        }
        after = site.log_bytes(topic)
        if before is not None and after is not None:
            metrics["wire_bytes_per_tick"] = (after - before) / report.rows
        await forget_run(settings)
        return metrics

    async def _sent(self, settings: Settings, day: Day, **options: Any) -> tuple[ReplayReport, float]:
        """A replay to topics of its run, looked at afterwards; CPU seconds of this process that it took."""
        replay = Replay([day], settings, live=True, with_digest=False, **options)
        await ensure_topics(settings)
        began = time.process_time()
        report = await replay.run()
        used_s = time.process_time() - began
        await check_log(settings, instrument_hash(replay.source), report)
        return report, used_s

    async def _command(self, site: BenchSite, day: Day, rounds: int) -> float:
        """CPU seconds of `marketprism replay`, its start and the reading of settings included."""
        settings = site.run_settings(self.name)
        arguments = [
            str(day.path), "--speed", "max", "--rounds", str(rounds), "--no-digest", "--json",
            "--run-file", str(site.folder / "run.json"),
        ]  # fmt: skip
        command = [sys.executable, "-m", "agents.cli.main", "replay", *arguments]
        child = await asyncio.to_thread(run_child, command, environment_of(settings))
        await forget_run(settings)
        return child

    async def _paced(self, site: BenchSite, day: Day) -> dict[str, float]:
        settings = site.run_settings(self.name)
        rounds = math.ceil(self.rate * self.paced_s / day.rows)
        report, used_s = await self._sent(settings, day, rate=self.rate, rounds=rounds)
        await forget_run(settings)
        return {
            "lateness_p50_ms": report.lateness_p50_ms,
            "lateness_p99_ms": report.lateness_p99_ms,
            "lateness_max_ms": report.lateness_max_ms,
            "paced_cpu_ratio": used_s / report.seconds,
        }


async def check_log(settings: Settings, source: int, report: ReplayReport) -> None:
    """The log holds every row of a source once, in frames that follow each other.

    Raises:
        MarketPrismError: it does not.
    """
    topic, numbers = settings.topics.prefix + FRAMES, range(settings.kafka.partitions)
    consumer = await start_consumer(settings.kafka, topic, numbers)
    rows, last = 0, dict.fromkeys(numbers, 0)
    try:
        parts = sorted(consumer.assignment())
        ends = await consumer.end_offsets(parts)
        while waiting := [tp for tp in parts if await consumer.position(tp) < ends[tp]]:
            for tp, records in (await consumer.getmany(*waiting, timeout_ms=_POLL_MS)).items():
                for header in (decode_header(record.value) for record in records):
                    if header.source != source:
                        continue
                    if header.prev_position != last[tp.partition]:
                        raise MarketPrismError(f"a frame of {topic} does not follow the one before it: {header}")
                    last[tp.partition] = header.last_position
                    rows += header.n_ticks
    finally:
        await stop_client(consumer)
    controls = 2 * report.rounds * settings.kafka.partitions
    if rows - controls != report.rows:
        raise MarketPrismError(f"{topic} holds {rows - controls} rows, {report.rows} were sent")


@click.command()
@click.option("--day", "path", metavar="DAY", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Recorded day; a sample day by default.")  # fmt: skip
@click.option("--ticks", type=click.IntRange(min=1), default=3_000_000, show_default=True, help="At full speed.")
@click.option("--rate", type=click.FloatRange(min=1), default=50_000, show_default=True, help="Rows a second, paced.")
@click.option("--paced-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="At least so long.")
@bench_options
def command(path: Path | None, ticks: int, rate: float, paced_s: float, **common: Any) -> None:
    """CPU of replaying at full speed, and how late frames leave at a pace.

    \b
    Examples:
      marketprism bench replay
      marketprism bench replay --day days/lean --runs 5 --json --out results
    """
    seed: int = common.pop("seed")
    run_scenario(ReplayScenario(path, ticks, rate, paced_s, seed), **common)
