"""The contract of tiers on a real Redis and on a real Redis Cluster of three nodes, and what only a cluster does."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import RedisCluster

from models.cache.coherence import PartitionView
from models.cache.entry import StoredEntry, encode_entry
from models.cache.keys import Location, Space, floors_key, locate, mark_key
from models.cache.mark import Mark, pack_mark
from models.cache.version import NOTHING, to_bytes
from models.errors import PartlyUnavailable, ServiceUnavailable
from streams.cache.batch import Answer, Batch, delete, put, put_until
from streams.cache.cluster import ClusterTier, connect_cluster
from streams.cache.connect import connect_redis
from streams.cache.held import Held
from streams.cache.memory import Memory
from streams.cache.memory_tier import MemoryTier
from streams.cache.redis import PartitionWriter
from streams.cache.tier import Tier, opened
from streams.cache.tiered import TieredCache
from streams.cache.tiers import redis_tier
from streams.services.ports import HOST
from streams.settings import Settings
from streams.testing.tier_contract import TierContract
from tests.clusters import Node, redis_cluster
from tests.conftest import WaitUntil

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


class TestRedis(TierContract):
    @pytest.fixture
    async def tier(self, settings: Settings) -> AsyncIterator[Tier]:
        self.prefix = settings.topics.prefix
        self.marks: dict[int, int] = defaultdict(lambda: NOTHING)
        async with aclosing(connect_redis(settings.redis)) as self.redis:
            self.writer = PartitionWriter(self.redis, url=settings.redis.url, prefix=self.prefix)
            async with opened(redis_tier(settings)) as tier:
                yield tier

    async def write(self, tier: Tier, held: Held) -> None:
        at, start = held.at, self.marks[held.at.partition]
        stored = encode_entry(held.version, StoredEntry(held.expires_at_ms, held.tags, held.packed))
        update = put(stored) if held.expires_at_ms is None else put_until(held.expires_at_ms, stored)
        if held.version == NOTHING:
            update = delete(held.as_of)
        batch = Batch(
            Space.GENERIC, at.partition, 1, min(start, held.as_of), held.as_of, 0, updates=[(at.redis_key, update)]
        )
        (outcome,) = await self.writer.apply(batch)
        assert outcome.answer in (Answer.OK, Answer.STALE)
        self.marks[at.partition] = max(start, held.as_of)

    async def spoil(self, tier: Tier, at: Location, data: bytes) -> None:
        await self.redis.set(at.redis_key, data)

    async def test_a_book_that_fails_harms_no_value_that_is_asked_for_with_it(self, tier: Tier) -> None:
        texts = ("session:1", "md:binance.spot.BTC-USDT:book", "session:2")
        places = [locate(text, prefix=self.prefix, n_partitions=4) for text in texts]
        for at in places[::2]:
            await self.redis.set(at.redis_key, encode_entry(5, StoredEntry(None, (), b"\xa1x")))
        await self.redis.hset(places[1].mark_key, "no", "mark")  # type: ignore[misc]
        views = [PartitionView(64) for _ in places]
        for _ in range(20):
            one, book, two = await tier.read_many(list(zip(places, views, strict=True)))
            assert isinstance(book, Exception)
            assert [isinstance(answer, Held) and answer.value for answer in (one, two)] == ["x", "x"]

    async def test_floors_that_cannot_be_read_fail_who_needs_them_and_nobody_waits(self, tier: Tier) -> None:
        at = locate("session:1", prefix=self.prefix, n_partitions=4)
        await self.redis.set(at.redis_key, encode_entry(5, StoredEntry(None, (), b"\xa1x")))
        await self.redis.set(at.mark_key, pack_mark(Mark(1, 9, floors=7)))
        await self.redis.set(floors_key(self.prefix, at.partition), "no hash")
        needs, knows = PartitionView(64), PartitionView(64)
        knows.groups_version = 7
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(3):  # the first makes the connection, later ones are sent without a task
                with pytest.raises(ServiceUnavailable, match="WRONGTYPE"):
                    await tier.read(at, needs)
                held = await tier.read(at, knows)
                assert isinstance(held, Held)
                assert held.value == "x"


class TestRedisCluster(TierContract):
    """Entries are written without the worker's function: its fences are tested on one Redis."""

    refuses_older = False

    @pytest.fixture
    async def tier(self, settings: Settings, nodes: list[Node]) -> AsyncIterator[Tier]:
        self.prefix = settings.topics.prefix
        settings = on_cluster(settings, nodes)
        async with aclosing(connect_cluster(settings.redis)) as self.cluster, opened(redis_tier(settings)) as tier:
            yield tier

    async def write(self, tier: Tier, held: Held) -> None:
        stored = encode_entry(held.version, StoredEntry(held.expires_at_ms, held.tags, held.packed))
        if held.version == NOTHING:
            await self.cluster.delete(held.at.redis_key)
        else:
            await self.cluster.set(held.at.redis_key, stored, pxat=held.expires_at_ms)
        await self.cluster.set(held.at.mark_key, pack_mark(Mark(1, held.as_of)))

    async def spoil(self, tier: Tier, at: Location, data: bytes) -> None:
        await self.cluster.set(at.redis_key, data)


def on_cluster(settings: Settings, nodes: list[Node], n_partitions: int = 4) -> Settings:
    redis = replace(settings.redis, url=f"redis://{HOST}:{nodes[0].port}/0", cluster=True)
    return replace(settings, redis=redis, kafka=replace(settings.kafka, partitions=n_partitions))


class World:
    """A cluster with an entry `x` of version 5 at each of some keys, and a tier to read them."""

    def __init__(self, settings: Settings, cluster: RedisCluster, tier: ClusterTier, n_keys: int = 100) -> None:
        self.prefix, self.n_partitions = settings.topics.prefix, settings.kafka.partitions
        self.cluster, self.tier = cluster, tier
        self.views = [PartitionView(64) for _ in range(self.n_partitions)]
        self.places = [self.place(f"s:{n}") for n in range(n_keys)]

    def place(self, text: str) -> Location:
        return locate(text, prefix=self.prefix, n_partitions=self.n_partitions)

    async def fill(self, mark: Mark) -> None:
        for partition in range(self.n_partitions):
            await self.cluster.set(mark_key(self.prefix, Space.GENERIC, partition), pack_mark(mark))
        for at in self.places:
            await self.cluster.set(at.redis_key, encode_entry(5, StoredEntry(None, ("vip",), b"\xa1x")))

    async def delete_all(self, version: int) -> None:
        """By their tag: no view has heard of it, but the marks tell that there is a floor."""
        for partition in range(self.n_partitions):
            await self.cluster.hset(floors_key(self.prefix, partition), "t:vip", to_bytes(version))  # type: ignore[misc,arg-type]
        await self.fill(Mark(1, 9, floors=version))

    def on(self, node: Node) -> list[Location]:
        """The places whose keys the node holds now."""
        n_keys = {
            slot: node.command("CLUSTER", "COUNTKEYSINSLOT", slot)
            for slot in {slot_of(self.cluster, at) for at in self.places}
        }
        return [at for at in self.places if n_keys[slot_of(self.cluster, at)]]

    async def read_all(self) -> list[Any]:
        return list(await self.tier.read_many([(at, self.views[at.partition]) for at in self.places]))


@asynccontextmanager
async def world_on(settings: Settings, nodes: list[Node]) -> AsyncIterator[World]:
    settings = on_cluster(settings, nodes)
    tier = redis_tier(settings)
    assert isinstance(tier, ClusterTier)
    async with aclosing(connect_cluster(settings.redis)) as cluster, opened(tier):
        made = World(settings, cluster, tier)
        await made.fill(Mark(1, 9))
        yield made


@pytest.fixture
async def world(settings: Settings, nodes: list[Node]) -> AsyncIterator[World]:
    async with world_on(settings, nodes) as made:
        yield made


async def test_a_read_goes_on_while_a_slot_moves(world: World, nodes: list[Node], wait_until: WaitUntil) -> None:
    """Half of a partition's keys are on either node, so Redis answers TRYAGAIN until the rest has moved too."""
    mine = [at for at in world.places if at.partition == 0]
    slot = slot_of(world.cluster, mine[0])
    source = next(node for node in nodes if slot in node.slots)
    target = next(node for node in nodes if node is not source)
    await world.read_all()
    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    keys = [mine[0].mark_key, *(at.redis_key for at in mine)]
    source.command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys[::2])
    before = n_errors("TRYAGAIN", source, target)
    reading = asyncio.ensure_future(world.read_all())
    await wait_until(lambda: n_errors("TRYAGAIN", source, target) > before, DEADLINE_S, "TRYAGAIN")
    assert not reading.done()
    # all of the slot, also what other tests left: a node that holds any of it does not give it away
    left = source.command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
    source.command("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *left)
    for node in (target, source):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    answers = await reading
    assert [(held.version, held.as_of) for held in answers] == [(5, 9)] * len(world.places)


def n_errors(code: str, *nodes: Node) -> int:
    """How often they have answered with such an error."""
    return sum(int(node.info("errorstats").get(f"errorstat_{code}", {"count": 0})["count"]) for node in nodes)


async def test_floors_that_the_reader_lacks_are_loaded_from_their_node(world: World) -> None:
    await world.delete_all(7)
    assert {held.version for held in await world.read_all()} == {NOTHING}
    assert {view.groups_version for view in world.views} == {7}


async def test_a_node_whose_floors_cannot_be_read_is_left_alone_and_no_other(
    world: World, nodes: list[Node], wait_until: WaitUntil
) -> None:
    await world.read_all()  # now the client knows where a moved slot is
    await world.delete_all(7)
    sick = next(node for node in nodes if world.on(node))
    harmed = world.on(sick)
    others = [at for at in world.places if at not in harmed]
    views = {(Space.GENERIC, partition): view for partition, view in enumerate(world.views)}
    memory = MemoryTier(Memory(1 << 20))
    # not entered, so that no probe of its background finds the tier well again meanwhile
    cache = TieredCache(views, memory, [world.tier], max_wait_s=DEADLINE_S, age_ms=lambda held: None)
    with refusing(sick, "hgetall"):
        before, n_rounds = n_errors("NOPERM", sick), 50
        for _ in range(n_rounds):
            with pytest.raises(PartlyUnavailable, match="NoPermission"):
                await cache.read(harmed[0])
        assert n_errors("NOPERM", sick) - before < n_rounds  # its breaker opened
        for at, answer in zip(world.places, await cache.read_many(world.places), strict=True):
            assert isinstance(answer, PartlyUnavailable) == (at in harmed)
        assert {(await cache.read(at)).held.version for at in others} == {NOTHING}

    async def is_well() -> bool:
        return {isinstance(answer, Held) and answer.version for answer in await world.read_all()} == {NOTHING}

    await wait_until(is_well, DEADLINE_S, "the node's answers")


@contextmanager
def refusing(node: Node, command: str) -> Iterator[None]:
    """The node forbids it to everybody."""
    node.command("ACL", "SETUSER", "default", f"-{command}")
    try:
        yield
    finally:
        node.command("ACL", "SETUSER", "default", f"+{command}")


async def test_a_node_that_dies_before_its_floors_are_read_harms_only_its_own_keys(
    settings: Settings, tmp_path: Path
) -> None:
    with redis_cluster(tmp_path) as nodes:
        async with world_on(settings, nodes) as world:
            await world.read_all()
            await world.delete_all(7)
            dies = next(node for node in nodes[1:] if world.on(node))
            first, *more = there = world.on(dies)
            # one partition and so one MGET of this node: when `first` is answered, floors are all that is left to read
            harmed = [at for at in more if at.partition == first.partition]
            asked = harmed + [at for at in world.places if at not in there]
            knows = PartitionView(64)
            await world.tier.load_floors(first.partition, knows)
            served = world.tier.read(first, knows)
            served.add_done_callback(lambda _: dies.stop())  # the loop runs it before the tier goes on
            reads = [world.tier.read(at, world.views[at.partition]) for at in asked]
            answers = await asyncio.gather(*reads, return_exceptions=True)
            assert (await served).version == NOTHING
            for at, answer in zip(asked, answers, strict=True):
                assert isinstance(answer, PartlyUnavailable if at in harmed else Held)


async def test_a_node_that_is_away_harms_only_its_own_keys(settings: Settings, tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as nodes:
        async with world_on(settings, nodes) as world:
            assert all(isinstance(answer, Held) for answer in await world.read_all())
            away = next(node for node in nodes[1:] if world.on(node))
            harmed = world.on(away)
            away.stop()
            for _ in range(5):  # the breaker of the node opens in between
                for at, answer in zip(world.places, await world.read_all(), strict=True):
                    assert isinstance(answer, PartlyUnavailable if at in harmed else Held)
            await world.tier.probe()


def slot_of(cluster: RedisCluster, at: Location) -> int:
    return int(cluster.keyslot(at.mark_key))  # type: ignore[arg-type]
