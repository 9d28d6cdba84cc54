"""`MarketCache` on a real Redis and Kafka; a small worker applies what a test says and announces it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from models.cache.entry import StoredEntry, encode_entry
from models.cache.invalidation import CHANGE, Invalidation, KeyOp, RecordType, Source, encode
from models.cache.keys import Key, Space, floors_key, mark_key, parse_key, redis_key
from models.cache.rows import pack_rows
from models.cache.version import NOTHING
from models.errors import InvalidKey, ServiceUnavailable, TooStale, WriteRefused
from streams.cache.batch import Answer, Batch, delete, put, raise_floor
from streams.cache.connect import connect_redis
from streams.cache.redis import PartitionWriter
from streams.client.reader import Entry, MarketCache
from streams.clock import SettableClock
from streams.kafka.admin import ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.services.ports import free_ports
from streams.settings import Settings
from streams.topics import INVALIDATIONS, TOPICS, WRITES
from tests.conftest import WaitUntil

pytestmark = pytest.mark.integration

QUOTE_KEY = "md:binance.spot.BTC-USDT:quote"
TRADE_KEY = "md:binance.spot.BTC-USDT:trade"
DEADLINE_S = 60.0
NOW_NS = 1_760_000_000_000_000_000
SKEW_NS = 50_000_000
SOURCES = {Space.MARKET: Source.FRAMES, Space.GENERIC: Source.WRITES}


class Worker:
    """Applies to Redis and announces, each on its own so that a test can hold one back. One mark a partition."""

    def __init__(self, settings: Settings, redis: Redis, producer: AIOKafkaProducer) -> None:
        self.prefix = settings.topics.prefix
        self.n_partitions = settings.kafka.partitions
        self.redis = redis
        self.writer = PartitionWriter(redis, url=settings.redis.url, prefix=self.prefix)
        self.producer = producer
        self.token = 1

    def place(self, text: str) -> tuple[Key, int, bytes]:
        key = parse_key(text)
        partition = key.partition(self.n_partitions)
        return key, partition, redis_key(self.prefix, key, partition)

    async def apply(
        self, text: str, start: int, end: int, update: bytes | None, *more: tuple[bytes, bytes], watermark_ns: int = 0
    ) -> None:
        """Bring the partition of a key to version `end`; `update` is for the key itself."""
        key, partition, name = self.place(text)
        updates = [*more] if update is None else [(name, update), *more]
        (outcome,) = await self.writer.apply(
            Batch(key.space, partition, self.token, start, end, watermark_ns, updates=updates)
        )
        assert outcome.answer is Answer.OK

    async def announce(
        self, text: str, start: int, end: int, *names: str, op: KeyOp = KeyOp.PUT, watermark_ns: int = 0
    ) -> None:
        key, partition, _ = self.place(text)
        record = Invalidation(RecordType.CHANGES, SOURCES[key.space], self.token, start, end, watermark_ns)
        if key.space is Space.GENERIC:
            record = replace(record, keys=tuple((op, name) for name in names))
        else:
            changes = [(parse_key(name).subject, 1 << parse_key(name).facet) for name in names]
            record = replace(record, changes=np.array(changes, CHANGE))
        await self.say(partition, record)

    async def beat(self, text: str, version: int, watermark_ns: int = 0) -> None:
        key, partition, _ = self.place(text)
        kind, source = RecordType.HEARTBEAT, SOURCES[key.space]
        await self.say(partition, Invalidation(kind, source, self.token, version, version, watermark_ns))

    async def say(self, partition: int, record: Invalidation) -> None:
        await self.producer.send_and_wait(self.prefix + INVALIDATIONS, encode(record), partition=partition)


def row(text: str, version: int, price: int) -> bytes:
    state = np.array([[version, 1, 2, 1, price, 1, price + 1, 1, 0, 0]], np.int64)
    exp, facet = np.zeros(1, np.int8), np.array([parse_key(text).facet], np.uint8)
    return put(pack_rows(state, exp, exp, facet))


def value(version: int, content: Any, *tags: str) -> bytes:
    return put(encode_entry(version, StoredEntry(None, tags, msgspec.msgpack.encode(content))))


def bid(entry: Entry | None) -> str | None:
    return None if entry is None else entry.value["bid_price"]


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Worker]:
    await ensure_topics(settings, [topic for topic in TOPICS if topic.name in (INVALIDATIONS, WRITES)])
    redis = connect_redis(settings.redis)
    async with aclosing(redis):
        producer = await start_producer(settings.kafka)
        yield Worker(settings, redis, producer)
        await stop_client(producer)
        async for key in redis.scan_iter(match=settings.topics.prefix + "*", count=1000):
            await redis.delete(key)


@pytest.fixture
def impatient(settings: Settings) -> Settings:
    """A reader that gives up after 0.1 s."""
    return replace(settings, reader=replace(settings.reader, max_wait_s=0.1))


@pytest.fixture
async def open_cache(impatient: Settings, worker: Worker) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        async def opened(max_wait_s: float = impatient.reader.max_wait_s, **more: Any) -> MarketCache:
            own = replace(impatient, reader=replace(impatient.reader, max_wait_s=max_wait_s))
            return await stack.enter_async_context(MarketCache(own, **more))

        yield opened


class Reader:
    """A cache and what a test waits for in it."""

    def __init__(self, cache: MarketCache, worker: Worker, wait_until: WaitUntil) -> None:
        self.cache = cache
        self.worker = worker
        self.wait_until = wait_until

    async def heard(self, text: str, version: int) -> None:
        """Until the invalidations of the key's partition were heard up to this version."""
        key, partition, _ = self.worker.place(text)
        await self.wait_until(
            lambda: self.cache.position(key.space, partition) >= version, DEADLINE_S, f"invalidation {version}"
        )


@pytest.fixture
async def reader(open_cache: Any, worker: Worker, wait_until: WaitUntil) -> Reader:
    return Reader(await open_cache(), worker, wait_until)


async def test_an_entry_comes_from_redis_and_then_from_memory_until_it_is_named(reader: Reader, worker: Worker) -> None:
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    await worker.beat(QUOTE_KEY, 5)
    await reader.heard(QUOTE_KEY, 5)
    entries = [await reader.cache.get(QUOTE_KEY) for _ in range(2)]
    assert [(e.tier, e.version, e.source_offset, bid(e)) for e in entries if e] == [
        ("redis", 4, 4, "100"),
        ("memory", 4, 4, "100"),
    ]
    await worker.apply(QUOTE_KEY, 5, 7, row(QUOTE_KEY, 6, 200))
    await worker.announce(QUOTE_KEY, 5, 7, QUOTE_KEY)
    await reader.heard(QUOTE_KEY, 7)
    entry = await reader.cache.get(QUOTE_KEY)
    assert entry is not None
    assert (entry.tier, entry.version, bid(entry)) == ("redis", 6, "200")


async def test_another_facet_of_the_instrument_stays_in_memory(reader: Reader, worker: Worker) -> None:
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    await worker.beat(QUOTE_KEY, 5)
    await reader.heard(QUOTE_KEY, 5)
    await reader.cache.get(QUOTE_KEY)
    await worker.announce(QUOTE_KEY, 5, 7, TRADE_KEY)
    await reader.heard(QUOTE_KEY, 7)
    entry = await reader.cache.get(QUOTE_KEY)
    assert entry is not None
    assert entry.tier == "memory"


async def test_a_tier_below_the_floor_is_waited_for_and_then_refused(
    reader: Reader, open_cache: Any, worker: Worker, wait_until: WaitUntil
) -> None:
    patient = Reader(await open_cache(max_wait_s=DEADLINE_S), worker, wait_until)
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    await worker.announce(QUOTE_KEY, 5, 7, QUOTE_KEY)
    for one in (reader, patient):
        await one.heard(QUOTE_KEY, 7)
    with pytest.raises(TooStale, match="mark 5"):
        await reader.cache.get(QUOTE_KEY)
    reading = asyncio.ensure_future(patient.cache.get(QUOTE_KEY))
    await worker.apply(QUOTE_KEY, 5, 7, row(QUOTE_KEY, 7, 200))
    assert bid(await reading) == "200"


async def test_a_key_that_was_not_held_when_it_was_named_has_a_floor_too(reader: Reader, worker: Worker) -> None:
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    await worker.beat(QUOTE_KEY, 5)
    await worker.announce(QUOTE_KEY, 5, 6, QUOTE_KEY)
    await reader.heard(QUOTE_KEY, 6)
    with pytest.raises(TooStale):
        await reader.cache.get(QUOTE_KEY)


async def test_an_invalidation_that_comes_late_keeps_the_newer_entry(reader: Reader, worker: Worker) -> None:
    await worker.beat(QUOTE_KEY, 5)
    await reader.heard(QUOTE_KEY, 5)
    await worker.apply(QUOTE_KEY, NOTHING, 9, row(QUOTE_KEY, 9, 300))
    await reader.cache.get(QUOTE_KEY)
    await worker.announce(QUOTE_KEY, 5, 8, QUOTE_KEY)
    await reader.heard(QUOTE_KEY, 8)
    entry = await reader.cache.get(QUOTE_KEY)
    assert entry is not None
    assert (entry.tier, entry.version) == ("memory", 9)


async def test_a_reader_never_goes_back_to_what_is_older_than_it_was_given(open_cache: Any, worker: Worker) -> None:
    """Redis was ahead of the stream, then lost its last second: the reader had that second already."""
    cache = await open_cache()
    await worker.apply(QUOTE_KEY, NOTHING, 9, row(QUOTE_KEY, 9, 300))
    assert bid(await cache.get(QUOTE_KEY)) == "300"
    _, partition, name = worker.place(QUOTE_KEY)
    await worker.redis.delete(name, mark_key(worker.prefix, Space.MARKET, partition))
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    with pytest.raises(TooStale):
        await cache.get(QUOTE_KEY)


async def test_a_reader_that_starts_keeps_nothing_before_it_heard_a_heartbeat(reader: Reader, worker: Worker) -> None:
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    assert [e.tier for e in [await reader.cache.get(QUOTE_KEY) for _ in range(3)] if e] == ["redis"] * 3
    await worker.beat(QUOTE_KEY, 6)
    await reader.heard(QUOTE_KEY, 6)
    with pytest.raises(TooStale):  # what happened before the heartbeat was not heard: the tier must have it
        await reader.cache.get(QUOTE_KEY)


async def test_a_gap_drops_the_partition_of_its_source_and_no_other(reader: Reader, worker: Worker) -> None:
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    session = next(f"s:{i}" for i in range(99) if worker.place(f"s:{i}")[1] == worker.place(QUOTE_KEY)[1])
    await worker.apply(session, NOTHING, 5, value(4, "x"))
    for key in (QUOTE_KEY, session):
        await worker.beat(key, 5)
        await reader.heard(key, 5)
        await reader.cache.get(key)
    assert len(reader.cache.memory) == 2
    await worker.announce(QUOTE_KEY, 7, 8)  # names nothing; what 6 and 7 named was never said
    await reader.heard(QUOTE_KEY, 8)
    assert [held.at.key.text for held in reader.cache.memory] == [session]
    with pytest.raises(TooStale):
        await reader.cache.get(QUOTE_KEY)


async def test_a_miss_is_none_and_is_remembered_until_the_key_appears(reader: Reader, worker: Worker) -> None:
    await worker.apply("s:1", NOTHING, 5, None)
    await worker.beat("s:1", 5)
    await reader.heard("s:1", 5)
    assert await reader.cache.get("s:1") is None
    assert len(reader.cache.memory) == 1
    await worker.apply("s:1", 5, 6, value(6, {"a": [1]}))
    await worker.announce("s:1", 5, 6, "s:1")
    await reader.heard("s:1", 6)
    entry = await reader.cache.get("s:1")
    assert entry is not None
    assert entry.value == {"a": [1]}


async def test_values_are_the_callers_own(reader: Reader, worker: Worker) -> None:
    await worker.apply("s:1", NOTHING, 6, value(6, {"a": [1]}))
    await worker.apply(QUOTE_KEY, NOTHING, 6, row(QUOTE_KEY, 6, 100))
    for key in ("s:1", QUOTE_KEY):
        await worker.beat(key, 6)
        await reader.heard(key, 6)
        for _ in range(2):
            entry = await reader.cache.get(key)
            assert entry is not None
            assert "mine" not in entry.value
            entry.value["mine"] = True


async def test_an_age_is_proven_by_a_watermark_or_not_at_all(
    open_cache: Any, worker: Worker, wait_until: WaitUntil
) -> None:
    clock = SettableClock(NOW_NS)
    reader = Reader(await open_cache(clock=clock), worker, wait_until)
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100), watermark_ns=NOW_NS - 2_000_000_000)
    await worker.beat(QUOTE_KEY, 5)
    await reader.heard(QUOTE_KEY, 5)
    entry = await reader.cache.get(QUOTE_KEY)
    assert entry is not None
    assert entry.age_ms == 2050
    with pytest.raises(TooStale, match="not proven"):
        await reader.cache.get(QUOTE_KEY, max_staleness_s=1)
    await worker.beat(QUOTE_KEY, 5, NOW_NS - 500_000_000)

    async def proven() -> Entry | None:
        entry = await reader.cache.get(QUOTE_KEY)
        return entry if entry is not None and entry.age_ms == 550 else None

    await wait_until(proven, DEADLINE_S, "a proof")
    fresh = await reader.cache.get(QUOTE_KEY, max_staleness_s=1)
    assert fresh is not None
    assert (fresh.tier, fresh.age_ms) == ("memory", 550)
    clock.ns = NOW_NS - 3_000_000_000  # both watermarks lie in the future now
    again = await reader.cache.get(QUOTE_KEY)
    assert again is not None
    assert again.age_ms is None


async def test_a_put_is_read_at_once_by_the_same_client(reader: Reader, worker: Worker) -> None:
    await worker.beat("s:1", NOTHING)
    await reader.wait_until(lambda: reader.cache.synced(Space.GENERIC, worker.place("s:1")[1]), DEADLINE_S, "a beat")
    version = await reader.cache.put("s:1", {"user": 7})
    entry = await reader.cache.get("s:1")
    assert entry is not None
    assert (entry.value, entry.version, entry.tier) == ({"user": 7}, version, "memory")
    assert await reader.cache.delete("s:1") == version + 1
    assert await reader.cache.get("s:1") is None


async def test_a_put_is_never_answered_by_an_older_tier(reader: Reader, worker: Worker) -> None:
    await worker.apply("s:1", NOTHING, 0, value(0, "old"))
    await reader.cache.put("s:0", "moves the log on")
    version = await reader.cache.put("s:1", "new")
    with pytest.raises(TooStale):  # nothing was heard yet, so nothing is kept, and Redis has the old value
        await reader.cache.get("s:1")
    await worker.apply("s:1", 0, version, value(version, "new"))
    entry = await reader.cache.get("s:1")
    assert entry is not None
    assert (entry.value, entry.tier) == ("new", "redis")


async def test_a_foreign_write_after_the_own_one_wins(reader: Reader, worker: Worker) -> None:
    await worker.beat("s:1", NOTHING)
    await reader.wait_until(lambda: reader.cache.synced(Space.GENERIC, worker.place("s:1")[1]), DEADLINE_S, "a beat")
    version = await reader.cache.put("s:1", "mine")
    await worker.apply("s:1", NOTHING, version + 1, value(version + 1, "theirs"))
    await worker.announce("s:1", NOTHING, version + 1, "s:1")
    await reader.heard("s:1", version + 1)
    entry = await reader.cache.get("s:1")
    assert entry is not None
    assert entry.value == "theirs"


async def test_a_tag_that_is_deleted_takes_its_entries_along(reader: Reader, worker: Worker) -> None:
    """And only them: one put again in the same batch after the tag's deletion lives."""
    _, partition, _ = worker.place("s:1")
    other = next(f"s:{i}" for i in range(2, 99) if worker.place(f"s:{i}")[1] == partition)
    await worker.apply("s:1", NOTHING, 5, value(3, "a", "vip"))
    await worker.apply(other, 5, 6, value(6, "b", "vip"))
    await worker.beat("s:1", 6)
    await reader.heard("s:1", 6)
    assert [bool(await reader.cache.get(key)) for key in ("s:1", other)] == [True, True]
    floor = (floors_key(worker.prefix, partition), raise_floor(7, "t:vip"))
    await worker.apply(other, 6, 9, value(8, "b2", "vip"), floor)
    await worker.announce(other, 6, 9, "vip", op=KeyOp.TAG)
    await worker.announce(other, 9, 9, other)
    await reader.heard("s:1", 9)
    assert await reader.cache.get("s:1") is None
    entry = await reader.cache.get(other)
    assert entry is not None
    assert entry.value == "b2"


@pytest.mark.parametrize(("op", "name", "field"), [(KeyOp.NAMESPACE, "s", "n:s"), (KeyOp.FLUSH_ALL, "", "*")])
async def test_a_namespace_or_everything_can_be_cleared(
    reader: Reader, worker: Worker, op: KeyOp, name: str, field: str
) -> None:
    _, partition, _ = worker.place("s:1")
    await worker.apply("s:1", NOTHING, 5, value(3, "a"))
    await worker.beat("s:1", 5)
    await reader.heard("s:1", 5)
    assert await reader.cache.get("s:1") is not None
    await worker.apply("s:1", 5, 6, None, (floors_key(worker.prefix, partition), raise_floor(6, field)))
    await worker.announce("s:1", 5, 6, name, op=op)
    await reader.heard("s:1", 6)
    assert await reader.cache.get("s:1") is None


async def test_a_reader_loads_the_floors_before_anything_else(open_cache: Any, worker: Worker) -> None:
    _, partition, _ = worker.place("s:1")
    floor = (floors_key(worker.prefix, partition), raise_floor(4, "t:vip"))
    await worker.apply("s:1", NOTHING, 5, value(3, "a", "vip"), floor)
    for follow in (True, False):
        assert await (await open_cache(follow=follow)).get("s:1") is None


async def test_a_floor_that_was_not_heard_of_yet_counts_as_soon_as_the_mark_shows_it(
    reader: Reader, worker: Worker
) -> None:
    _, partition, _ = worker.place("s:1")
    await worker.apply("s:1", NOTHING, 5, value(3, "a", "vip"))
    assert await reader.cache.get("s:1") is not None
    await worker.apply("s:1", 5, 6, None, (floors_key(worker.prefix, partition), raise_floor(6, "t:vip")))
    assert await reader.cache.get("s:1") is None


async def test_a_watch_gives_the_entry_now_and_after_each_change(reader: Reader, worker: Worker) -> None:
    await worker.apply(QUOTE_KEY, NOTHING, 5, row(QUOTE_KEY, 4, 100))
    await worker.beat(QUOTE_KEY, 5)
    await reader.heard(QUOTE_KEY, 5)
    async with asyncio.timeout(DEADLINE_S), aclosing(reader.cache.watch(QUOTE_KEY)) as entries:
        assert bid(await anext(entries)) == "100"
        await worker.apply(QUOTE_KEY, 5, 7, row(QUOTE_KEY, 7, 200))
        await worker.announce(QUOTE_KEY, 5, 7, QUOTE_KEY)
        assert bid(await anext(entries)) == "200"
        _, _, name = worker.place(QUOTE_KEY)
        await worker.apply(QUOTE_KEY, 7, 8, None, (name, delete(8)))
        await worker.announce(QUOTE_KEY, 7, 8, QUOTE_KEY)
        assert await anext(entries) is None


async def test_reads_of_one_loop_turn_are_one_request(reader: Reader, worker: Worker) -> None:
    keys = [f"s:{i}" for i in range(200)]
    for partition in range(worker.n_partitions):
        mine = [(worker.place(k)[2], value(1, k)) for k in keys if worker.place(k)[1] == partition]
        await worker.writer.apply(Batch(Space.GENERIC, partition, 1, NOTHING, 1, 0, updates=mine))
    before = (await worker.redis.info("commandstats"))["cmdstat_mget"]["calls"]
    entries = await asyncio.gather(*(reader.cache.get(key) for key in keys))
    assert [e.value for e in entries if e] == keys
    assert (await worker.redis.info("commandstats"))["cmdstat_mget"]["calls"] == before + 1


async def test_an_entry_that_cannot_be_read_is_a_miss(reader: Reader, worker: Worker) -> None:
    await worker.apply("s:1", NOTHING, 5, put(b"\0" * 8 + b"garbage"))
    await worker.apply(QUOTE_KEY, NOTHING, 5, put(b"\0" * 8 + b"garbage"))
    assert [await reader.cache.get(key) for key in ("s:1", QUOTE_KEY)] == [None, None]


async def test_memory_is_bounded_by_bytes(impatient: Settings, worker: Worker, wait_until: WaitUntil) -> None:
    small = replace(impatient, reader=replace(impatient.reader, memory_bytes=1 << 16))
    keys = [f"s:{i}" for i in range(400)]
    for partition in range(worker.n_partitions):
        mine = [(worker.place(k)[2], value(1, k * 50)) for k in keys if worker.place(k)[1] == partition]
        await worker.writer.apply(Batch(Space.GENERIC, partition, 1, NOTHING, 1, 0, updates=mine))
    async with MarketCache(small) as cache:
        reader = Reader(cache, worker, wait_until)
        for key in keys[:20]:
            await worker.beat(key, 1)
            await reader.heard(key, 1)
        await asyncio.gather(*(cache.get(key) for key in keys))
        assert cache.memory.bytes <= 1 << 16
        assert cache.memory.evicted > 300


async def test_wrong_keys_and_values_are_refused_before_anything_is_sent(reader: Reader) -> None:
    with pytest.raises(InvalidKey, match="namespace"):
        await reader.cache.get("nothing")
    with pytest.raises(WriteRefused, match="market alone"):
        await reader.cache.put(QUOTE_KEY, 1)
    with pytest.raises(WriteRefused, match="ttl"):
        await reader.cache.put("s:1", 1, tags=["a"])
    with pytest.raises(WriteRefused, match="msgpack"):
        await reader.cache.put("s:1", object())


async def test_a_dead_redis_is_said_at_once(settings: Settings) -> None:
    (port,) = free_ports(1)
    dead = replace(settings, redis=replace(settings.redis, url=f"redis://127.0.0.1:{port}/0"))
    with pytest.raises(ServiceUnavailable, match=str(port)):
        async with MarketCache(dead, follow=False):
            pass
