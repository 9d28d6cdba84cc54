"""`marketprism simulate`: what each eviction policy would have made of a recorded sequence of requests."""

from __future__ import annotations

from pathlib import Path

import click

from agents.cli.output import echo_json, json_option, print_table
from agents.cli.progress import progress_bar
from models.cache.simulate import BELADY, POLICIES, simulate
from streams.cache.trace import FORMS, read_trace

_TTL_CAPACITIES = 10


class _Entries(click.ParamType):
    """A number of entries, or a share of the trace's different keys; the latter is given as a ratio."""

    name = "N|P%"

    def convert(
        self, value: str | int | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | float:
        text = str(value)
        try:
            entries = float(text[:-1]) / 100 if text.endswith("%") else int(text)
        except ValueError:
            entries = 0
        if not 0 < entries < float("inf") or (text.endswith("%") and entries > 1):
            self.fail(f"{value!r} is neither a number of entries above 0 nor a share such as 10%", param, ctx)
        return entries


@click.command("simulate")
@click.argument("path", metavar="TRACE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", required=True, type=click.Choice(list(FORMS)), help="Form of the trace.")
@click.option(
    "--policy",
    "names",
    multiple=True,
    default=["all"],
    show_default=True,
    type=click.Choice(["all", *POLICIES]),
    help="Which; may be repeated.",
)
@click.option("--capacity", required=True, type=_Entries(), help="Entries, or a share of the trace's different keys.")
@click.option("--limit", type=click.IntRange(min=1), help="Take only so many requests from the start.")
@click.option(
    "--ttl",
    "ttl_requests",
    type=click.IntRange(min=1),
    help=f"Life of an entry under the policy ttl, in requests.  [default: {_TTL_CAPACITIES} x capacity]",
)
@json_option
def simulate_command(
    path: Path,
    form: str,
    names: tuple[str, ...],
    capacity: int | float,
    limit: int | None,
    ttl_requests: int | None,
    as_json: bool,
) -> None:
    """Hit ratio of eviction policies on a trace, beside that of Belady's optimum, which knows the future.

    \b
    Examples:
      marketprism simulate web07.trace.xz --format cache2k --policy all --capacity 10%
      marketprism simulate keys.txt --format keys --policy s3fifo --policy adaptive --capacity 50000 --json
    """
    with progress_bar("Reading", quiet=as_json) as progress:
        trace = read_trace(path, form, limit=limit, progress=progress)
    entries = capacity if isinstance(capacity, int) else max(1, int(trace.unique * capacity))
    chosen = [name for name in POLICIES if name in names or "all" in names]
    wanted = chosen if as_json or BELADY in chosen else [BELADY, *chosen]  # the table says % of the optimum
    n_requests = len(trace.keys)
    stats = {}
    with progress_bar("Simulating", quiet=as_json) as progress:
        done = 0

        def heard(n: int) -> None:
            nonlocal done
            done += n
            progress(done, n_requests * len(wanted))

        for name in wanted:
            ttl = ttl_requests or _TTL_CAPACITIES * entries
            stats[name] = simulate(name, trace.keys, entries, ttl_requests=ttl, heard=heard)
    if as_json:
        echo_json(
            {
                "trace": trace.name,
                "requests": n_requests,
                "unique": trace.unique,
                "capacity": entries,
                "hit_ratio": {name: stats[name].hit_ratio for name in chosen},
            }
        )
        return
    best = stats[BELADY]
    print_table(
        f"{trace.name}: {n_requests:,} requests, {trace.unique:,} keys, capacity {entries:,}",
        ["policy", "#hit ratio %", "#% of Belady"],
        [(name, f"{100 * s.hit_ratio:.2f}", f"{100 * s.part_of(best):.1f}") for name, s in stats.items()],
    )
