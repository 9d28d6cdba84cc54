"""Readers beside a real worker: its RocksDB gives what Redis gives, and a reader's own disk outlives the reader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from models.cache.keys import Space, parse_key
from models.cache.serialize import Serializer
from models.errors import InvalidKey, MarketPrismError, ServiceUnavailable
from models.market.facets import FACETS
from streams.cache.rocks import read_partition
from streams.client.publisher import TickPublisher
from streams.client.reader import Entry, MarketCache
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.integration.test_worker import TOLD, durable, line
from tests.workers import wipe

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

DEADLINE_S = 60.0
SYMBOLS = [f"T{n}-USDT" for n in range(70)]  # more than a page of rows
KEYS = [f"md:binance.perpetual.{symbol}:{facet}" for symbol in SYMBOLS for facet in (*TOLD, "ohlcv:1d")]
GENERIC = {f"s:{n}": {"n": n, "text": "x" * n} for n in range(40)}


def reading(settings: Settings, tiers: str, **reader: Any) -> Settings:
    return replace(settings, reader=replace(settings.reader, tiers=tiers, **reader))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    make_settings: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil
) -> AsyncIterator[Settings]:
    """A worker that has applied a day of one event a facet, and entries, and rests."""
    folder = tmp_path_factory.mktemp("tiers")
    settings = make_settings(folder)
    async with WorkerProcess(settings, folder / "log"):
        async with TickPublisher(settings) as publisher:
            lines = [line(symbol, told) for symbol in SYMBOLS for told, _ in TOLD.values()]
            assert await publisher.publish_json(lines) == []
        async with MarketCache(settings, follow=False) as cache:
            for key, value in GENERIC.items():
                await cache.put(key, value, ttl_ms=3_600_000, tags=["t"])
            await cache.delete("s:3")
            last = await cache.delete_tag("nobody's")  # one version a partition

            async def all_there() -> bool:
                n_found = sum(isinstance(result, Entry) for result in await cache.get_many(KEYS))
                return n_found == len(SYMBOLS) * len(TOLD)

            await wait_until(all_there, DEADLINE_S, "the ticks in Redis")

        def on_disk() -> bool:
            return all(read_partition(settings, n).entries.applied >= version for n, version in enumerate(last))

        await wait_until(on_disk, DEADLINE_S, "the barrier after the writes")
        await durable(settings, wait_until)
        yield settings


async def all_from(settings: Settings, tier: str, wait_until: WaitUntil) -> list[Entry | None]:
    """Every key as one tier has it."""
    async with MarketCache(settings) as cache:
        for space in Space:
            for partition in range(settings.kafka.partitions):
                await wait_until(
                    lambda space=space, partition=partition: cache.synced(space, partition), DEADLINE_S, "a heartbeat"
                )
        results = await cache.get_many([*KEYS, *GENERIC])
    found: list[Entry | None] = []
    for result in results:
        assert not isinstance(result, MarketPrismError), result
        assert result is None or result.tier == tier
        found.append(result)
    return found


def told(entries: list[Entry | None]) -> list[tuple[int, Any] | None]:
    return [None if entry is None else (entry.version, entry.value) for entry in entries]


async def test_the_workers_rocksdb_gives_what_redis_gives(running: Settings, wait_until: WaitUntil) -> None:
    redis = await all_from(running, "redis", wait_until)
    rocksdb = await all_from(reading(running, "rocksdb"), "rocksdb", wait_until)
    assert told(rocksdb) == told(redis)
    assert sum(entry is not None for entry in redis) == len(KEYS) - len(SYMBOLS) + len(GENERIC) - 1
    assert set(FACETS) > {"book", *TOLD}


async def test_a_reader_beside_the_worker_starts_and_reads_without_redis(
    running: Settings, wait_until: WaitUntil
) -> None:
    (port,) = free_ports(1)
    alone = replace(running, redis=replace(running.redis, url=f"redis://127.0.0.1:{port}/0"))
    rocksdb = await all_from(reading(alone, "redis,rocksdb"), "rocksdb", wait_until)
    assert told(rocksdb) == told(await all_from(running, "redis", wait_until))


async def test_a_store_that_was_recovered_is_whole_again(
    make_settings: Callable[[Path], Settings], tmp_path: Path, wait_until: WaitUntil
) -> None:
    """While the changelog is read back it is not, and then no reader believes it; nothing is written afterwards."""
    settings = make_settings(tmp_path)
    async with WorkerProcess(settings, tmp_path / "log"):
        async with MarketCache(settings, follow=False) as cache:
            version = await cache.put("s:1", "x")
        partition = parse_key("s:1").partition(settings.kafka.partitions)

        def on_disk() -> bool:
            try:
                return read_partition(settings, partition).entries.applied >= version
            except ServiceUnavailable:
                return False

        await wait_until(on_disk, DEADLINE_S, "the barrier")
    wipe(settings)
    async with WorkerProcess(settings, tmp_path / "log"), MarketCache(reading(settings, "rocksdb")) as cache:
        await wait_until(lambda: cache.synced(Space.GENERIC, partition), DEADLINE_S, "a heartbeat")
        entry = await cache.get("s:1")
    assert entry is not None
    assert (entry.value, entry.tier) == ("x", "rocksdb")


async def test_a_new_entry_comes_from_rocksdb_after_the_next_barrier(running: Settings, wait_until: WaitUntil) -> None:
    async with MarketCache(reading(running, "rocksdb,redis")) as cache, MarketCache(running) as other:
        version = await other.put("s:fresh", "new")
        entry = await wait_until(lambda: cache.get("s:fresh"), DEADLINE_S, "the entry")
        assert (entry.version, entry.value) == (version, "new")

        async def from_disk() -> bool:
            cache.memory.drop("s:fresh")
            entry = await cache.get("s:fresh")
            return entry is not None and entry.tier == "rocksdb"

        await wait_until(from_disk, DEADLINE_S, "the barrier")


async def test_a_readers_own_disk_outlives_the_reader(running: Settings, tmp_path: Path, wait_until: WaitUntil) -> None:
    """The next one goes on hearing where the first one stopped, and then reads from its disk what nobody changed."""
    settings = reading(running, "disk,redis", disk_dir=str(tmp_path))
    async with MarketCache(running) as writer:
        await writer.put("s:kept", {"a": 1})
        await writer.put("s:changed", "before")
        async with MarketCache(settings) as cache:
            for key in ("s:kept", "s:changed"):
                partition = parse_key(key).partition(running.kafka.partitions)
                await wait_until(
                    lambda partition=partition: cache.synced(Space.GENERIC, partition), DEADLINE_S, "a heartbeat"
                )
                entry = await wait_until(lambda key=key: cache.get(key), DEADLINE_S, key)
                assert entry.tier == "redis"
        await writer.put("s:changed", "after")
        for n in range(20):  # the log moves on in every partition
            await writer.put(f"s:other:{n}", n)
    async with MarketCache(settings) as cache:

        async def from_disk() -> Entry | None:
            cache.memory.drop("s:kept")
            entry = await cache.get("s:kept")
            return entry if entry is not None and entry.tier == "disk" else None

        kept = await wait_until(from_disk, DEADLINE_S, "an answer of the disk")
        changed = await cache.get("s:changed")
    assert kept.value == {"a": 1}
    assert changed is not None
    assert (changed.value, changed.tier) == ("after", "redis")


async def test_many_keys_are_answered_in_their_order_and_a_wrong_one_harms_no_other(running: Settings) -> None:
    async with MarketCache(running) as cache:
        results = await cache.get_many(["s:1", "no key", "s:404", KEYS[0], "s:3", "s:2"])
    first, wrong, absent, quote, deleted, last = results
    assert isinstance(first, Entry) and isinstance(last, Entry) and isinstance(quote, Entry)
    assert (first.value, last.value, quote.key) == (GENERIC["s:1"], GENERIC["s:2"], KEYS[0])
    assert isinstance(wrong, InvalidKey)
    assert (absent, deleted) == (None, None)


async def test_values_travel_in_every_form_and_a_pickle_only_among_those_who_share_a_key(
    running: Settings, wait_until: WaitUntil
) -> None:
    trusted = Serializer("pickle", pickle_keys=[b"a secret of both"])
    large = {"rows": ["the same text"] * 5000}
    async with (
        MarketCache(running, serializer=trusted) as one,
        MarketCache(running) as other,
        MarketCache(running, serializer=Serializer("json")) as third,
    ):
        await one.put("s:pickle", {1, 2, 3})
        await other.put("s:large", large)  # packed: it is above the threshold
        await third.put("s:json", {"a": [1, None]})
        for key, value in (("s:large", large), ("s:json", {"a": [1, None]})):
            entry = await wait_until(lambda key=key: one.get(key), DEADLINE_S, key)
            assert entry.value == value
        entry = await wait_until(lambda: one.get("s:pickle"), DEADLINE_S, "s:pickle")
        assert entry.value == {1, 2, 3}
        assert await other.get("s:pickle") is None
