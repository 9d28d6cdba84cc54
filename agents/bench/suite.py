"""Running a scenario several times and telling what came out: a table for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import click
import msgspec
from rich.console import Console

from agents.bench.machine import commit, machine_facts
from agents.bench.site import BenchSite, bench_site
from agents.cli.output import json_option, print_table, run
from models.perf.summary import Report, summarise_runs
from streams.settings import load_settings


class Scenario(Protocol):
    """One thing that is measured.

    Attributes:
        name: the command's and the report's.
        units: of every metric it may give, in the order in which they are shown.
        parameters: what it was asked to do.
    """

    @property
    def name(self) -> str: ...

    @property
    def units(self) -> Mapping[str, str]: ...

    @property
    def parameters(self) -> dict[str, int | float | str]: ...

    async def run(self, site: BenchSite) -> Mapping[str, float]:
        """Measure once; raise when what was measured did not do its work right."""
        ...


_Command = Callable[..., None]


def bench_options(command: _Command) -> _Command:
    """What every scenario's command takes; hand it on to `run_scenario` (but `seed`, which is the scenario's)."""
    for option in reversed(
        (
            click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True),
            click.option("--seed", default=7, show_default=True, help="The same seed gives the same ticks."),
            click.option("--live-services", is_flag=True, help="Use the configured Kafka and Redis, not own ones."),
            click.option(
                "--out",
                type=click.Path(file_okay=False, path_type=Path),
                metavar="DIR",
                help="Write the JSON there.",
            ),
            json_option,
        )
    ):
        command = option(command)
    return command


def run_scenario(scenario: Scenario, *, runs: int, live_services: bool, out: Path | None, as_json: bool) -> Report:
    """Measure on a site and print the report.

    Raises:
        MarketPrismError: a run failed, or was wrong; nothing is reported then.
    """
    console = Console(stderr=True, quiet=as_json)
    settings = load_settings()
    if not live_services:
        console.print("Starting Kafka and Redis ...")
    with bench_site(settings, live=live_services, say=lambda text: console.print(text, highlight=False)) as site:
        report = run(_measure(scenario, site, runs, console))
    if out is not None:
        console.print(f"written to {write_report(report, out)}", highlight=False, soft_wrap=True)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    else:
        show(report)
    return report


async def _measure(scenario: Scenario, site: BenchSite, runs: int, console: Console) -> Report:
    machine = await machine_facts(site.settings)
    measured: list[Mapping[str, float]] = []
    for number in range(1, runs + 1):
        with console.status(f"run {number} of {runs} ..."):
            measured.append(await scenario.run(site))
    return Report(scenario.name, scenario.parameters, machine, commit(), runs, summarise_runs(measured, scenario.units))


def write_report(report: Report, folder: Path) -> Path:
    """A file of its own in `folder`, which is made; its name has scenario, UTC time and commit."""
    folder.mkdir(parents=True, exist_ok=True)
    short = report.commit[:8]
    path = folder / f"{report.scenario}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{short}.json"
    path.write_bytes(msgspec.json.encode(report) + b"\n")
    return path


def show(report: Report) -> None:
    """Tables for people."""
    told = ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
                     for name, value in report.parameters.items())  # fmt: skip
    rows = [
        (name, *(_number(value) for value in (metric.median, metric.min, metric.max)), metric.unit)
        for name, metric in report.metrics.items()
    ]
    print_table(f"{report.scenario}: {told}; {report.runs} runs", ["metric", "#median", "#min", "#max", "unit"], rows)
    facts: dict[str, Any] = {**report.machine, "commit": report.commit}
    facts["memory_bytes"] = f"{facts['memory_bytes'] / 2**30:.1f} GiB"
    facts["load"] = " ".join(map(str, facts["load"]))
    facts["libraries"] = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items())
    print_table("on", ["", ""], [(name.removesuffix("_bytes"), value) for name, value in facts.items()])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
