"""The line that a replay draws while it runs: share, rate, lag, time to go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from streams.days.progress import Progress


@contextmanager
def replay_bar(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr, fed with each progress; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("Replaying"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    with Bar(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("replay", total=1.0, note="")
        yield lambda progress: bar.update(task, completed=progress.share, note=told(progress))


def told(progress: Progress) -> str:
    """`1,234,567 rows  50,000/s  lag 0.4 ms  0:01:12 to go`."""
    left = "" if progress.left_s is None else f"  {timedelta(seconds=round(progress.left_s))} to go"
    return f"{progress.sent:,} rows  {progress.rows_per_s:,.0f}/s  lag {progress.lag_ms:.1f} ms{left}"
