"""`marketprism day import`: recorded days made of what others recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from agents.cli.output import echo_json, json_option, print_table, refuse_existing
from agents.cli.progress import progress_bar
from models.errors import InvalidInstrument
from models.market.instruments import MARKET_TYPES, Instrument, parse
from streams.days.day import Day
from streams.days.importers.binance import import_binance
from streams.days.importers.cryptofeed import import_cryptofeed
from streams.days.importers.dbn import DbnNames, import_dbn
from streams.days.importers.lean import import_lean
from streams.days.importers.lobster import import_lobster
from streams.days.importers.report import MAX_REJECTS, ImportReport, Terms
from streams.days.importers.symbols import named_symbols
from streams.days.importers.table_csv import import_csv
from streams.days.importers.table_form import KINDS, TableForm
from streams.days.importers.table_parquet import import_parquet
from streams.days.importers.tardis import import_tardis
from streams.days.importers.times import UNITS

# Options that only some importers understand
_OPTIONS = {
    "binance": (),
    "lean": (),
    "lobster": (),
    "tardis": ("symbol",),
    "cryptofeed": ("symbol",),
    "dbn": ("symbol", "market_type", "quote"),
    "csv": ("symbol", "kind", "map", "instrument", "time_unit", "tz"),
    "parquet": ("symbol", "kind", "map", "instrument", "time_unit", "tz"),
}


@dataclass(frozen=True)
class _Said:
    """What the user says about the sources."""

    symbol: tuple[str, ...]
    market_type: str | None
    quote: str | None
    kind: str | None
    map: tuple[str, ...]
    instrument: str | None
    time_unit: str | None
    tz: str | None

    def check(self, importer: str) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) and name not in _OPTIONS[importer]:
                raise click.BadParameter(f"--from {importer} has no such option", param_hint=_flag(name))
        if "kind" in _OPTIONS[importer] and self.kind is None:
            raise click.BadParameter(f"say what a row is: {', '.join(KINDS)}", param_hint="--kind")

    def importer(self, name: str) -> Callable[..., tuple[Day, ImportReport]]:
        named = named_symbols(self.symbol)
        if name == "dbn":
            return partial(import_dbn, names=DbnNames(self.market_type, self.quote, named))
        if name in ("tardis", "cryptofeed"):
            return partial(import_tardis if name == "tardis" else import_cryptofeed, named=named)
        if name in ("csv", "parquet"):
            form = TableForm(
                kind=self.kind or "",
                columns=dict(map(_pair, self.map)),
                instrument=_instrument(self.instrument),
                time_unit=self.time_unit,
                tz=self.tz,
                named=named,
            )
            return partial(import_csv if name == "csv" else import_parquet, form=form)
        return {"binance": import_binance, "lean": import_lean, "lobster": import_lobster}[name]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise click.BadParameter(f"{text!r} is not FIELD=COLUMN", param_hint="--map")
    return name, column


def _instrument(text: str | None) -> Instrument | None:
    try:
        return None if text is None else parse(text)
    except InvalidInstrument as exc:
        raise click.BadParameter(str(exc.args[0]), param_hint="--instrument") from exc


@click.command("import")
@click.option("--from", "importer", required=True, type=click.Choice(sorted(_OPTIONS)), help="Form of the sources.")
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
@click.option(
    "--symbol", multiple=True, metavar="NAME=INSTRUMENT", help="What a name in the source stands for (may be repeated)."
)
@click.option("--market-type", type=click.Choice(MARKET_TYPES), help="dbn: of all symbols.")
@click.option("--quote", metavar="CURRENCY", help="dbn: the currency of all prices, such as USD.")
@click.option("--kind", type=click.Choice(list(KINDS)), help="csv, parquet: what a row is.")
@click.option(
    "--map", multiple=True, metavar="FIELD=COLUMN", help="csv, parquet: the column of a field (repeat, or use commas)."
)
@click.option("--instrument", metavar="INSTRUMENT", help="csv, parquet: of all rows.")
@click.option("--time-unit", type=click.Choice(list(UNITS)), help="csv, parquet: of times that are numbers.")
@click.option("--tz", metavar="ZONE", help="csv, parquet: zone of times that say none, such as UTC.")
@json_option
def import_day(
    importer: str,
    sources: Sequence[Path],
    out: Path,
    name: str | None,
    max_rejects: float,
    keep_cut: bool,
    as_json: bool,
    symbol: tuple[str, ...],
    map: tuple[str, ...],
    **said: str | None,
) -> None:
    """Make a day of recorded files; what cannot be read is counted and kept, nothing is guessed.

    Unreadable records go to DAY.rejects.ndjson, with file, line, reason and text. An import that refuses more than
    its share makes no day, and stops early once it has refused 1,000.

    \b
    Examples:
      marketprism day import --from binance spot_btcusdt_20240808.gz usdm_btcusdt_20240808.gz --out days/btc
      marketprism day import --from lobster AMZN_2012-06-21_5.zip --out days/amzn
      marketprism day import --from dbn xnas.trades.dbn.zst --market-type spot --quote USD --out days/xnas
      marketprism day import --from csv trades.csv --kind trade --map ts=time,price=px,size=qty \\
          --instrument lab.spot.BTC-USD --time-unit ms --out days/lab
    """
    refuse_existing(out)
    columns = tuple(part for text in map for part in text.split(","))
    of_sources = _Said(symbol=symbol, map=columns, **said)
    of_sources.check(importer)
    run = of_sources.importer(importer)
    began = time.process_time()
    with progress_bar("Importing", quiet=as_json) as progress:
        made, report = run(sources, out, terms=Terms(name, max_rejects, keep_cut, progress))
    used_s = time.process_time() - began
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
        "cpu_s": round(used_s, 3),
        "records_per_cpu_s": round(report.n_records / used_s),
    }
    if as_json:
        echo_json({**result, "explained": dict(sorted(report.explained.items()))})
    else:
        print_table(str(out), ["", "#"], [*result.items(), *sorted(report.explained.items())])
