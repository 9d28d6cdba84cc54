"""The worker's RocksDB as a tier: what it says while the worker writes, recovers, moves away or was never here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.cache.coherence import PartitionView
from models.cache.entry import StoredEntry, encode_entry
from models.cache.keys import Location, locate
from models.cache.version import NOTHING
from models.errors import ServiceUnavailable
from models.market import pages
from streams.cache.held import Held
from streams.cache.rocks import store_path
from streams.cache.rocks_tier import RocksTier
from streams.cache.tier import opened
from streams.kafka.disk import REWRITE, UNFINISHED
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.stores import WorkerStore, worker_stores

DEADLINE_S = 60.0
X = encode_entry(5, StoredEntry(None, ("vip",), b"\xa1x"))


def place(text: str) -> Location:
    return locate(text, prefix="", n_partitions=4)


PARTITION = place("s:1").partition


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings()
    reader = replace(settings.reader, disk_follow_s=0.01)
    return replace(settings, worker=replace(settings.worker, data_dir=str(tmp_path)), reader=reader)


@pytest.fixture
def stores(settings: Settings) -> Iterator[dict[int, WorkerStore]]:
    with worker_stores(settings) as stores:
        stores[PARTITION].barrier(9, {"s:1": X})
        yield stores


@pytest.fixture
async def tier(settings: Settings, stores: dict[int, WorkerStore]) -> AsyncIterator[RocksTier]:
    async with opened(RocksTier(settings)) as tier:
        yield tier


@pytest.fixture
def view() -> PartitionView:
    view = PartitionView(8)
    view.hear(NOTHING, 9)
    return view


async def test_it_follows_the_worker_by_itself(
    tier: RocksTier, stores: dict[int, WorkerStore], view: PartitionView, wait_until: WaitUntil
) -> None:
    held = await tier.read(place("s:1"), view)
    assert held is not None
    assert (held.version, held.as_of, held.value) == (5, 9, "x")
    stores[PARTITION].barrier(12, {"s:1": None})

    async def gone() -> bool:
        held = await tier.read(place("s:1"), view)
        return held is not None and (held.version, held.as_of) == (NOTHING, 12)

    await wait_until(gone, DEADLINE_S, "the barrier")


async def test_a_reader_that_has_heard_nothing_does_not_believe_it(tier: RocksTier) -> None:
    assert await tier.read(place("s:1"), PartitionView(8)) is None


@pytest.mark.parametrize("sign", [REWRITE, UNFINISHED])
async def test_a_store_that_is_not_whole_says_nothing(
    tier: RocksTier, stores: dict[int, WorkerStore], view: PartitionView, sign: bytes
) -> None:
    """In a recovery pages go and come in the changelog's order, and the control page is ahead of some."""
    stores[PARTITION].db.put(sign, b"")
    tier.catch_up(PARTITION)
    assert await tier.read(place("s:1"), view) is None
    with pytest.raises(ServiceUnavailable):
        await tier.load_floors(PARTITION, view)
    stores[PARTITION].db.delete(sign)
    tier.catch_up(PARTITION)
    assert await tier.read(place("s:1"), view) is not None


async def test_floors_on_the_disk_count_although_nobody_announced_them_yet(
    tier: RocksTier, stores: dict[int, WorkerStore], view: PartitionView
) -> None:
    stores[PARTITION].barrier(12, floors={"t:vip": 7})
    tier.catch_up(PARTITION)
    held = await tier.read(place("s:1"), view)
    assert held is not None
    assert (held.version, held.as_of) == (NOTHING, 12)
    fresh = PartitionView(8)
    assert await tier.load_floors(PARTITION, fresh) == 12
    assert not fresh.groups.exists(5, "s", ["vip"])


async def test_a_store_without_a_barrier_yet_has_no_floors_and_no_answers(
    settings: Settings, stores: dict[int, WorkerStore], view: PartitionView
) -> None:
    stores[PARTITION].db.delete(pages.CONTROL)
    async with opened(RocksTier(settings)) as tier:
        assert await tier.load_floors(PARTITION, view) == NOTHING
        assert await tier.read(place("s:1"), view) is None


async def test_a_store_that_was_set_aside_is_let_go_and_its_follower_is_found(
    tier: RocksTier, settings: Settings, stores: dict[int, WorkerStore], view: PartitionView, wait_until: WaitUntil
) -> None:
    stores[PARTITION].close()
    path = store_path(settings, PARTITION)
    path.rename(path.with_suffix(".damaged"))

    async def quiet() -> bool:
        return await tier.read(place("s:1"), view) is None

    await wait_until(quiet, DEADLINE_S, "the end of the old store")
    stores[PARTITION] = follower = WorkerStore(settings, PARTITION)
    follower.barrier(20, {"s:1": X})

    async def found() -> bool:
        held = await tier.read(place("s:1"), view)
        return held is not None and held.as_of == 20

    await wait_until(found, DEADLINE_S, "the new store")
    follower.close()


async def test_a_store_that_was_replaced_at_once_is_not_mixed_with_the_old_one(
    tier: RocksTier, settings: Settings, stores: dict[int, WorkerStore], view: PartitionView
) -> None:
    stores[PARTITION].close()
    path = store_path(settings, PARTITION)
    path.rename(path.with_suffix(".damaged"))
    stores[PARTITION] = follower = WorkerStore(settings, PARTITION)
    follower.barrier(20, {"s:2": X})
    tier.catch_up(PARTITION)
    assert await tier.read(place("s:1"), view) is None
    tier.catch_up(PARTITION, seek=True)
    held = await tier.read(place("s:1"), view)
    assert held is not None
    assert (held.version, held.as_of) == (NOTHING, 20)
    follower.close()


async def test_without_a_worker_it_is_down_until_one_is_here(
    settings: Settings, view: PartitionView, wait_until: WaitUntil
) -> None:
    async with opened(RocksTier(settings)) as tier:
        assert await tier.read(place("s:1"), view) is None
        with pytest.raises(ServiceUnavailable, match="no worker's store"):
            await tier.probe()
        with worker_stores(settings) as stores:
            stores[PARTITION].barrier(9, {"s:1": X})

            async def there() -> Held | None:
                return await tier.read(place("s:1"), view)

            assert (await wait_until(there, DEADLINE_S, "the store")).version == 5
            await tier.probe()


async def test_a_damaged_control_page_says_nothing_and_harms_nobody(
    tier: RocksTier, stores: dict[int, WorkerStore], view: PartitionView
) -> None:
    stores[PARTITION].db.put(pages.CONTROL, pages.with_token(1, b"\xc1"))
    tier.catch_up(PARTITION)
    assert await tier.read(place("s:1"), view) is None
    other = next(text for text in (f"s:{n}" for n in range(99)) if place(text).partition != PARTITION)
    assert await tier.read(place(other), view) is not None
