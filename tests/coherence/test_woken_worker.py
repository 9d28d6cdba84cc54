"""A worker is frozen between loading its pages and asking where to read on, and wakes when Redis knows nobody.

The broker tells it how far its successor has come; Redis, which lost the successor's token, takes what it writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from models.cache.version import offset_of
from streams.kafka.ownership import Ownership
from tests.coherence import sim_worker
from tests.coherence.faults import Faults
from tests.coherence.network import current
from tests.coherence.simulation import simulate

SEEDS = range(4)


@pytest.fixture(autouse=True)
def frozen_then_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one fault of each run."""
    assign = Ownership.assign

    async def freeze_first_owner(self: Ownership, numbers: Iterable[int]) -> None:
        await assign(self, numbers)
        if all(offset_of(owned.token) == 0 for owned in self.partitions.values()):
            current.get().freeze()

    async def strike(self: Faults) -> None:
        woken = self.serving
        while not woken.frozen:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)
        self.serving = next(worker for worker in self.workers if worker is not woken)
        self.serving.start()
        await asyncio.sleep(1.0)
        assert all(offset > 0 for offset in self.serving.group.committed.values())
        self.serving.freeze()  # else it would see at once that Redis is empty
        self.redis.model.lose_all()
        woken.thaw()
        await asyncio.sleep(0.5)
        self.serving.thaw()
        await asyncio.sleep(0.5)
        self.struck["frozen_between_pages_and_offsets"] += 1

    monkeypatch.setattr(Ownership, "assign", freeze_first_owner)
    monkeypatch.setattr(Faults, "strike_all", strike)


def test_it_passes_over_nothing() -> None:
    for seed in SEEDS:
        outcome = simulate(seed)
        assert outcome.violations == []
        assert outcome.n_answers > 30


def test_reading_on_where_the_group_is_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_worker, "to_go_back", lambda committed, needed: {})
    assert any(simulate(seed).violations for seed in SEEDS)
