"""The line that a replay draws while it runs: share, rate, lag, time to go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from streams.days.progress import Progress


class ReplayBar:
    """The line; called with each progress."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, progress: Progress) -> None:
        self._bar.update(self._task, completed=progress.share, note=told(progress))

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Out of the way while somebody is asked and types."""
        if self._bar.disable:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


@contextmanager
def replay_bar(*, quiet: bool) -> Iterator[ReplayBar]:
    """A bar on stderr, fed with each progress; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("Replaying"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    with Bar(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        yield ReplayBar(bar, bar.add_task("replay", total=1.0, note=""))


def told(progress: Progress) -> str:
    """`1,234,567 rows  50,000/s  lag 0.4 ms  0:01:12 to go`."""
    left = "" if progress.left_s is None else f"  {timedelta(seconds=round(progress.left_s))} to go"
    return f"{progress.sent:,} rows  {progress.rows_per_s:,.0f}/s  lag {progress.lag_ms:.1f} ms{left}"
