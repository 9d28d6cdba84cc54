"""`TieredCache` over real tiers that misbehave: which is asked, what is believed, what is kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.cache.coherence import PartitionView
from models.cache.entry import StoredEntry, encode_entry
from models.cache.keys import Location, Space, locate
from models.cache.version import NOTHING
from models.errors import MarketPrismError, ServiceUnavailable, TooStale
from streams.cache.disk_tier import DiskTier
from streams.cache.held import Held
from streams.cache.memory import Memory
from streams.cache.memory_tier import MemoryTier
from streams.cache.recent import RecentRows
from streams.cache.rocks_tier import RocksTier
from streams.cache.tier import Answer, Asked, OwnTier, Tier, Wrapper
from streams.cache.tiered import Found, TieredCache
from streams.settings import Settings
from streams.testing.chaos import Chaos, ChaosTier
from tests.conftest import WaitUntil
from tests.stores import WorkerStore, worker_stores

DEADLINE_S = 60.0
N_PARTITIONS = 2


class World:
    """A worker's stores, read by tiers that misbehave when they are told to; what it announces is heard in order.

    Attributes:
        near, far: log tiers over the same stores.
        disk: the reader's own.
    """

    def __init__(self, settings: Settings, stores: dict[int, WorkerStore]) -> None:
        self.settings, self.stores = settings, stores
        self.views = {(space, p): PartitionView(64) for space in Space for p in range(N_PARTITIONS)}
        for view in self.views.values():
            view.hear(NOTHING, 0)
        self.near, self.far = ChaosTier(RocksTier(settings)), ChaosTier(RocksTier(settings))
        self.near.name, self.far.name = "near", "far"
        self.disk = ChaosTier(DiskTier(settings, self.views))
        self.memory = MemoryTier(Memory(1 << 20))
        self.versions = dict.fromkeys(range(N_PARTITIONS), 0)
        self.unheard: dict[int, list[tuple[str, int]]] = {p: [] for p in range(N_PARTITIONS)}

    def place(self, text: str) -> Location:
        return locate(text, prefix="", n_partitions=N_PARTITIONS)

    def cache(self, *tiers: ChaosTier, max_wait_s: float = 0.0) -> TieredCache:
        return TieredCache(self.views, self.memory, tiers, max_wait_s=max_wait_s, age_ms=lambda held: None)

    def write(self, text: str, value: Any, *, heard: bool = True) -> int:
        """The worker's next version of a key (None deletes it), on its disk, and heard of or not."""
        partition = self.place(text).partition
        self.versions[partition] = version = self.versions[partition] + 1
        data = None if value is None else encode_entry(version, StoredEntry(None, (), msgspec.msgpack.encode(value)))
        self.stores[partition].barrier(version, {text: data})
        for tier in (self.near.inner, self.far.inner):
            tier.catch_up(partition)  # type: ignore[attr-defined]
        self.unheard[partition].append((text, version))
        if heard:
            for announced in self.unheard[partition]:
                self.hear(*announced)
            self.unheard[partition].clear()
        return version

    def hear(self, text: str, version: int) -> None:
        view = self.views[Space.GENERIC, self.place(text).partition]
        view.hear(view.position, version)
        view.floors.note(text, version)
        held = self.memory.memory.get(text)
        if held is not None and held.as_of < version:
            self.memory.drop(text)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    settings = Settings()
    settings = replace(
        settings,
        kafka=replace(settings.kafka, partitions=N_PARTITIONS),
        worker=replace(settings.worker, data_dir=str(tmp_path / "worker")),
        reader=replace(settings.reader, disk_dir=str(tmp_path / "reader")),
    )
    with worker_stores(settings) as stores:
        yield World(settings, stores)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def value(found: Found) -> Any:
    return shown(found.held)


def shown(held: Held) -> Any:
    return msgspec.msgpack.decode(held.packed) if held.packed else held.value


async def test_the_first_answer_that_is_new_enough_wins(world: World, stack: AsyncExitStack) -> None:
    cache = await stack.enter_async_context(world.cache(world.near, world.far))
    world.write("s:1", "old")
    assert (await cache.read(world.place("s:1"))).tier == "near"
    world.near.plan = Chaos(stale=1.0)
    world.write("s:1", "new")
    found = await cache.read(world.place("s:1"))
    assert (value(found), found.tier) == ("new", "far")


async def test_answers_that_are_not_new_enough_are_waited_for_and_then_refused(
    world: World, stack: AsyncExitStack
) -> None:
    cache = await stack.enter_async_context(world.cache(world.near, max_wait_s=0.05))
    version = world.write("s:1", "old")
    world.hear("s:1", version + 1)  # the worker's disk does not have it yet
    with pytest.raises(TooStale, match=f"mark {version} .* below {version + 1}"):
        await cache.read(world.place("s:1"))


async def test_a_tier_that_is_down_is_left_alone_until_a_probe_finds_it_well(
    world: World, stack: AsyncExitStack, wait_until: WaitUntil
) -> None:
    cache = await stack.enter_async_context(world.cache(world.near, world.far))
    world.write("s:1", "x")
    world.near.down = True
    for _ in range(3):
        assert (await cache.read(world.place("s:1"))).tier == "far"
    assert cache.order == ["far"]
    reads = asyncio.gather(*(cache.read(world.place("s:1")) for _ in range(500)))
    calls = world.near.calls
    assert {found.tier for found in await reads} == {"far"}
    assert world.near.calls - calls <= 1  # a probe may have come
    world.near.down = False
    await wait_until(lambda: "near" in cache.order, DEADLINE_S, "a probe")


async def test_when_every_tier_is_down_a_read_says_so_at_once(world: World, stack: AsyncExitStack) -> None:
    cache = await stack.enter_async_context(world.cache(world.near, world.disk, max_wait_s=60.0))
    world.near.down = world.disk.down = True
    for _ in range(10):
        with pytest.raises(ServiceUnavailable, match="chaos"):
            await cache.read(world.place("s:1"))
    calls = world.near.calls
    with pytest.raises(ServiceUnavailable, match="in the background"):
        await cache.read(world.place("s:1"))
    assert world.near.calls - calls <= 1


async def test_tiers_are_asked_in_the_order_of_what_they_cost_and_one_that_becomes_cheap_is_found(
    world: World, stack: AsyncExitStack, wait_until: WaitUntil
) -> None:
    cache = await stack.enter_async_context(world.cache(world.near, world.far))
    world.write("s:1", "x")
    world.near.plan = Chaos(lags=1.0, lag_s=0.01)

    async def first(name: str) -> bool:
        await cache.read(world.place("s:1"))
        return cache.order[0] == name

    await wait_until(lambda: first("far"), DEADLINE_S, "the cheaper tier first")
    world.near.plan, world.far.plan = Chaos(), Chaos(lags=1.0, lag_s=0.01)
    await wait_until(lambda: first("near"), DEADLINE_S, "the tier that became cheap")


async def test_an_answer_is_kept_in_memory_and_in_the_own_tiers(world: World, stack: AsyncExitStack) -> None:
    cache = await stack.enter_async_context(world.cache(world.near, world.disk))
    world.write("s:1", "x")
    await cache.read(world.place("s:1"))
    assert world.memory.memory.get("s:1") is not None
    world.near.down = True
    assert (await cache.read(world.place("s:1"))).tier == "disk"


async def test_a_slow_answer_does_not_replace_a_newer_one(world: World, stack: AsyncExitStack) -> None:
    cache = await stack.enter_async_context(world.cache(world.near, world.disk))
    world.write("s:1", "old")
    await cache.read(world.place("s:1"))
    world.write("s:1", "new", heard=False)
    assert value(await cache.read(world.place("s:1"))) == "new"
    world.near.plan = Chaos(stale=1.0)
    for _ in range(20):
        with_floor = await cache.read(world.place("s:1"))
        assert value(with_floor) == "new" or with_floor.held.as_of < 2
    kept = world.memory.memory.get("s:1")
    assert kept is not None
    assert shown(kept) == "new"


async def test_what_was_deleted_while_an_own_tier_was_down_does_not_come_back(
    world: World, stack: AsyncExitStack
) -> None:
    cache = await stack.enter_async_context(world.cache(world.disk, world.near))
    world.write("s:1", "x")
    assert value(await cache.read(world.place("s:1"))) == "x"
    world.disk.down = True
    world.write("s:1", None)
    assert (await cache.read(world.place("s:1"))).held.version == NOTHING
    world.disk.down = False
    world.memory.drop("s:1")
    found = await cache.read(world.place("s:1"))
    assert (found.held.version, found.tier) == (NOTHING, "near")
    world.near.down = True
    results = await cache.read_many([world.place("s:1")])
    assert isinstance(results[0], MarketPrismError) or results[0].held.version == NOTHING


async def test_results_of_many_keys_keep_their_order_when_some_fail(world: World, stack: AsyncExitStack) -> None:
    cache = await stack.enter_async_context(world.cache(world.near))
    places = [world.place(f"s:{n}") for n in range(200)]
    for n in range(0, 200, 2):
        world.write(f"s:{n}", n)
    world.near.plan = Chaos(throws=0.3)
    results = await cache.read_many(places)
    failed = [result for result in results if isinstance(result, MarketPrismError)]
    assert 20 < len(failed) < 120
    for n, result in enumerate(results):
        if isinstance(result, Found):
            assert result.held.at is places[n]
            assert (value(result) if n % 2 == 0 else result.held.version) == (n if n % 2 == 0 else NOTHING)


class Meanwhile(Wrapper):
    """While it is asked, the reader hears of a row."""

    def __init__(self, inner: Tier, recent: RecentRows, row: bytes) -> None:
        super().__init__(inner)
        self.recent, self.row = recent, row

    async def read_many(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        answers: Sequence[Answer] = await self.inner.read_many(asked)
        for at, view in asked:
            view.hear(view.position, 7)
            view.floors.note(at.floor, 7)
            self.recent.note(at.floor, 7, self.row)
        return answers


async def test_a_row_that_is_heard_while_the_tiers_are_asked_is_the_answer_without_a_wait(
    world: World, stack: AsyncExitStack
) -> None:
    recent, at = RecentRows(4), world.place("md:binance.spot.BTC-USDT:quote")
    row = bytes(66) + bytes([at.key.facet]) + bytes(5)
    tier = Meanwhile(world.near, recent, row)
    cache = TieredCache(world.views, world.memory, [tier], max_wait_s=0.0, age_ms=lambda held: None, recent=recent)
    await stack.enter_async_context(cache)
    (found,) = await cache.read_many([at])
    assert isinstance(found, Found)
    assert (found.tier, found.held.row) == ("stream", row)


class Stubborn(Wrapper):
    """Its probe takes a cancellation for a failure of the tier."""

    def __init__(self, inner: Tier) -> None:
        super().__init__(inner)
        self.probing = asyncio.Event()

    async def probe(self) -> None:
        self.probing.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ServiceUnavailable("cancelled") from None


async def test_closing_ends_also_when_a_probe_swallows_its_cancellation(world: World) -> None:
    tier = Stubborn(world.near)
    async with asyncio.timeout(DEADLINE_S), world.cache(tier):  # type: ignore[arg-type]
        await tier.probing.wait()


async def test_the_very_tier_is_found_under_its_name_with_its_own_methods(world: World, stack: AsyncExitStack) -> None:
    cache = await stack.enter_async_context(world.cache(world.disk, world.near))
    tier: Any = cache["disk"]
    assert tier is world.disk
    await tier.sweep()  # DiskTier's own, through the wrapper
    assert not hasattr(world.near, "keep")
    with pytest.raises(KeyError):
        cache["tape"]


@pytest.mark.parametrize("seed", range(8))
async def test_in_a_storm_no_reader_goes_back_or_below_what_it_heard(
    world: World, stack: AsyncExitStack, seed: int
) -> None:
    rng = random.Random(seed)
    storm = Chaos(throws=0.1, lags=0.05, lag_s=0.0, forgets=0.1, stale=0.3)
    for tier in (world.near, world.far, world.disk):
        tier.plan = storm
    cache = await stack.enter_async_context(world.cache(world.disk, world.near, world.far))
    texts = [f"s:{n}" for n in range(6)]
    truth: dict[str, list[tuple[int, Any]]] = {text: [(0, None)] for text in texts}
    given = dict.fromkeys(texts, NOTHING)
    n_answers = 0
    for step in range(400):
        text = rng.choice(texts)
        if rng.random() < 0.3:
            content = None if rng.random() < 0.2 else step
            truth[text].append((world.write(text, content, heard=rng.random() < 0.8), content))
            continue
        floor = world.views[Space.GENERIC, world.place(text).partition].floors.floor(text)
        try:
            found = await cache.read(world.place(text))
        except (ServiceUnavailable, TooStale):
            continue
        n_answers += 1
        held = found.held
        assert held.as_of >= floor
        version, content = next((v, c) for v, c in reversed(truth[text]) if v <= held.as_of)
        assert version >= given[text]
        given[text] = version
        assert (None if held.version == NOTHING else value(found)) == content
        assert held.version in (version, NOTHING)
    assert n_answers > 60


def test_memory_has_the_face_of_an_own_tier() -> None:
    tier: OwnTier = MemoryTier(Memory(1 << 16))
    assert tier.resume_at() is None
