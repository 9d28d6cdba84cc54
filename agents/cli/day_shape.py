"""`marketprism day info --shape`: how bursty a day is, beside a real one, in the terminal and as a page."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from agents.cli.output import echo_json, print_table
from agents.cli.progress import progress_bar
from models.days.shape import AMZN_EVENTS, AMZN_SECONDS, BinShape, Deviation, Shape, against_amzn
from models.market.instruments import Instrument
from models.market.tick import Kind
from streams.days.day import Day
from streams.days.shape import shape_of

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDE = 60
_TOP = 10
_AMZN_RATE = AMZN_EVENTS / AMZN_SECONDS


def show_shape(path: Path, instrument: str | None, plot: Path | None, *, as_json: bool) -> None:
    """Measure, print, and draw if asked to."""
    day = Day.open(path)
    with progress_bar("Measuring", quiet=as_json) as progress:
        shape = shape_of(day, instrument, progress)
    against, of = against_amzn(shape), day.instruments[shape.instrument_id]
    if plot:
        from agents.cli.shape_page import write_page  # noqa: PLC0415 - plotly takes half a second to import

        write_page(plot, f"{of.text} of {day.name}", shape, against)
    if as_json:
        rows = [row._asdict() | {"within": row.within} for row in against]
        echo_json({"day": day.name, "instrument": of.text, "shape": msgspec.to_builtins(shape), "against_amzn": rows})
        return
    _print_against(of.text, shape, against)
    print_table("Messages", ["", "#"], _facts(shape, of).items())
    order = sorted(range(len(shape.events_of)), key=lambda index: -shape.events_of[index])[:_TOP]
    total = sum(shape.events_of)
    print_table(
        "Busiest instruments",
        ["instrument", "#messages", "#share"],
        [(day.instruments[i].text, shape.events_of[i], f"{shape.events_of[i] / total:.1%}") for i in order],
    )
    click.echo(sparkline(shape))
    click.echo(histogram(next(bins for bins in shape.bins if bins.width_ms == 100)))
    if plot:
        click.echo(f"drawn in {plot}")


def _print_against(instrument: str, shape: Shape, against: list[Deviation]) -> None:
    rate = shape.events / shape.seconds if shape.seconds else 0.0
    title = f"{instrument}: {shape.events} messages, {rate:.2f} a second (AMZN {_AMZN_RATE:.2f})"
    table = Table(title=title, title_justify="left")
    for name in ("measure", "found", "AMZN 2012-06-21", "deviation", "tolerance"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for row in against:
        difference = row.name.startswith("empty")
        form = "{:+.4f}" if difference else "{:+.1%}"
        style = "green" if row.within else "red"
        table.add_row(
            row.name,
            f"{row.found:.4f}" if difference else f"{row.found:.2f}",
            f"{row.real:g}",
            f"[{style}]{form.format(row.deviation)}[/]",
            f"{row.tolerance:g}" if difference else f"{row.tolerance:.0%}",
        )
    Console().print(table)
    if not 0.8 < rate / _AMZN_RATE < 1.25:
        click.echo(f"These measures depend on the rate: they say little about {rate:.2f} messages a second.")


def _facts(shape: Shape, of: Instrument) -> dict[str, str]:
    trades = shape.mix.get(Kind.TRADE.name.lower(), 0)
    facts = {}
    for kind, n in shape.mix.items():
        each = f", {n / trades:.1f} a trade" if trades and kind != "trade" else ""
        facts[kind] = f"{n} ({n / shape.events:.1%}{each})"
    if spread := shape.spread:
        tick = round(float(of.tick) * 10.0**-of.price_exp) if of.tick else 0
        scale, unit = (tick, " ticks") if tick else (10.0**-of.price_exp, "")
        numbers = ", ".join(f"{value / scale:g}" for value in (spread.p5, spread.median, spread.p95))
        facts["spread p5, 50, 95"] = f"{numbers}{unit}"
        facts["spread, mean"] = f"{spread.mean / scale:.2f}{unit}, {spread.bps:.2f} bps"
    else:
        facts["spread"] = "no quotes"
    return facts


def sparkline(shape: Shape) -> str:
    """Messages over the day, a block for an equal part of it, with the first and last minute and the peak's rate."""
    minutes = shape.minutes
    n = min(_WIDE, len(minutes))
    edges = [len(minutes) * k // n for k in range(n + 1)]
    means = [sum(minutes[a:b]) / (b - a) for a, b in pairwise(edges)]
    peak = max(means)
    blocks = "".join(_BLOCKS[round(mean / peak * (len(_BLOCKS) - 1))] for mean in means)
    first, last = (
        datetime.fromtimestamp((shape.first_minute_ns + minute * 60 * 10**9) / 1e9, UTC).strftime("%H:%M")
        for minute in (0, len(minutes))
    )
    return f"{first} {blocks} {last} UTC, full height {peak / 60:.1f} messages a second"


def histogram(bins: BinShape) -> str:
    """How many bins have how many messages, by powers of two; bars are logarithmic, a block more is twice as many."""
    totals: dict[int, int] = {}
    for count, n in bins.counts:
        totals[count.bit_length()] = totals.get(count.bit_length(), 0) + n
    lines = [f"bins of {bins.width_ms} ms by number of messages (each block doubles)"]
    for power in range(max(totals) + 1):
        low, high = (1 << power) >> 1, (1 << power) - 1
        n = totals.get(power, 0)
        label = str(low) if low >= high else f"{low}-{high}"
        lines.append(f"{label:>11} {'█' * n.bit_length()} {n}")
    return "\n".join(lines)
