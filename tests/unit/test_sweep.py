"""The sweep: every entry comes up in its turn, what is over is told, a disk that was looked through has its rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.cache.entry import StoredEntry, encode_entry
from models.cache.write import CacheWrite
from models.market import pages
from streams.kafka import sweep
from streams.kafka.owned import OwnedPartition
from streams.kafka.sweep import find_over
from streams.kafka.table import PageTable
from streams.settings import Settings
from tests.stores import WorkerStore

N_ENTRIES = 10
GONE = {f"gone:{n}" for n in range(0, N_ENTRIES, 2)}
KEYS = GONE | {f"kept:{n}" for n in range(1, N_ENTRIES, 2)}


class Table:
    """`PageTable` over one store."""

    pages_from = PageTable.pages_from

    def __init__(self, store: WorkerStore) -> None:
        self.data = SimpleNamespace(db=lambda partition: store.db)


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Any]:
    settings = Settings()
    store = WorkerStore(replace(settings, worker=replace(settings.worker, data_dir=str(tmp_path))), 0)
    store.barrier(0, {key: encode_entry(0, StoredEntry(None, (), b"\x01")) for key in KEYS})
    store.db[pages.rows_key(1, 0)] = pages.with_token(1, b"another page behind them")
    store.db[b"__a note that is no page"] = b"7"
    yield Table(store)
    store.close()


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> OwnedPartition:
    """All of one namespace was cleared, and that is on disk."""
    monkeypatch.setattr(sweep, "LEAST", 4)
    owned = OwnedPartition(0, "")
    owned.entries.apply(CacheWrite("clear", namespace="gone"), version=1, append_ms=0)
    owned.flush()
    owned.entries.saved()
    return owned


async def over(table: Any, owned: OwnedPartition) -> list[str]:
    return [key for key, _ in await find_over(table, owned, lambda: True)]


async def test_each_barrier_looks_at_the_next_entries_and_a_whole_turn_finds_all_that_are_over(
    table: Any, owned: OwnedPartition
) -> None:
    stretches = [await over(table, owned) for _ in range(4)]
    assert [len(stretch) for stretch in stretches] == [4, 1, 0, 0]
    assert {key for stretch in stretches for key in stretch} == GONE
    assert owned.sweep.next_key == pages.ENTRY


async def test_more_writes_make_longer_stretches(table: Any, owned: OwnedPartition) -> None:
    for version in range(2, 6):
        owned.entries.apply(CacheWrite("put", f"new:{version}", b"\x01"), version=version, append_ms=0)
    assert set(await over(table, owned)) == GONE


async def test_a_turn_is_repeated_only_when_more_is_durable(table: Any, owned: OwnedPartition) -> None:
    found = [await over(table, owned) for _ in range(8)]
    assert sum(map(len, found)) == len(GONE), "one turn"
    owned.entries.apply(CacheWrite("clear", namespace="kept"), version=2, append_ms=0)
    owned.flush()
    assert await over(table, owned) == []
    owned.entries.saved()
    again = [await over(table, owned) for _ in range(8)]
    assert {key for stretch in again for key in stretch} == KEYS


async def test_notes_behind_all_pages_are_no_pages(table: Any) -> None:
    assert [key for key, _ in table.pages_from(0, pages.ROWS, 10, 1 << 20)] == [pages.rows_key(1, 0)]


async def test_a_partition_that_was_revoked_meanwhile_is_not_looked_at(owned: OwnedPartition) -> None:
    closed: Any = None
    assert await find_over(closed, owned, lambda: False) == []
