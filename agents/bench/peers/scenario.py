"""Scenario `peers`: the same ticks, the same broker, the same job on this worker, on Quix Streams and on Bytewax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from agents.bench.peers.environment import LOCK, locked_versions, ready_python
from agents.bench.peers.measure import OURS, Figures, Load, measure_ours, measure_peer
from agents.bench.site import BenchSite
from agents.bench.suite import bench_options, run_scenario
from streams.settings import load_settings

PEERS = ("quix", "bytewax")
# Jobs of each shape. `_record` has a peer's own windows, `_hand` bars written by hand into the peer's keyed state.
JOBS = {
    "record": (OURS, "quix_record", "quix_hand", "bytewax_record", "bytewax_hand"),
    "frames": (OURS, "quix_frames", "bytewax_frames"),
}
PER = {"record": "cpu_us_per_record", "frames": "cpu_us_per_tick"}

RATIOS = tuple(f"ratio_{peer}_{shape}" for shape in JOBS for peer in PEERS)
_OWN_WINDOWS = tuple(f"ratio_{peer}_windows" for peer in PEERS)


def _units() -> dict[str, str]:
    units = dict.fromkeys((*RATIOS, *_OWN_WINDOWS), "ratio")
    for shape, jobs in JOBS.items():
        for job in jobs:
            name = _name(job, shape)
            units[f"{name}_ticks_per_cpu_s"] = "ticks/s"
            units[f"{name}_{PER[shape]}"] = "us"
            units[f"{name}_broker_cpu_s"] = "s"
    return units


def _name(job: str, shape: str) -> str:
    return f"{OURS}_{shape}" if job == OURS else job


UNITS = _units()


@dataclass
class PeersScenario:
    """Every system once a run, each on topics of its own, one after the other; another one begins each run."""

    load: Load
    python: Path
    _runs: int = field(default=0, init=False)

    name = "peers"
    units = UNITS

    @property
    def parameters(self) -> dict[str, int | float | str]:
        versions = locked_versions()
        load = self.load
        return {
            "instruments": load.instruments, "record_ticks": load.records_ticks, "frames_ticks": load.frames_ticks,
            "frame_ticks": load.frame_ticks, "batch_records": load.batch_records, "commit_s": load.commit_s,
            "seed": load.seed, "quixstreams": versions["quixstreams"], "bytewax": versions["bytewax"],
        }  # fmt: skip

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run of all systems: its metrics, by name.

        Raises:
            MarketPrismError: a system failed, or ended with something else than what was sent.
        """
        figures: dict[str, Figures] = {}
        for shape, jobs in JOBS.items():
            first = self._runs % len(jobs)
            for job in jobs[first:] + jobs[:first]:
                if job == OURS:
                    figures[_name(job, shape)] = await measure_ours(site, self.load, shape)
                else:
                    figures[job] = await measure_peer(site, self.load, job, self.python)
        self._runs += 1
        return metrics_of(figures)


def metrics_of(figures: Mapping[str, Figures]) -> dict[str, float]:
    """Metrics of one run out of the figures of all its systems.

    `ratio_*_record` is against the cheaper of a peer's two ways, `ratio_*_windows` against its own windows.
    """
    metrics: dict[str, float] = {}
    for shape, jobs in JOBS.items():
        ours = figures[f"{OURS}_{shape}"].ticks_per_cpu_s
        for peer in PEERS:
            own = figures[f"{peer}_{shape}"].ticks_per_cpu_s
            best = max(own, figures[f"{peer}_hand"].ticks_per_cpu_s) if shape == "record" else own
            metrics[f"ratio_{peer}_{shape}"] = ours / best
            if shape == "record":
                metrics[f"ratio_{peer}_windows"] = ours / own
        for job in jobs:
            name = _name(job, shape)
            of = figures[name]
            metrics[f"{name}_ticks_per_cpu_s"] = of.ticks_per_cpu_s
            metrics[f"{name}_{PER[shape]}"] = of.cpu_us
            metrics[f"{name}_broker_cpu_s"] = of.broker_cpu_s
    return metrics


@click.command()
@click.option("--instruments", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True)
@click.option("--record-ticks", type=click.IntRange(min=1), default=1_200_000, show_default=True, help="Rows as JSON.")
@click.option("--frames-ticks", type=click.IntRange(min=1), default=5_000_000, show_default=True, help="As frames.")
@click.option("--frame-ticks", type=click.IntRange(2, 4096), default=4096, show_default=True, help="Most of a frame.")
@click.option(
    "--batch-records", type=click.IntRange(1, 2000), default=200, show_default=True,
    help="Records of one Kafka batch of JSON.",
)  # fmt: skip
@bench_options
def command(
    instruments: int, record_ticks: int, frames_ticks: int, frame_ticks: int, batch_records: int, **common: Any
) -> None:
    """Ticks per CPU second against Quix Streams and Bytewax on the same job.

    The first use installs both into an environment of their own, under services.cache_dir.

    \b
    Examples:
      marketprism bench peers
      marketprism bench peers --instruments 250 --runs 5 --json --out results
    """
    settings = load_settings()
    console = Console(stderr=True, quiet=common["as_json"])
    cache_dir = Path(settings.services.cache_dir).expanduser()
    python = ready_python(cache_dir, console, LOCK, "Quix Streams and Bytewax (360 MB, once)")
    load = Load(
        instruments=instruments, records_ticks=record_ticks, frames_ticks=frames_ticks, frame_ticks=frame_ticks,
        batch_records=batch_records, commit_s=settings.worker.commit_interval_s, seed=common.pop("seed"),
    )  # fmt: skip
    run_scenario(PeersScenario(load, python), **common)
