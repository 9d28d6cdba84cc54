"""`marketprism day record`: the live topics, or a run's, into days on disk."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from agents.cli.output import echo_json, json_option, print_table, run
from models.errors import MarketPrismError
from streams.days.day import Day
from streams.days.record import Recorder, RecordReport, Rotation
from streams.settings import load_settings

_MB = 1_000_000


@click.command("record")
@click.option("--out", required=True, metavar="DAY", type=click.Path(path_type=Path), help="The first day's folder.")
@click.option("--prefix", metavar="P", help="Of the topics, as run.ID. ; the configured one by default.")
@click.option("--from", "start", type=click.Choice(["latest", "earliest"]), default="latest", show_default=True,
              help="Where to begin when nothing was recorded here yet.")  # fmt: skip
@click.option("--until-end", is_flag=True, help="End once what is in the log now is on disk.")
@click.option("--rotate-mb", metavar="N", type=click.FloatRange(min=0, min_open=True), help="A new day after N MB.")
@click.option("--rotate-s", metavar="N", type=click.FloatRange(min=0, min_open=True), help="A new day after N seconds.")
@click.option("--keep", metavar="N", type=click.IntRange(min=1), help="Keep the newest N days, delete older ones.")
@json_option
def record(
    out: Path,
    prefix: str | None,
    start: Literal["latest", "earliest"],
    until_end: bool,
    rotate_mb: float | None,
    rotate_s: float | None,
    keep: int | None,
    as_json: bool,
) -> None:
    """Record until Ctrl-C; the next start goes on at the offset after the last one on disk.

    Days are DAY, DAY.2, DAY.3 and so on. What a crash cut is made a whole day, and proven, at the next start.

    \b
    Examples:
      marketprism day record --out days/live --rotate-s 86400 --keep 7
      marketprism day record --out days/run --prefix run.1a2b3c4d. --from earliest --until-end
    """
    settings = load_settings()
    if prefix is not None:
        settings = replace(settings, topics=replace(settings.topics, prefix=prefix))
    rotation = Rotation(None if rotate_mb is None else int(rotate_mb * _MB), rotate_s)

    def made(day: Day) -> None:
        click.echo(f"{day.path}: {day.rows} rows", err=True)

    async def follow() -> RecordReport:
        recorder = Recorder(
            settings, out, start=start, rotation=rotation, keep=keep, until_end=until_end, made=made
        )  # fmt: skip
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, recorder.stop)
        return await recorder.run()

    try:
        report = run(follow())
    except FileExistsError as exc:
        raise MarketPrismError(str(exc)) from exc
    result = {
        "days": [str(day.path) for day in report.days],
        "rows": sum(day.rows for day in report.days),
        "frames": report.frames,
        "closed_after_crash": report.closed_after_crash,
        "deleted": [str(path) for path in report.deleted],
        "corrupt": report.corrupt,
        "gaps": sum(day.manifest.origin.recording.gaps for day in report.days if day.manifest.origin.recording),
        "missing": sum(day.manifest.origin.recording.missing for day in report.days if day.manifest.origin.recording),
        "offsets": {str(partition): offset for partition, offset in report.offsets.items()},
    }
    if as_json:
        echo_json(result)
    else:
        print_table("recorded", ["", "#"], result.items())
