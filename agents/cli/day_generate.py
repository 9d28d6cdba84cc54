"""`marketprism day generate`: a synthetic day of any size."""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path

import click

from agents.cli.output import echo_json, json_option, print_table, refuse_existing
from agents.cli.progress import progress_bar
from models.days.profile import PROFILES
from models.days.recipe import Recipe
from streams.days.generate import generate_day, read_labels, session_start_ns

_UNITS = {"s": 1, "m": 60, "h": 3600}


class _Duration(click.ParamType):
    """Whole seconds, written 90s, 30m or 6.5h."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value)
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.5
        if seconds != int(seconds):
            self.fail(f"{value!r} is not a duration in whole seconds such as 90s, 30m or 6.5h", param, ctx)
        return int(seconds)


@click.command()
@click.option("--out", required=True, metavar="DAY", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(min=0), help="The same seed, the same ticks.")
@click.option("--symbols", default=200, show_default=True, type=click.IntRange(min=1), help="How many instruments.")
@click.option("--events", default=2_000_000, show_default=True, type=click.IntRange(min=1), help="How many messages.")
@click.option("--venue-kind", default="equity", show_default=True, type=click.Choice(sorted(PROFILES)))
@click.option("--date", "of", default="2025-06-02", show_default=True, type=click.DateTime(["%Y-%m-%d"]))
@click.option("--duration", metavar="6.5h", type=_Duration(), help="By default 6.5h (equity) or 24h (crypto).")
@click.option("--anomalies", default=6, show_default=True, type=click.IntRange(min=0), help="How many are planted.")
@click.option("--no-anomalies", is_flag=True, help="Plant none.")
@click.option("--name", help="Name of the day; by default kind and seed.")
@json_option
def generate(
    out: Path,
    seed: int,
    symbols: int,
    events: int,
    venue_kind: str,
    of: datetime | date,
    duration: int | None,
    anomalies: int,
    no_anomalies: bool,
    name: str | None,
    as_json: bool,
) -> None:
    """Make a day of invented markets in the shape of a real one, with labelled anomalies (labels.json).

    \b
    Examples:
      marketprism day generate --seed 7 --symbols 200 --events 2000000 --out days/busy
      marketprism day generate --venue-kind crypto --symbols 40 --events 500000 --duration 2h --out days/coins
    """
    refuse_existing(out)
    recipe = Recipe(
        seed=seed,
        symbols=symbols,
        events=events,
        venue_kind=venue_kind,
        start_ns=session_start_ns(venue_kind, of),
        duration_s=PROFILES[venue_kind].session_s if duration is None else duration,
        anomalies=0 if no_anomalies else anomalies,
    )
    with progress_bar("Generating", quiet=as_json) as progress:
        day = generate_day(out, recipe, name=name, progress=progress)
    labels = read_labels(day)
    result = {
        "name": day.name,
        "rows": day.rows,
        "instruments": len(day.instruments),
        "anomalies": len(labels),
        "bytes": sum(entry.bytes for entry in day.manifest.files),
    }
    if as_json:
        echo_json(result)
        return
    print_table(str(out), ["", "#"], result.items())
    if labels:
        rows = [(label.kind, label.instrument, label.rows, label.first_seq or "-") for label in labels]
        print_table("Planted", ["anomaly", "instrument", "#rows", "#first seq"], rows)
