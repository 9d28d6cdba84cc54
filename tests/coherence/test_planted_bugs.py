"""The checker is worth what it finds: each bug of `bugs.py` is found within a few seeds."""

from __future__ import annotations

import pytest

from tests.coherence.bugs import PLANTS, RARE, Plant
from tests.coherence.simulation import NeverAtRest, simulate

N_SEEDS = 60
N_RARE_SEEDS = 800


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    find(plant, monkeypatch, N_SEEDS)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("plant", RARE, ids=lambda plant: plant.__name__)
def test_a_planted_bug_that_seldom_shows_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    find(plant, monkeypatch, N_RARE_SEEDS)


def find(plant: Plant, monkeypatch: pytest.MonkeyPatch, n_seeds: int) -> None:
    plant(monkeypatch)
    for seed in range(n_seeds):
        try:
            outcome = simulate(seed)
        except NeverAtRest:
            continue  # a bug may also hinder; that is not what is asked here
        if outcome.violations:
            print(f"{plant.__name__}: seed {seed}: {outcome.violations[0]}")
            return
    pytest.fail(f"{plant.__name__} went unnoticed in {n_seeds} seeds")
