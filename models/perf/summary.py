"""Figures of repeated runs: the middle one and the spread, so that one lucky run does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

_DIGITS = 6  # significant ones; the rest is noise


class Summary(msgspec.Struct, frozen=True):
    """One metric over all runs.

    Attributes:
        unit: of all its numbers.
        values: one a run, in the order of the runs.
    """

    median: float
    min: float
    max: float
    unit: str
    values: tuple[float, ...]


class Report(msgspec.Struct, frozen=True):
    """What a scenario measured; the JSON object that `bench NAME --json` prints.

    Attributes:
        scenario: its name.
        parameters: what it was asked to do; figures of other parameters do not compare.
        machine: facts of the machine and of the versions that ran on it.
        commit: of this code, `-dirty` behind it when files differ from it; `unknown` outside a checkout.
        runs: how many values each metric has.
    """

    scenario: str
    parameters: dict[str, int | float | str]
    machine: dict[str, object]
    commit: str
    runs: int
    metrics: dict[str, Summary]


def summarise(values: Sequence[float], unit: str) -> Summary:
    """Median, smallest and largest. Raises: ValueError without a value."""
    if not values:
        raise ValueError("a metric without a value has no median")
    shown = [_rounded(value) for value in values]
    return Summary(_rounded(median(values)), min(shown), max(shown), unit, tuple(shown))


def summarise_runs(runs: Sequence[Mapping[str, float]], units: Mapping[str, str]) -> dict[str, Summary]:
    """Summaries by metric name, in the order of `units`; a metric that no run has is left out.

    Raises:
        ValueError: a run names a metric without a unit, or lacks one that another run has.
    """
    names = set().union(*runs)
    if unknown := names - units.keys():
        raise ValueError(f"metrics without a unit: {', '.join(sorted(unknown))}")
    if lacking := {name for name in names for run in runs if name not in run}:
        raise ValueError(f"metrics that not every run has: {', '.join(sorted(lacking))}")
    return {name: summarise([run[name] for run in runs], unit) for name, unit in units.items() if name in names}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
