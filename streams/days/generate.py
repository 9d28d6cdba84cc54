"""`day generate`: a synthetic day, and beside it `labels.json`, which says where anomalies were planted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from models.days.anomalies import Label
from models.days.recipe import Recipe
from models.days.synthetic import SyntheticDay
from models.errors import CorruptDay
from streams.days.day import Day
from streams.days.manifest import Origin
from streams.days.writer import DayWriter

LABELS = "labels.json"
Progress = Callable[[int, int], None]  # arrivals played, in all


def generate_day(path: str | Path, recipe: Recipe, *, name: str | None = None, progress: Progress | None = None) -> Day:
    """Write the day of this recipe at `path`; the same recipe gives the same bytes with the same versions.

    Raises:
        InvalidRecipe: too few events for so many symbols.
        FileExistsError: there is something at `path`.
    """
    day = SyntheticDay(recipe)
    name = name or f"generated-{recipe.venue_kind}-{recipe.seed}"
    origin = Origin(generator="synthetic", seed=recipe.seed, recipe=recipe)
    with DayWriter(path, name=name, origin=origin) as writer:
        for rows in day.batches():
            writer.append(rows)
            if progress:
                progress(day.done, day.total)
        if recipe.anomalies:
            labels = msgspec.json.format(msgspec.json.encode(day.labels()), indent=1) + b"\n"
            writer.beside(LABELS).write_bytes(labels)
        return writer.finish(day.instruments)


def read_labels(day: Day) -> list[Label]:
    """What was planted into a day, in order of time; nothing if it has no labels.

    Raises:
        CorruptDay: the file of labels is not one.
    """
    path = day.path / LABELS
    if not any(entry.name == LABELS for entry in day.manifest.files):
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Label])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CorruptDay(f"{path}: not the labels of a day: {exc}") from exc


def session_start_ns(kind: str, of: date) -> int:
    """When a day of this kind begins, ns UTC: 09:30 in New York for equities, midnight UTC for crypto."""
    if kind == "equity":
        start = datetime(of.year, of.month, of.day, 9, 30, tzinfo=ZoneInfo("America/New_York"))
    else:
        start = datetime(of.year, of.month, of.day, tzinfo=UTC)
    return int(start.timestamp()) * 10**9
