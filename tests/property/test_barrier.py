"""The order of a barrier: changelog, control page, RocksDB with its offset, commit; a crash may fall between any two.

Each other order has to be seen going wrong, or nothing says why it is this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.market import pages
from models.market.pages import Record
from tests.property.test_partition import (
    TOKEN,
    CrashingWorker,
    control_first,
    differences,
    logs,
    without_page_versions,
    without_positions,
)

BATCH = 3  # records of one RocksDB batch: small, so that crashes fall between batches


@dataclass(frozen=True)
class Append:
    """One unit of a flush is acknowledged by the changelog."""

    unit: list[Record]


@dataclass(frozen=True)
class Store:
    """One batch is in RocksDB, with the changelog's offset if it is the last."""

    records: list[Record]
    with_offset: bool = False


@dataclass(frozen=True)
class Commit:
    """Kafka has the group's offsets."""


Step = Append | Store | Commit
Steps = Callable[[list[list[Record]]], list[Step]]


def right(units: list[list[Record]]) -> list[Step]:
    return [*appends(units), *stores(units), Commit()]


def appends(units: list[list[Record]]) -> list[Step]:
    return [Append(unit) for unit in units]


def stores(units: list[list[Record]]) -> list[Step]:
    records = [record for unit in units for record in unit]
    return [
        Store(records[at : at + BATCH], with_offset=at + BATCH >= len(records)) for at in range(0, len(records), BATCH)
    ]


def commit_before_the_changelog(units: list[list[Record]]) -> list[Step]:
    return [Commit(), *appends(units), *stores(units)]


def commit_before_the_control_page(units: list[list[Record]]) -> list[Step]:
    return [*appends(units[:-1]), Commit(), *appends(units[-1:]), *stores(units)]


def disk_before_the_changelog(units: list[list[Record]]) -> list[Step]:
    return [*stores(units), *appends(units), Commit()]


def offset_before_the_pages(units: list[list[Record]]) -> list[Step]:
    return [*appends(units), Store([], with_offset=True), *stores(units), Commit()]


@dataclass
class DiskedWorker(CrashingWorker):
    """A worker with a changelog that only grows, a disk that a crash spares or not, and committed offsets.

    The inherited dict is the disk.
    """

    steps: Steps = right
    log: list[Record] = field(default_factory=list)
    disk_offset: int = -1
    committed: tuple[int, int] = (0, 0)
    n_torn_disks: int = 0
    n_lost_disks: int = 0

    def barrier(self, n_units: int | None = None) -> bool:
        at = self.next_frame, self.next_write
        steps = self.steps(self.order(self.owned.flush()))
        n_done = len(steps) if n_units is None else self.random.choice([n_units, self.random.randrange(len(steps))])
        done = steps[:n_done]
        for step in done:
            match step:
                case Append(unit):
                    self.log += [(k, None if body is None else pages.with_token(TOKEN, body)) for k, body in unit]
                case Store(records, with_offset):
                    for key, body in records:
                        self.put(key, None if body is None else pages.with_token(TOKEN, body))
                    if with_offset:
                        self.disk_offset = len(self.log) - 1
                case Commit():
                    self.committed = at
        self.n_torn_disks += any(isinstance(step, Store) for step in done) and any(
            isinstance(step, Store) for step in steps[len(done) :]
        )
        if whole := len(done) == len(steps):
            self.owned.market.books.release_dropped()
            self.owned.entries.saved()
        return whole

    def put(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.changelog.pop(key, None)
        else:
            self.changelog[key] = value

    def recover(self) -> None:
        if self.random.random() < 0.3:
            self.n_lost_disks += 1
            self.changelog.clear()
            self.disk_offset = -1
        for key, value in self.log[self.disk_offset + 1 :]:
            self.put(key, value)
        self.disk_offset = len(self.log) - 1

    def committed_or_earlier(self) -> tuple[int, int]:
        return self.committed


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_a_crash_between_any_two_steps_ends_in_the_state_of_a_worker_that_never_crashed(seed: int) -> None:
    assert differences(seed, DiskedWorker) == []


@pytest.mark.parametrize(
    "variant",
    [
        {"steps": commit_before_the_changelog},
        {"steps": commit_before_the_control_page},
        {"steps": disk_before_the_changelog},
        {"steps": offset_before_the_pages},
        {"order": control_first},
        {"read": without_page_versions},
        {"read": without_positions},
    ],
    ids=lambda variant: next(iter(variant.values())).__name__,
)
def test_state_goes_wrong_in_every_other_order(variant: dict[str, Callable[..., object]]) -> None:
    assert any(differences(seed, DiskedWorker, **variant) for seed in range(200))


def test_crashes_of_the_property_tear_disks_and_lose_them() -> None:
    workers = [DiskedWorker(**logs(seed), random=Random(seed)) for seed in range(40)]
    for worker in workers:
        worker.run()
    assert sum(worker.n_torn_disks for worker in workers) > 10
    assert sum(worker.n_lost_disks for worker in workers) > 10
