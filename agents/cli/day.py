"""`marketprism day`: make recorded days of captures, look at them, prove them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from agents.cli.day_generate import generate
from agents.cli.day_import import import_day
from agents.cli.day_record import record
from agents.cli.day_shape import show_shape
from agents.cli.output import echo_json, json_option, print_table, refuse_existing
from agents.cli.progress import progress_bar
from streams.days.day import Day
from streams.days.manifest import Origin
from streams.days.sample import make_sample
from streams.days.verify import verify_day

_day_folder = click.argument("path", metavar="DAY", type=click.Path(path_type=Path))
_out = click.option("--out", required=True, metavar="DAY", type=click.Path(path_type=Path), help="Folder to make.")


@click.group()
def day() -> None:
    """Recorded days: a folder with ticks.parquet and manifest.json.

    \b
    Example:
      marketprism day import --from binance captures/*.gz --out days/btc
      marketprism day verify days/btc
    """


day.add_command(import_day)
day.add_command(generate)
day.add_command(record)


@day.command()
@_out
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same day.")
@json_option
def sample(out: Path, seed: int, as_json: bool) -> None:
    """Make a small day of invented markets, to try things with.

    \b
    Example:
      marketprism day sample --seed 7 --out days/sample
    """
    refuse_existing(out)
    made = make_sample(out, seed)
    if as_json:
        echo_json({"name": made.name, "rows": made.rows, "instruments": len(made.manifest.instruments)})
    else:
        click.echo(f"{out}: {made.rows} rows of {len(made.manifest.instruments)} instruments")


@day.command()
@_day_folder
@click.option("--shape", is_flag=True, help="Measure how bursty the day is and compare it with a real one.")
@click.option("--instrument", metavar="I", help="Whose shape; by default the one with the most rows.")
@click.option("--plot", metavar="FILE.html", type=click.Path(dir_okay=False, path_type=Path), help="Draw the shape.")
@json_option
def info(path: Path, shape: bool, instrument: str | None, plot: Path | None, as_json: bool) -> None:
    """Say what a day holds (its manifest; `verify` proves it), or what shape its messages have.

    \b
    Examples:
      marketprism day info days/btc --json
      marketprism day info --shape --plot shape.html days/btc
    """
    if shape:
        show_shape(path, instrument, plot, as_json=as_json)
        return
    if instrument or plot:
        raise click.UsageError("--instrument and --plot go with --shape")
    manifest = Day.open(path).manifest
    if as_json:
        echo_json(msgspec.to_builtins(manifest))
        return
    origin = manifest.origin
    facts = {
        "origin": _told(origin),
        "rows": manifest.rows,
        "from": _utc(manifest.ts_recv_min),
        "to": _utc(manifest.ts_recv_max),
        "bytes": sum(entry.bytes for entry in manifest.files),
        "checkpoints": len(manifest.checkpoints or ()),
        **{f"{kind} rows": n for kind, n in manifest.kinds.items()},
    }
    print_table(f"{manifest.name} ({path})", ["", "#"], facts.items())
    print_table(
        "Instruments",
        ["instrument", "#rows", "#price exponent", "#size exponent"],
        [(entry.text, entry.rows, entry.price_exp, entry.size_exp) for entry in manifest.instruments],
    )


@day.command()
@_day_folder
@json_option
def verify(path: Path, as_json: bool) -> None:
    """Check a day's checksums, counts, order and numbering; exit 1 if anything is wrong.

    \b
    Example:
      marketprism day verify days/btc
    """
    with progress_bar("Verifying", quiet=as_json) as progress:
        result = verify_day(path, progress)
    if as_json:
        echo_json(msgspec.to_builtins(result))
    else:
        for problem in result.problems:
            click.echo(problem)
        click.echo(f"{path}: {result.rows} rows, " + ("ok" if result.ok else f"{len(result.problems)} problems"))
    if not result.ok:
        click.echo(f"marketprism: {path} is damaged: {result.problems[0]}", err=True)
        sys.exit(1)


def _told(origin: Origin) -> str:
    if origin.recording is not None:
        return f"recorded from {origin.recording.topic}"
    return origin.importer or f"{origin.generator} with seed {origin.seed}"


def _utc(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")
