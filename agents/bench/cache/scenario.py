"""Scenario `cache`: what a hit costs beside other caches, how fast Redis and RocksDB are read, and if tiers agree."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console

from agents.bench.cache.agree import count_violations
from agents.bench.cache.colocated import FIGURES, KINDS, metric, time_rocks_reads
from agents.bench.cache.job import Loops, Spec
from agents.bench.cache.ours import OURS
from agents.bench.cache.systems import PEERS, Cache
from agents.bench.child import ChildProcess
from agents.bench.peers.environment import locked_versions, ready_python
from agents.bench.site import BenchSite, forget_run
from agents.bench.suite import bench_options, run_scenario
from agents.cli.output import print_table
from models.errors import ServiceUnavailable
from models.perf.requests import zipf_requests
from models.perf.summary import Report
from streams.settings import load_settings

LOCK = Path(__file__).with_name("requirements.lock")
SYSTEMS: dict[str, type[Cache]] = OURS | PEERS
_NAMES = {"reader": "hit_ns", "row_reader": "row_hit_ns", "policy": "policy_hit_ns"}
_SOURCE = Path(__file__).resolve().parents[3]
_TASKS = 200
_JOB_S = 300.0
_START_S = 60.0
_ZIPF = 0.9


def _units() -> dict[str, str]:
    units = dict.fromkeys(_NAMES.values(), "ns")
    units |= {
        "redis_reads_per_s": "1/s", "redis_p50_ms": "ms", "redis_p99_ms": "ms", "redis_cpu_us_per_read": "us",
        "coherence_violations": "1",
    }  # fmt: skip
    units |= {metric(kind, figure): "ns" for kind in KINDS for figure in FIGURES}
    for name in (name for name in SYSTEMS if name not in _NAMES):
        units |= {f"{name}_hit_ns": "ns", f"{name}_miss_put_ns": "ns", f"{name}_zipf_ns": "ns"}
        units[f"{name}_zipf_hit_ratio"] = "ratio"
    return units


@dataclass(frozen=True)
class CacheScenario:
    """Every cache in a process of its own, one after the other; Redis with 200 tasks; then live workers.

    Attributes:
        python: of the other caches' environment.
        held: keys of the loop of hits, in Redis, and of each kind in RocksDB.
        capacity: entries in the loops at capacity.
        requests: of the skewed loop, over twenty times as many keys as there is room for.
        seconds: of Redis reads; the check of the tiers takes as long, and each kind of RocksDB reads.
        instruments: of the check of the tiers.
    """

    python: Path
    held: int
    capacity: int
    requests: int
    seconds: float
    instruments: int
    seed: int

    name = "cache"
    units = _units()

    @property
    def parameters(self) -> dict[str, int | float | str]:
        versions = locked_versions(LOCK)
        return {
            "held": self.held, "capacity": self.capacity, "requests": self.requests, "seconds": self.seconds,
            "tasks": _TASKS, "instruments": self.instruments, "seed": self.seed,
            **{peer.package: versions[peer.package] for peer in PEERS.values()},
        }  # fmt: skip

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """One run: its metrics, by name.

        Raises:
            MarketPrismError: a cache or a service failed, or an answer was wrong.
        """
        requests = site.folder / "requests.u32"
        requests.write_bytes(zipf_requests(self.requests, 20 * self.capacity, _ZIPF, seed=self.seed).tobytes())
        spec = Spec(self.held, self.capacity, 10 * self.capacity, str(requests))
        metrics: dict[str, float] = {}
        for system in SYSTEMS:
            loops = await self._loops(system, spec)
            if system in _NAMES:
                metrics[_NAMES[system]] = loops.hit_ns
            else:
                metrics |= {f"{system}_{name}": x for name, x in asdict(loops).items() if x is not None}
        metrics |= await self._redis(site)
        metrics |= await time_rocks_reads(site, keys=self.held, seconds=self.seconds, seed=self.seed)
        broken = await count_violations(site, instruments=self.instruments, seconds=self.seconds, seed=self.seed)
        return metrics | {"coherence_violations": float(broken)}

    async def _loops(self, system: str, spec: Spec) -> Loops:
        python = sys.executable if system in OURS else str(self.python)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("MARKETPRISM_", "PYTHON"))}
        process = await asyncio.create_subprocess_exec(
            python, "-W", "ignore", "-m", "agents.bench.cache.job", system, orjson.dumps(asdict(spec)).decode(),
            env=own | {"PYTHONPATH": str(_SOURCE)}, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            said, errors = await asyncio.wait_for(process.communicate(), _JOB_S)
        except TimeoutError:
            raise ServiceUnavailable(f"{system} was not measured within {_JOB_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines()
            raise ServiceUnavailable(f"{system} failed: {lines[-1] if lines else 'it said nothing'}")
        return Loops(**orjson.loads(said.splitlines()[-1]))

    async def _redis(self, site: BenchSite) -> dict[str, float]:
        settings = site.run_settings(self.name)
        spec = {"keys": self.held, "tasks": _TASKS, "seconds": self.seconds, "seed": self.seed}
        log = site.folder / "processes.log"
        try:
            async with ChildProcess("agents.bench.cache.redis_reads", settings, spec, log) as child:
                told = await child.hear(self.seconds + _START_S)
        finally:
            await forget_run(settings)
        return {
            "redis_reads_per_s": told["reads"] / told["seconds"],
            "redis_p50_ms": told["late_ms"][0],
            "redis_p99_ms": told["late_ms"][1],
            "redis_cpu_us_per_read": told["cpu_s"] / told["reads"] * 1e6,
        }


def show_side_by_side(report: Report) -> None:
    """The caches beside each other, and what each of them is."""
    versions = locked_versions(LOCK)

    def shown(metric: str, form: str) -> str:
        return format(report.metrics[metric].median, form) if metric in report.metrics else "-"

    rows = []
    for system, cache in SYSTEMS.items():
        name = f"{cache.package} {versions[cache.package]}" if cache.package else f"ours: {system.replace('_', ' ')}"
        figures = [
            shown(_NAMES.get(system, f"{system}_hit_ns"), ",.0f"),
            shown(f"{system}_miss_put_ns", ",.0f"),
            shown(f"{system}_zipf_ns", ",.0f"),
            shown(f"{system}_zipf_hit_ratio", ".3f"),
        ]
        rows.append((name, *figures, *("yes" if has else "no" for has in (cache.bounded, *cache.traits))))
    columns = ["cache", "#hit ns", "#miss+put ns", "#zipf ns", "#hit ratio", "evicts", "async", "TTL each",
               "listener", "by bytes"]  # fmt: skip
    print_table("CPU of one request, medians; - = it cannot, or needs a service for it", columns, rows)


@click.command()
@click.option("--held", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="Keys of the hits.")
@click.option("--capacity", type=click.IntRange(20, 1_000_000), default=5_000, show_default=True, help="Entries.")
@click.option("--requests", type=click.IntRange(min=1), default=300_000, show_default=True, help="Skewed ones.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Of Redis reads.")
@click.option("--instruments", type=click.IntRange(1, 100_000), default=100, show_default=True)
@bench_options
def command(held: int, capacity: int, requests: int, seconds: float, instruments: int, **common: Any) -> None:
    """A hit in memory beside other caches, Redis reads, RocksDB reads beside a worker, and if all tiers agree.

    The first use installs the other caches into an environment of their own, under services.cache_dir.

    \b
    Examples:
      marketprism bench cache
      marketprism bench cache --runs 5 --json --out results
    """
    as_json: bool = common["as_json"]
    cache_dir = Path(load_settings().services.cache_dir).expanduser()
    python = ready_python(cache_dir, Console(stderr=True, quiet=as_json), LOCK, "the other caches (55 MB, once)")
    scenario = CacheScenario(python, held, capacity, requests, seconds, instruments, common.pop("seed"))
    report = run_scenario(scenario, **common)
    if not as_json:
        show_side_by_side(report)
