"""`marketprism publish`: ticks of a file or of standard input into Kafka; what is refused becomes a dead letter."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from agents.cli.output import echo_json, json_option, print_table, run
from models.market.json_refusals import Refusal
from streams.client.columns import SourceBatch
from streams.client.json_publisher import JsonPublisher
from streams.client.publisher import TickPublisher
from streams.client.sources import FORMATS, TickSource
from streams.clock import now_ns
from streams.kafka.admin import ensure_topics
from streams.kafka.deadletter import DeadLetter, DeadLetters
from streams.settings import Settings, load_settings


@dataclass
class Report:
    """What one run of the command did; `ticks` are records taken, `rows` their rows of 64 bytes."""

    ticks: int = 0
    rows: int = 0
    frames: int = 0
    refused: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def ticks_per_s(self) -> float:
        return self.ticks / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "ticks": self.ticks,
            "rows": self.rows,
            "frames": self.frames,
            "refused": self.refused,
            "reasons": dict(self.reasons),
            "seconds": round(self.seconds, 6),
            "ticks_per_s": round(self.ticks_per_s, 1),
        }


@click.command()
@click.argument("source", metavar="FILE|-")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: by extension; NDJSON for `-`.")
@click.option(
    "--to",
    type=click.Choice(["frames", "json"]),
    default="frames",
    help="frames: read and packed here. json: each NDJSON line as one record, read by the gateway.",
)
@json_option
def publish(source: str, format_: str | None, to: str, as_json: bool) -> None:
    """Publish ticks from a file of NDJSON, CSV or Parquet, or from standard input.

    A record that cannot be read goes to the dead letters with its reason (`marketprism dead`), the rest goes on.

    \b
    Examples:
      marketprism publish ticks.ndjson
      marketprism publish trades.parquet --json
      collector | marketprism publish -
    """
    ticks = TickSource(source, format_)
    if to == "json" and ticks.format != "ndjson":
        raise click.UsageError("--to json sends lines as they are: the source has to be NDJSON")
    report = run(_publish(load_settings(), ticks, to=to, quiet=as_json))
    if as_json:
        echo_json(report.as_json())
        return
    print_table(
        f"Published {ticks.name}",
        ["#ticks", "#rows", "#frames", "#refused", "#seconds", "#ticks/s"],
        [
            (
                report.ticks,
                report.rows,
                report.frames,
                report.refused,
                f"{report.seconds:.2f}",
                f"{report.ticks_per_s:,.0f}",
            )
        ],
    )
    if report.refused:
        why = ", ".join(f"{n} {reason}" for reason, n in report.reasons.most_common())
        click.echo(f"{report.refused} refused ({why}): see `marketprism dead`")


async def _publish(settings: Settings, source: TickSource, *, to: str, quiet: bool) -> Report:
    await ensure_topics(settings)
    report = Report()
    async with AsyncExitStack() as stack:
        letters = await stack.enter_async_context(DeadLetters(settings))
        frames = await stack.enter_async_context(TickPublisher(settings)) if to == "frames" else None
        lines = await stack.enter_async_context(JsonPublisher(settings)) if to == "json" else None
        begin = time.perf_counter()
        with _progress(source, quiet=quiet) as show:
            async for batch in source.batches():
                refused: list[Refusal] = []
                if frames is not None:
                    refused = await frames.publish_json(batch.ticks)
                elif lines is not None:
                    await lines.publish(batch.ticks)
                await letters.put(_letters(source.name, batch, refused, report))
                report.ticks += len(batch.ticks) - len(refused)
                show(batch.done, report)
        if frames is not None:
            await frames.flush()
            report.rows, report.frames = frames.stats.ticks, frames.stats.frames
        report.seconds = time.perf_counter() - begin
    return report


def _letters(name: str, batch: SourceBatch, refused: list[Refusal], report: Report) -> list[DeadLetter]:
    found = [(batch.originals[r.record], batch.numbers[r.record], r) for r in refused] + batch.refused
    ts_ms = now_ns() // 1_000_000
    report.refused += len(found)
    report.reasons.update(r.reason for _, _, r in found)
    return [DeadLetter(value, r.reason, f"{name}:{number}: {r.detail}", ts_ms) for value, number, r in found]


@contextmanager
def _progress(source: TickSource, *, quiet: bool) -> Iterator[Any]:
    """A bar on a terminal, called as `show(done, report)`."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, report: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("publishing", total=source.total)
        begin = time.perf_counter()

        def show(done: int, report: Report) -> None:
            rate = report.ticks / max(time.perf_counter() - begin, 1e-9)
            text = f"{report.ticks:,} ticks, {rate:,.0f}/s, {report.refused:,} refused"
            progress.update(task, completed=done, total=source.total, description=text)

        yield show
