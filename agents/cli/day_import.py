"""`marketprism day import`: recorded days made of what others recorded."""

from __future__ import annotations

from pathlib import Path

import click

from agents.cli.output import echo_json, json_option, print_table
from agents.cli.progress import progress_bar
from streams.days.importers.binance import import_binance
from streams.days.importers.lean import import_lean
from streams.days.importers.lobster import import_lobster
from streams.days.importers.report import MAX_REJECTS, Terms

_IMPORTERS = {"binance": import_binance, "lean": import_lean, "lobster": import_lobster}


@click.command("import")
@click.option("--from", "importer", required=True, type=click.Choice(sorted(_IMPORTERS)), help="Form of the sources.")
@click.argument(
    "sources", metavar="SRC...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--out", required=True, metavar="DAY", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--name", help="Name of the day; by default importer and dates.")
@click.option(
    "--max-rejects",
    type=click.FloatRange(0, 1),
    default=MAX_REJECTS,
    show_default=True,
    metavar="SHARE",
    help="Share of the records that may be unreadable; with more, no day is made.",
)
@click.option("--keep-cut", is_flag=True, help="Import what stands before the cut of a damaged file.")
@json_option
def import_day(
    importer: str,
    sources: tuple[Path, ...],
    out: Path,
    name: str | None,
    max_rejects: float,
    keep_cut: bool,
    as_json: bool,
) -> None:
    """Make a day of recorded files; what cannot be read is counted and kept, nothing is guessed.

    Unreadable records go to DAY.rejects.ndjson, with file, line, reason and text.

    \b
    Examples:
      marketprism day import --from binance spot_btcusdt_20240808.gz usdm_btcusdt_20240808.gz --out days/btc
      marketprism day import --from lobster AMZN_2012-06-21_5.zip --out days/amzn
    """
    if out.exists():
        raise click.BadParameter(f"{out} exists already; a day is never overwritten", param_hint="--out")
    with progress_bar("Importing", quiet=as_json) as progress:
        terms = Terms(name, max_rejects, keep_cut, progress)
        made, report = _IMPORTERS[importer](sources, out, terms=terms)
    for problem in report.problems:
        click.echo(f"unreadable: {problem}", err=True)
    if report.n_unreadable > len(report.problems):
        click.echo(f"unreadable: {report.n_unreadable - len(report.problems)} more, see {report.rejects}", err=True)
    result = {
        "name": made.name,
        "rows": made.rows,
        "instruments": len(made.manifest.instruments),
        "records": report.n_records,
        "unreadable": report.n_unreadable,
        "bytes": sum(entry.bytes for entry in made.manifest.files),
    }
    if as_json:
        echo_json({**result, "explained": dict(sorted(report.explained.items()))})
    else:
        print_table(str(out), ["", "#"], [*result.items(), *sorted(report.explained.items())])
