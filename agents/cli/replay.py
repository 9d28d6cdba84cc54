"""`marketprism replay`: send recorded days through Kafka at any speed."""

from __future__ import annotations

import re
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from agents.cli.instants import Instant, resolve
from agents.cli.output import echo_json, json_option, print_table, run
from agents.cli.replay_bar import replay_bar
from agents.cli.replay_keys import Steering
from models.errors import MarketPrismError, RunConflict
from streams.days.day import Day
from streams.days.feed import Selection
from streams.days.plan_file import read_plan
from streams.days.replay import Replay
from streams.days.report import LATENESS_BOUND_MS, ReplayReport
from streams.days.run_record import RunRecord, read_run
from streams.settings import Settings, load_settings

# what a run began with, and parameters whose option has another name
_OF_THE_RECORD = {
    "speed", "rate", "start", "stop", "instruments", "venues", "loop", "rounds", "faults", "live", "run_id"
}  # fmt: skip
_OPTION = {"start": "from", "stop": "to", "instruments": "instrument", "venues": "venue"}
_RUN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


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


class _RunId(click.ParamType):
    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _RUN_ID.fullmatch(value):
            self.fail(f"{value!r} is not 1..64 letters, digits, . _ or -", param, ctx)
        return value


@click.command()
@click.argument("paths", metavar="DAY...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--speed", metavar="X|max", type=_Speed(), default="1", show_default=True, help="2 = twice as fast.")
@click.option("--rate", metavar="N", type=click.FloatRange(min=0, min_open=True), help="Rows a second, evenly.")
@click.option("--from", "start", metavar="T", type=Instant(), help="First instant, UTC: 2013-10-10T14:30 or 14:30:05.")
@click.option("--to", "stop", metavar="T", type=Instant(), help="End, not included.")
@click.option(
    "--instrument", "instruments", metavar="I", multiple=True, help="Only this one, as binance.spot.BTC-USDT."
)
@click.option("--venue", "venues", metavar="V", multiple=True, help="Only this one's instruments.")
@click.option("--pause-at", metavar="SEQ", multiple=True, type=click.IntRange(min=1), help="Pause after a row.")
@click.option("--step", metavar="N", type=click.IntRange(min=1), help="Pause after each N rows.")
@click.option("--loop", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--rounds", metavar="N", type=click.IntRange(min=1), help="So many times.")
@click.option("--faults", metavar="PLAN", type=click.Path(path_type=Path), help="What is to go wrong: TOML or JSON.")
@click.option("--live", is_flag=True, help="Send to the live topics instead of the run's own.")
@click.option("--serve", is_flag=True, help="Start a worker for the run and compare what it serves with the day.")
@click.option("--run-id", metavar="ID", type=_RunId(), help="Name of the run; its topics begin with run.ID.")
@click.option("--resume", metavar="ID", type=_RunId(), help="Go on with a run that was stopped or killed.")
@click.option("--run-file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="The run's record.")
@click.option(
    "--max-lateness", metavar="MS", type=click.FloatRange(min=0, min_open=True), default=LATENESS_BOUND_MS,
    show_default=True, help="A run whose 99th percentile is later is invalid.",
)  # fmt: skip
@click.option("--digest/--no-digest", "with_digest", default=True, help="Whether to compute what the rows end in.")
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    paths: tuple[Path, ...],
    speed: float | None,
    rate: float | None,
    start: str | None,
    stop: str | None,
    instruments: tuple[str, ...],
    venues: tuple[str, ...],
    pause_at: tuple[int, ...],
    step: int | None,
    loop: bool,
    rounds: int | None,
    faults: Path | None,
    live: bool,
    serve: bool,
    run_id: str | None,
    resume: str | None,
    run_file: Path | None,
    max_lateness: float,
    with_digest: bool,
    as_json: bool,
) -> None:
    """Replay recorded days: each row is sent when it is due, whether or not anybody keeps up.

    The digest says what every instrument must look like at the end; it is the same at every speed.

    SIGUSR1 pauses and goes on; Ctrl-C ends in order, and --resume goes on from there.

    \b
    Examples:
      marketprism replay replay_data/sample-day --speed 60
      marketprism replay days/btc days/eth --speed max --json
      marketprism replay days/lean --from 14:30 --to 14:45 --venue us-n --rate 50000
      marketprism replay days/btc --speed 100 --faults plan.toml --serve
      marketprism replay --resume 1a2b3c4d
    """
    if serve and live:
        raise click.UsageError("--serve starts a worker for the run's own topics; --live has a worker of its own")
    if serve and (loop or resume):
        raise click.UsageError("--serve compares one whole run: give neither --loop nor --resume")
    if loop and rounds:
        raise click.UsageError("--loop has no end, --rounds has one: give one of them")
    if bool(paths) == bool(resume):
        raise click.UsageError("give days to replay, or --resume ID to go on with a run")
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    if {"rate", "speed"} <= given:
        raise click.UsageError("--rate spreads rows evenly, --speed keeps their gaps: give one of them")
    if resume and (fixed := sorted(given & _OF_THE_RECORD)):
        options_of = ", ".join("--" + _OPTION.get(name, name).replace("_", "-") for name in fixed)
        raise click.UsageError(f"--resume takes {options_of} from the run's record: leave it out")
    settings = load_settings()
    options: dict[str, Any] = {
        "pause_at": (*pause_at, *([step] if step else ())),
        "lateness_bound_ms": max_lateness, "with_digest": with_digest,
    }  # fmt: skip
    if resume:
        at = run_file or _run_file(settings, resume)
        settings, days, more = _resumed(read_run(at), settings)
        options |= more | {"record": at}
    else:
        days, run_id = [Day.open(path) for path in paths], run_id or uuid.uuid4().hex[:8]
        first_ns = min((day.manifest.ts_recv_min for day in days if day.rows), default=0)
        selection = Selection(
            None if start is None else resolve(start, first_ns),
            None if stop is None else resolve(stop, first_ns),
            instruments,
            venues,
        )
        options |= {
            "selection": selection, "speed": None if rate else speed, "rate": rate, "live": live, "run_id": run_id,
            "rounds": None if loop else rounds or 1, "faults": None if faults is None else read_plan(faults),
            "record": run_file or _run_file(settings, run_id),
        }  # fmt: skip
    with replay_bar(quiet=as_json) as bar:
        steering = Steering(step=step, as_json=as_json, bar=bar)
        options |= {"progress": bar, "on_pause": steering.on_pause}
        report, extra = _served(days, settings, options) if serve else (_sent(days, settings, steering, options), {})
    _show(report, extra, as_json)


def _sent(days: Sequence[Day], settings: Settings, steering: Steering, options: dict[str, Any]) -> ReplayReport:
    async def send() -> ReplayReport:
        replay = Replay(days, settings, **options)
        steering.attach(replay)
        return await replay.run()

    return run(send())


def _served(days: Sequence[Day], settings: Settings, options: dict[str, Any]) -> tuple[ReplayReport, dict[str, Any]]:
    from streams.days.run import run_days  # noqa: PLC0415  what a worker needs takes 0.2 s to import
    from streams.services.ports import free_ports  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="marketprism-run-") as folder:
        own = replace(settings.worker, data_dir=folder, port=free_ports(1)[0])
        served = run(run_days(days, replace(settings, worker=own), Path(folder) / "worker.log", **options))
    return served.replay, {"served_digest": served.served_digest, "ok": served.ok}


def _resumed(record: RunRecord, settings: Settings) -> tuple[Settings, list[Day], dict[str, Any]]:
    """Settings, days and options of a run that goes on. Raises: RunConflict."""
    if record.state == "done":
        raise RunConflict(f"run {record.run_id} was sent to its end: start a new run")
    prefix = record.prefix if record.live else record.prefix.removesuffix(f"run.{record.run_id}.")
    settings = replace(settings, topics=replace(settings.topics, prefix=prefix))
    return (
        settings,
        record.open_days(),
        {
            "selection": record.selection, "speed": record.speed, "rate": record.rate, "rounds": record.rounds,
            "faults": record.plan, "live": record.live, "run_id": record.run_id, "resume": record,
        },
    )  # fmt: skip


def _run_file(settings: Settings, run_id: str) -> Path:
    return Path(settings.services.state_dir) / "runs" / f"{run_id}.json"


def _show(report: ReplayReport, extra: dict[str, Any], as_json: bool) -> None:
    result = {name: value for name, value in asdict(report).items() if name != "offsets"} | extra
    if as_json:
        echo_json(result)
    else:
        faults = [(f"fault {f['number']}: {f['fault']}", f"{f['events']} events") for f in result.pop("faults")]
        print_table(f"run {report.run_id}", ["", "#"], [*result.items(), *faults])
    if not extra.get("ok", True):
        raise MarketPrismError(f"the worker does not serve the day: digest {extra['served_digest']}")
    if not report.valid:
        raise MarketPrismError(
            f"the run is invalid: the 99th percentile of lateness is {report.lateness_p99_ms} ms, above the bound of "
            f"{report.lateness_bound_ms:g} ms; lower the speed, free the machine, or raise --max-lateness"
        )
    if report.state == "stopped":
        click.echo(f"stopped: go on with `marketprism replay --resume {report.run_id}`", err=True)
        sys.exit(130)
