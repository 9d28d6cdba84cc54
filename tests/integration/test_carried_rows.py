"""Rows that travel with their invalidation, over a real Kafka: a reader follows the market without reading back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from models.cache.invalidation import CHANGE, ROW_BYTES, Invalidation, RecordType, Source, encode
from models.cache.keys import Location, Space, locate
from models.cache.rows import carried_version, pack_rows
from models.cache.version import NOTHING
from models.errors import TooStale
from streams.cache.batch import Answer, Batch, put
from streams.cache.connect import connect_redis
from streams.cache.redis import PartitionWriter
from streams.client.events import Changed, Event
from streams.client.invalidations import InvalidationConsumer
from streams.client.publisher import TickPublisher
from streams.client.reader import Entry, MarketCache
from streams.kafka.admin import ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import INVALIDATIONS, TOPICS
from tests.conftest import WaitUntil
from tests.workers import in_redis

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

QUOTE = "md:binance.spot.BTC-USDT:quote"
DEADLINE_S = 60.0


class Told:
    """Says what a worker would, with or without writing Redis before; one partition's quote."""

    def __init__(self, settings: Settings, redis: Redis, producer: AIOKafkaProducer) -> None:
        prefix, n = settings.topics.prefix, settings.kafka.partitions
        self.at: Location = locate(QUOTE, prefix=prefix, n_partitions=n)
        self.writer = PartitionWriter(redis, url=settings.redis.url, prefix=prefix)
        self.producer = producer
        self.topic = prefix + INVALIDATIONS

    def row(self, version: int, bid: int) -> bytes:
        state = np.array([[version, 1, 2, 1, bid, 1, bid + 1, 1, 0, 0]], np.int64)
        exp, facet = np.zeros(1, np.int8), np.array([self.at.key.facet], np.uint8)
        return pack_rows(state, exp, exp, facet)

    async def write(self, start: int, end: int, row: bytes) -> None:
        batch = Batch(Space.MARKET, self.at.partition, 1, start, end, 0, updates=[(self.at.redis_key, put(row))])
        (outcome,) = await self.writer.apply(batch)
        assert outcome.answer is Answer.OK

    async def announce(self, start: int, end: int, row: bytes, *, age: int = 0, token: int = 1) -> None:
        changes = np.array([(self.at.key.subject, 1 << self.at.key.facet)], CHANGE)
        carried = row[8:75] + age.to_bytes(5, "little")
        await self.say(
            Invalidation(RecordType.CHANGES, Source.FRAMES, token, start, end, changes=changes, rows=carried)
        )

    async def beat(self, version: int, *, token: int = 1) -> None:
        await self.say(Invalidation(RecordType.HEARTBEAT, Source.FRAMES, token, version, version))

    async def say(self, record: Invalidation) -> None:
        await self.producer.send_and_wait(self.topic, encode(record), partition=self.at.partition)


@pytest.fixture
async def told(settings: Settings) -> AsyncIterator[Told]:
    await ensure_topics(settings, [topic for topic in TOPICS if topic.name == INVALIDATIONS])
    async with aclosing(connect_redis(settings.redis)) as redis:
        producer = await start_producer(settings.kafka)
        yield Told(settings, redis, producer)
        await stop_client(producer)


@pytest.fixture
async def cache(settings: Settings, told: Told) -> AsyncIterator[MarketCache]:
    impatient = replace(settings, reader=replace(settings.reader, max_wait_s=0.1))
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(MarketCache(impatient))


async def heard(cache: MarketCache, told: Told | Location, version: int, wait_until: WaitUntil) -> None:
    partition = (told.at if isinstance(told, Told) else told).partition
    await wait_until(lambda: cache.position(Space.MARKET, partition) >= version, DEADLINE_S, f"invalidation {version}")


async def hold(cache: MarketCache, told: Told, wait_until: WaitUntil, *, token: int = 1) -> None:
    """The reader holds version 4 as of 5, and so does Redis."""
    await told.write(NOTHING, 5, told.row(4, 100))
    await told.beat(5, token=token)
    await heard(cache, told, 5, wait_until)
    await cache.get(QUOTE)
    assert len(cache.memory) == 1


def bid_of(entry: Entry | None) -> str | None:
    return None if entry is None else entry.value["bid_price"]


async def test_a_carried_row_is_served_while_redis_is_still_written(
    cache: MarketCache, told: Told, wait_until: WaitUntil
) -> None:
    await hold(cache, told, wait_until)
    await told.announce(5, 8, told.row(7, 200), age=1)
    await heard(cache, told, 8, wait_until)
    entry = await cache.get(QUOTE)
    assert entry is not None
    assert (entry.tier, entry.version, entry.value["bid_price"]) == ("memory", 7, "200")
    cache.memory.drop(QUOTE)
    with pytest.raises(TooStale):  # nobody is given what Redis had before
        await cache.get(QUOTE)
    await told.write(5, 8, told.row(7, 200))
    entry = await cache.get(QUOTE)
    assert entry is not None
    assert (entry.tier, entry.version, entry.value["bid_price"]) == ("redis", 7, "200")


async def test_a_row_of_an_owner_that_lost_its_partition_is_not_believed(
    cache: MarketCache, told: Told, wait_until: WaitUntil
) -> None:
    await hold(cache, told, wait_until, token=2)
    await told.announce(5, 9, told.row(9, 666), token=1)
    await told.announce(5, 6, told.row(6, 200), token=2)
    await heard(cache, told, 6, wait_until)
    entry = await cache.get(QUOTE)
    assert entry is not None
    assert (entry.tier, entry.version, entry.value["bid_price"]) == ("memory", 6, "200")


async def test_a_gap_drops_what_was_held_and_rows_do_not_bring_it_back(
    cache: MarketCache, told: Told, wait_until: WaitUntil
) -> None:
    await hold(cache, told, wait_until)
    await told.announce(7, 8, told.row(8, 200))
    await heard(cache, told, 8, wait_until)
    assert len(cache.memory) == 0


async def test_a_watch_is_given_carried_rows(cache: MarketCache, told: Told, wait_until: WaitUntil) -> None:
    await hold(cache, told, wait_until)
    async with asyncio.timeout(DEADLINE_S), aclosing(cache.watch(QUOTE)) as entries:
        bids = [bid_of(await anext(entries))]
        for version, bid in ((6, 200), (7, 300)):
            cache.memory.drop(QUOTE)
            await told.announce(version - 1, version, told.row(version, bid))
            bids.append(bid_of(await anext(entries)))
    assert bids == ["100", "200", "300"]


@pytest.mark.parametrize("carried", [16_384, 0])
async def test_a_worker_sends_the_rows_that_it_writes_to_redis(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil, carried: int
) -> None:
    settings = replace(settings, worker=replace(settings.worker, invalidation_rows=carried))
    at = locate(QUOTE, prefix=settings.topics.prefix, n_partitions=settings.kafka.partitions)
    async with (
        WorkerProcess(settings, tmp_path / "log"),
        InvalidationConsumer(settings) as consumer,
        MarketCache(settings) as cache,
        TickPublisher(settings) as publisher,
    ):
        await wait_until(lambda: cache.synced(Space.MARKET, at.partition), DEADLINE_S, "a heartbeat")
        assert await cache.get(QUOTE) is None
        for price in ("1.5", "2.5"):
            await publisher.quote(
                "binance.spot.BTC-USDT", bid_price=price, bid_size="1", ask_price="3", ask_size="1", ts_event_ns=1
            )
            await publisher.flush()
            version = publisher.offsets[at.partition]
            await heard(cache, at, version, wait_until)
            entry = await cache.get(QUOTE)
            assert entry is not None
            assert (entry.version, entry.value["bid_price"]) == (version, price)
            assert entry.tier == ("memory" if carried else "redis")
            record = (await _changed(consumer)).record

            async def in_tier(version: int = version) -> bytes | None:  # Redis gets rows that travel after readers
                stored = await in_redis(settings, QUOTE)
                return stored if stored and int.from_bytes(stored[:8], "big") == version else None

            stored = await wait_until(in_tier, DEADLINE_S, "the row in Redis")
            if carried:
                assert record.rows is not None
                assert len(record.rows) == ROW_BYTES
                assert carried_version(record.rows, record.to_version) == int.from_bytes(stored[:8], "big") == version
                assert record.rows[:67] == stored[8:75]
            else:
                assert record.rows is None


async def _changed(consumer: InvalidationConsumer) -> Changed:
    while True:
        event: Event | None = await consumer.next(DEADLINE_S)
        if isinstance(event, Changed) and len(event.record.changes):  # a quiet partition's frames change nothing
            return event
        assert event is not None
