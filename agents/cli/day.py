"""`marketprism day`: make recorded days of captures, look at them, prove them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agents.cli.output import echo_json, json_option, print_table
from streams.days.day import Day
from streams.days.importers.binance import import_binance
from streams.days.importers.lean import import_lean
from streams.days.sample import make_sample
from streams.days.verify import verify_day

_IMPORTERS = {"binance": import_binance, "lean": import_lean}
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


@day.command("import")
@click.option("--from", "importer", required=True, type=click.Choice(sorted(_IMPORTERS)), help="Form of the sources.")
@click.argument(
    "sources", metavar="SRC...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@_out
@click.option("--name", help="Name of the day; by default importer and dates.")
@json_option
def import_day(importer: str, sources: tuple[Path, ...], out: Path, name: str | None, as_json: bool) -> None:
    """Make a day of recorded files; what cannot be read is counted and listed, nothing is guessed.

    \b
    Examples:
      marketprism day import --from binance spot_btcusdt_20240808.gz usdm_btcusdt_20240808.gz --out days/btc
      marketprism day import --from lean aig/20131010_quote.zip aig/20131010_trade.zip --out days/aig
    """
    _refuse_existing(out)
    with progress_bar("Importing", quiet=as_json) as progress:
        made, report = _IMPORTERS[importer](sources, out, name=name, progress=progress)
    for problem in report.problems:
        click.echo(f"unreadable: {problem}", err=True)
    if report.n_unreadable > len(report.problems):
        click.echo(f"unreadable: {report.n_unreadable - len(report.problems)} more lines", err=True)
    result = {
        "name": made.name,
        "rows": made.rows,
        "instruments": len(made.manifest.instruments),
        "records": report.n_records,
        "unreadable": report.n_unreadable,
        "bytes": sum(entry.bytes for entry in made.manifest.files),
    }
    if as_json:
        echo_json(result)
    else:
        print_table(str(out), ["", "#"], result.items())


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
    _refuse_existing(out)
    made = make_sample(out, seed)
    if as_json:
        echo_json({"name": made.name, "rows": made.rows, "instruments": len(made.manifest.instruments)})
    else:
        click.echo(f"{out}: {made.rows} rows of {len(made.manifest.instruments)} instruments")


@day.command()
@_day_folder
@json_option
def info(path: Path, as_json: bool) -> None:
    """Say what a day holds (its manifest; `verify` proves it).

    \b
    Example:
      marketprism day info days/btc --json
    """
    manifest = Day.open(path).manifest
    if as_json:
        echo_json(msgspec.to_builtins(manifest))
        return
    origin = manifest.origin
    facts = {
        "origin": origin.importer or f"{origin.generator} with seed {origin.seed}",
        "rows": manifest.rows,
        "from": _utc(manifest.ts_recv_min),
        "to": _utc(manifest.ts_recv_max),
        "bytes": sum(entry.bytes for entry in manifest.files),
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


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with share and time to go, fed with (done, in all); nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise click.BadParameter(f"{out} exists already; a day is never overwritten", param_hint="--out")


def _utc(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", " UTC")
