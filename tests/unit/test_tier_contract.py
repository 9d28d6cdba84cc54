"""The contract of tiers on those that need no service: memory, a disk of the reader's own, the worker's RocksDB."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.cache.coherence import PartitionView
from models.cache.entry import StoredEntry, encode_entry
from models.cache.keys import Location, Space
from models.cache.version import NOTHING
from models.market import pages
from streams.cache.disk_store import entry_key
from streams.cache.disk_tier import DiskTier
from streams.cache.held import Held
from streams.cache.memory import Memory
from streams.cache.memory_tier import MemoryTier
from streams.cache.rocks_tier import RocksTier
from streams.cache.tier import Tier, opened
from streams.settings import Settings
from streams.testing.chaos import ChaosTier
from streams.testing.tier_contract import TierContract
from tests.stores import worker_stores

Views = dict[tuple[Space, int], PartitionView]


class TestMemory(TierContract):
    @pytest.fixture
    async def tier(self) -> AsyncIterator[Tier]:
        yield MemoryTier(Memory(1 << 16))


class TestDisk(TierContract):
    @pytest.fixture
    async def tier(self, tmp_path: Path, views: Views) -> AsyncIterator[Tier]:
        settings = Settings()
        reader = replace(settings.reader, disk_dir=str(tmp_path), disk_bytes=1 << 16)
        tier = DiskTier(replace(settings, reader=reader), views)
        async with opened(tier):
            yield tier

    async def spoil(self, tier: DiskTier, at: Location, data: bytes) -> None:  # type: ignore[override]
        tier._db.put(entry_key((at.key.space, at.partition), at.key.text), data)  # type: ignore[union-attr]


class TestTierInTurmoilThatDoesNothing(TestDisk):
    """A wrapper keeps the contract of what it wraps."""

    @pytest.fixture
    async def tier(self, tmp_path: Path, views: Views) -> AsyncIterator[Tier]:
        settings = Settings()
        reader = replace(settings.reader, disk_dir=str(tmp_path), disk_bytes=1 << 16)
        tier = ChaosTier(DiskTier(replace(settings, reader=reader), views))
        async with opened(tier):
            yield tier


class TestRocksDB(TierContract):
    refuses_older = False

    @pytest.fixture
    async def tier(self, tmp_path: Path) -> AsyncIterator[Tier]:
        settings = Settings()
        settings = replace(settings, worker=replace(settings.worker, data_dir=str(tmp_path)))
        with worker_stores(settings) as self.stores:
            async with opened(RocksTier(settings)) as tier:
                yield tier

    async def write(self, tier: RocksTier, held: Held) -> None:  # type: ignore[override]
        stored = StoredEntry(held.expires_at_ms, held.tags, held.packed)
        data = None if held.version == NOTHING else encode_entry(held.version, stored)
        self.stores[held.at.partition].barrier(held.as_of, {held.at.key.text: data})
        tier.catch_up(held.at.partition)

    async def spoil(self, tier: RocksTier, at: Location, data: bytes) -> None:  # type: ignore[override]
        self.stores[at.partition].db.put(pages.ENTRY + at.key.text.encode(), data)
        tier.catch_up(at.partition)
