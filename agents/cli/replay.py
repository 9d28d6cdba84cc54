"""`marketprism replay`: send recorded days through Kafka at any speed."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from agents.cli.output import echo_json, json_option, print_table, run
from agents.cli.progress import progress_bar
from models.errors import MarketPrismError
from streams.days.day import Day
from streams.days.replay import Pause, Replay
from streams.days.run import run_days
from streams.services.ports import free_ports
from streams.settings import load_settings


class _Speed(click.ParamType):
    name = "speed"

    def convert(
        self, value: str | float | None, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value is None or value == "max":
            return None
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf"):
            self.fail(f"{value!r} is neither max nor a number above 0", param, ctx)
        return speed


@click.command()
@click.argument("paths", metavar="DAY...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--speed", metavar="X|max", default="1", show_default=True, type=_Speed(), help="2 = twice as fast.")
@click.option(
    "--pause-at", metavar="SEQ", multiple=True, type=click.IntRange(min=1), help="Wait for Enter after a row."
)
@click.option("--live", is_flag=True, help="Send to the live topics instead of the run's own.")
@click.option("--serve", is_flag=True, help="Start a worker for the run and compare what it serves with the day.")
@click.option("--run-id", metavar="ID", help="Name of the run; its topics begin with run.ID.")
@json_option
def replay(
    paths: tuple[Path, ...],
    speed: float | None,
    pause_at: tuple[int, ...],
    live: bool,
    serve: bool,
    run_id: str | None,
    as_json: bool,
) -> None:
    """Replay recorded days: each row is sent when it is due, whether or not anybody keeps up.

    The digest says what every instrument must look like at the end; it is the same at every speed.

    \b
    Examples:
      marketprism replay replay_data/sample-day --speed 60
      marketprism replay days/btc days/eth --speed max --json
      marketprism replay days/btc --speed 100 --serve
    """
    if serve and live:
        raise click.UsageError("--serve starts a worker for the run's own topics; --live has a worker of its own")
    days = [Day.open(path) for path in paths]

    async def wait_for_enter(pause: Pause) -> None:
        if as_json:
            echo_json({"paused_at": pause.seq, "offsets": {str(p): offset for p, offset in pause.offsets.items()}})
        else:
            click.echo(f"paused at {pause.seq}: press Enter to go on")
        await asyncio.to_thread(sys.stdin.readline)  # without a limit: whoever paused decides

    with progress_bar("Replaying", quiet=as_json or bool(pause_at)) as progress:
        options: dict[str, Any] = {
            "speed": speed, "run_id": run_id, "live": live, "pause_at": pause_at,
            "on_pause": wait_for_enter, "progress": progress,
        }  # fmt: skip
        settings = load_settings()
        if serve:
            with tempfile.TemporaryDirectory(prefix="marketprism-run-") as folder:
                own = replace(settings.worker, data_dir=folder, port=free_ports(1)[0])
                served = run(run_days(days, replace(settings, worker=own), Path(folder) / "worker.log", **options))
            report, extra = served.replay, {"served_digest": served.served_digest, "ok": served.ok}
        else:
            report, extra = run(Replay(days, settings, **options).run()), {}
    result = {name: value for name, value in asdict(report).items() if name != "offsets"} | extra
    if as_json:
        echo_json(result)
    else:
        print_table(f"run {report.run_id}", ["", "#"], result.items())
    if not extra.get("ok", True):
        raise MarketPrismError(f"the worker does not serve the day: digest {extra['served_digest']}")
