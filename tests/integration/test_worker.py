"""A worker process on real services: what goes into the log is visible in memory, Redis and RocksDB, and stays so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiokafka import TopicPartition

from models.cache.book_hash import unpack_book, unpack_header
from models.cache.keys import Space, parse_key, redis_key
from models.cache.rows import as_people_see, pack_rows, unpack_row
from models.errors import ServiceUnavailable
from models.market import facets
from models.market.book import BookPool
from models.market.instruments import Instrument, partition_of
from models.market.levels import AWAITS_SNAPSHOT, LIVE
from models.market.tick import TickArray
from streams.cache.connect import connect_redis
from streams.cache.rocks import read_partition
from streams.client.json_publisher import JsonPublisher
from streams.client.publisher import TickPublisher
from streams.client.reader import MarketCache
from streams.days.replay import Pause, Replay
from streams.kafka.clients import start_consumer, start_producer, stop_client
from streams.kafka.deadletter import DeadLetters
from streams.kafka.offsets import committed, last_offsets
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import FRAMES, JSON_TICKS, REQUESTS, WRITES
from tests import books
from tests.conftest import WaitUntil
from tests.sites import forget_keys
from tests.workers import (
    GOLDEN,
    ask,
    marks,
    merged_digest,
    metric,
    on_disk,
    reached,
    sample_day,
)

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

DEADLINE_S = 60.0
STOP_BOUND_S = 10.0  # the aim is 2 s; the rest is for machines that do other things meanwhile
TS_NS = 1_760_000_000_000_000_000
BAR = {"open": "1", "high": "4", "low": "0.5", "close": "2", "volume": "12.5"}
N_ROWS = {"quote": 2, "funding": 2, "open_interest": 2, "lsr_top": 3, "lsr_all": 3, "ohlcv:1m": 4}
RATIOS = {"long_ratio": "0.6", "short_ratio": "0.4", "long_short_ratio": "1.5"}

# Facet -> what a collector sends of it -> what people read.
TOLD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "trade": (
        {"data_type": "trade", "price": "64000.5", "quantity": "0.25", "side": "buy", "trade_id": "77"},
        {"price": "64000.5", "quantity": "0.25", "side": "buy"},
    ),
    "quote": (
        {"data_type": "quote", "bid_price": "64000", "bid_quantity": "3", "ask_price": "64001", "ask_quantity": "0"},
        {"bid_price": "64000", "bid_quantity": "3", "ask_price": None, "ask_quantity": None},
    ),
    "funding": (
        {"data_type": "funding_rate", "funding_rate": "-0.0001", "mark_price": "64000.1", "next_funding_ts_ms": 1},
        {"funding_rate": "-0.0001", "mark_price": "64000.1", "index_price": None, "next_funding_ts_ns": 1_000_000},
    ),
    "open_interest": (
        {"data_type": "open_interest", "open_interest_value": "5000.5", "open_interest_usd": "320032000.25"},
        {"open_interest_value": "5000.5", "open_interest_usd": "320032000.25"},
    ),
    "liquidation": (
        {"data_type": "liquidation", "price": "63999", "quantity": "2", "side": "sell"},
        {"price": "63999", "quantity": "2", "side": "sell"},
    ),
    "volatility": (
        {"data_type": "volatility_index", "volatility_index": "55.5"},
        {"volatility_index": "55.5"},
    ),
    "lsr_top": ({"data_type": "lsr_top_position", **RATIOS, "period": "5m"}, {**RATIOS, "period_s": 300}),
    "lsr_all": ({"data_type": "lsr_all_account", **RATIOS}, {**RATIOS, "period_s": None}),
    "ohlcv:1m": (
        {"data_type": "ohlcv", "interval": "1m", **BAR, "start_ts_ms": TS_NS // 10**6},
        {**BAR, "start_ns": TS_NS},
    ),
    "book": (
        {
            "data_type": "orderbook", "update_type": "snapshot", "last_update_id": 10,
            "bids": [["64000", "3"], ["63999", "1"]], "asks": [["64001", "2"]],
        },
        {"bids": (("64000", "3"), ("63999", "1")), "asks": (("64001", "2"),), "last_update_id": 10, "state": "live"},
    ),
}  # fmt: skip


def line(symbol: str, told: dict[str, Any]) -> bytes:
    named = {"exchange": "binance", "market_type": "perpetual", "symbol": symbol, "ts_ns": TS_NS}
    return json.dumps({**named, "collected_ts_ns": TS_NS + 1, **told}).encode()


def key(symbol: str, facet: str) -> str:
    return f"md:binance.perpetual.{symbol}:{facet}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    make_settings: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Settings]:
    """One worker for all tests that leave it running; each test has instruments and keys of its own."""
    folder = tmp_path_factory.mktemp("running")
    settings = make_settings(folder)
    async with WorkerProcess(settings, folder / "log"):
        yield settings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cache(running: Settings) -> AsyncIterator[MarketCache]:
    async with MarketCache(running) as cache:
        yield cache


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def publisher(running: Settings) -> AsyncIterator[TickPublisher]:
    async with TickPublisher(running) as publisher:
        yield publisher


async def durable(settings: Settings, wait_until: WaitUntil) -> None:
    """Until what Redis has is on disk."""
    there = {n: mark.version for n, mark in enumerate(await marks(settings)) if mark.version >= 0}
    await wait_until(reached([settings], there), DEADLINE_S, "the next barrier")


async def book_header(settings: Settings, text: str) -> Any:
    """Field `h` of a book in Redis, None if there is none."""
    at = parse_key(f"md:{text}:book")
    name = redis_key(settings.topics.prefix, at, at.partition(settings.kafka.partitions))
    async with aclosing(connect_redis(settings.redis)) as redis:
        return unpack_header(await redis.hget(name, "h") or b"")


# -- visible in every tier ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", ["frames", "json"])
async def test_every_facet_is_in_memory_redis_and_rocksdb_by_either_road(
    running: Settings, cache: MarketCache, publisher: TickPublisher, wait_until: WaitUntil, road: str
) -> None:
    symbol = f"{road.upper()}-USDT"
    lines = [line(symbol, told) for told, _ in TOLD.values()]
    if road == "frames":
        assert await publisher.publish_json(lines) == []
        await publisher.flush()
    else:
        async with JsonPublisher(running) as gateway:
            await gateway.publish(lines)
    for facet, (_, read) in TOLD.items():
        entry = await wait_until(lambda facet=facet: cache.get(key(symbol, facet)), DEADLINE_S, facet)
        seen = {name: value for name, value in entry.value.items() if name != "ts_ns"}
        assert seen == read, facet
        assert entry.value.get("ts_ns", TS_NS) == TS_NS
    await durable(running, wait_until)

    market = read_partition(running, partition_of(f"binance.perpetual.{symbol}", running.kafka.partitions)).market
    slot = [instrument.symbol for instrument in market.slots.instruments].index(symbol)
    exponents = market.slots.price_exp[[slot]], market.slots.size_exp[[slot]]
    async with aclosing(connect_redis(running.redis)) as redis:
        for facet in TOLD:
            at = parse_key(key(symbol, facet))
            name = redis_key(running.topics.prefix, at, at.partition(running.kafka.partitions))
            entry = await cache.get(key(symbol, facet))
            assert entry is not None
            if facet == "book":
                header, value = unpack_book(await redis.hgetall(name)) or pytest.fail("no book in Redis")
                assert (header.version, value) == (entry.version, entry.value)
                assert header.version == market.books.header(slot).version
                assert [side.tolist() for side in market.books.levels(slot)] == [
                    [[int(float(p) * 1e9), int(float(q) * 1e9)] for p, q in value[side]] for side in ("bids", "asks")
                ]
            else:
                stored = await redis.get(name)
                state = market.rows.rows[market.rows.plane_of[at.facet], [slot]]
                assert stored == pack_rows(state, *exponents, np.array([at.facet], np.uint8))
                assert state[0, facets.N_ROWS] == N_ROWS.get(facet, 1)
                row = unpack_row(stored)
                assert row is not None and (row.version, as_people_see(row)) == (entry.version, entry.value)


async def test_a_trade_and_a_quote_by_call_are_seen_by_a_watcher_in_order(
    cache: MarketCache, publisher: TickPublisher
) -> None:
    name = "binance.spot.WATCHED-USDT"
    prices: list[str] = []
    async with asyncio.timeout(DEADLINE_S), aclosing(cache.watch(f"md:{name}:trade")) as entries:
        await publisher.trade(name, price="0", size="1", ts_event_ns=TS_NS)
        await publisher.flush()
        async for entry in entries:
            if entry is None:
                continue
            prices.append(entry.value["price"])
            if len(prices) == 5:
                break
            await publisher.trade(name, price=str(len(prices)), size="1", ts_event_ns=TS_NS)
            await publisher.flush()
    assert prices == ["0", "1", "2", "3", "4"]


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_what_is_refused_becomes_dead_letters_and_the_rest_goes_on(
    running: Settings, cache: MarketCache, wait_until: WaitUntil
) -> None:
    good = TOLD["trade"][0]
    bad = {
        "bad_json": b"{no json",
        "missing_field": line("BAD-USDT", {"data_type": "trade", "price": "1"}),
        "bad_number": line("BAD-USDT", {**good, "price": "1,5"}),
        "unknown_type": line("BAD-USDT", {**good, "data_type": "gossip"}),
        "bad_symbol": line("bad usdt", good),
    }
    async with JsonPublisher(running) as gateway:
        await gateway.publish([line("FIRST-USDT", good), *bad.values(), line("LAST-USDT", good)])
    frame, write = b"MPF1 and then nothing that a frame has", b"\x81\xa2op\xa4burn"
    producer = await start_producer(running.kafka)
    try:
        for topic, value in ((FRAMES, frame), (WRITES, write)):
            await producer.send_and_wait(running.topics.prefix + topic, value, partition=1)
    finally:
        await stop_client(producer)
    for symbol in ("FIRST-USDT", "LAST-USDT"):
        await wait_until(lambda symbol=symbol: cache.get(key(symbol, "trade")), DEADLINE_S, symbol)
    await cache.put("refused:after", 1)
    letters = {"bad_frame": frame, "bad_write": write, **bad}

    async def all_there() -> Any:
        found = [letter async for letter in DeadLetters(running).read() if letter.value in letters.values()]
        return found if len(found) >= len(letters) else None

    found = await wait_until(all_there, DEADLINE_S, "the dead letters")
    assert {letter.reason: letter.value for letter in found} == letters
    assert len(found) == len(letters)
    topics = {"bad_frame": FRAMES, "bad_write": WRITES}
    for letter in found:
        assert letter.topic == running.topics.prefix + topics.get(letter.reason, JSON_TICKS)
        assert letter.offset >= 0 and letter.detail
    assert (await cache.get(key("BAD-USDT", "trade"))) is None
    assert json.loads((await ask(running, "/health"))[1])["status"] == "healthy"


# -- generic entries ---------------------------------------------------------------------------------------------------


async def test_puts_deletes_tags_and_clears_reach_other_readers(
    running: Settings, cache: MarketCache, wait_until: WaitUntil
) -> None:
    await cache.put("gone:a", 1)
    await cache.put("tagged:a", [1], ttl_ms=60_000, tags=["red", "blue"])
    await cache.put("tagged:b", [2], ttl_ms=60_000, tags=["blue"])
    await cache.put("cleared:a", "x")
    version = await cache.put("kept:a", {"user": 7, "raw": b"\x00"})
    await cache.delete("gone:a")
    await cache.delete_tag("red")
    await cache.clear("cleared")
    last = await cache.put("tagged:c", [3], ttl_ms=60_000, tags=["red"])
    at = cache._locate("tagged:c").partition
    await wait_until(lambda: cache.position(Space.GENERIC, at) >= last, DEADLINE_S, "the last write")
    async with MarketCache(running, follow=False) as other:
        entry = await wait_until(lambda: other.get("kept:a"), DEADLINE_S, "the value that was put")
        assert (entry.value, entry.version, entry.tier) == ({"user": 7, "raw": b"\x00"}, version, "redis")
        for reader in (cache, other):
            values = {}
            for name in ("gone:a", "tagged:a", "tagged:b", "tagged:c", "cleared:a"):
                entry = await reader.get(name)
                values[name] = entry and entry.value
            assert values == {
                "gone:a": None, "tagged:a": None, "tagged:b": [2], "tagged:c": [3], "cleared:a": None,
            }  # fmt: skip


async def test_a_life_below_a_second_ends_at_its_instant_and_not_before(
    running: Settings, cache: MarketCache, wait_until: WaitUntil
) -> None:
    at = cache._locate("brief:a")
    async with MarketCache(running, follow=False) as other, aclosing(connect_redis(running.redis)) as redis:

        async def alive() -> int | None:
            """End of a life that was seen; a slow machine is given another one."""
            began_ms = time.time_ns() // 1_000_000
            await cache.put("brief:a", 1, ttl_ms=700)

            async def there_or_over() -> bool:
                return await redis.exists(at.redis_key) or time.time_ns() // 1_000_000 > began_ms + 700

            await wait_until(there_or_over, DEADLINE_S, "the entry in Redis")
            entry, ends_ms = await other.get("brief:a"), await redis.pexpiretime(at.redis_key)
            if entry is None or ends_ms < 0:
                assert time.time_ns() // 1_000_000 >= began_ms + 700, "it lives"
                return None
            assert began_ms + 700 <= ends_ms <= time.time_ns() // 1_000_000 + 700
            return int(ends_ms)

        ends_ms = await wait_until(alive, DEADLINE_S, "a look at the entry within its life")

        async def missing() -> bool:
            return await other.get("brief:a") is None

        await wait_until(missing, DEADLINE_S, "the end of its life")
        assert time.time_ns() // 1_000_000 >= ends_ms
        assert await cache.get("brief:a") is None


async def test_a_restart_gives_entries_back_from_disk(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        async with MarketCache(settings) as cache:
            kept = await cache.put("kept:a", "still here", ttl_ms=600_000)
            forever = await cache.put("kept:b", "and here")
            await cache.put("gone:a", 1)
            await cache.put("tagged:a", 1, ttl_ms=600_000, tags=["t"])
            await cache.put("brief:a", 1, ttl_ms=300)
            await cache.delete("gone:a")
            await cache.delete_tag("t")
            for name in ("kept:a", "kept:b", "gone:a", "tagged:a", "brief:a"):
                await cache.get(name)  # own writes are read once the worker has applied them
        await worker.stop()
        await forget_keys(settings.redis.url, settings.topics.prefix)
        await worker.start()
        async with MarketCache(settings, follow=False) as other:
            entries = [await other.get(name) for name in ("kept:a", "kept:b", "gone:a", "tagged:a", "brief:a")]
            assert [entry and (entry.version, entry.value) for entry in entries] == [
                (kept, "still here"), (forever, "and here"), None, None, None,
            ]  # fmt: skip
            ends_ms = (await _expiry_ms(settings, "kept:a")) - 600_000
            assert abs(ends_ms - time.time_ns() // 1_000_000) < 60_000, "a restart does not lengthen a life"
        log = (tmp_path / "log").read_text()
        assert "worker_failed" not in log


async def _expiry_ms(settings: Settings, text: str) -> int:
    at = parse_key(text)
    name = redis_key(settings.topics.prefix, at, at.partition(settings.kafka.partitions))
    async with aclosing(connect_redis(settings.redis)) as redis:
        return int(await redis.pexpiretime(name))


# -- books that miss something -----------------------------------------------------------------------------------------


async def requests(settings: Settings) -> list[dict[str, Any]]:
    """Everything in `md.requests.v1`."""
    topic = settings.topics.prefix + REQUESTS
    tp = TopicPartition(topic, 0)
    consumer = await start_consumer(settings.kafka, topic, [0])
    found: list[dict[str, Any]] = []
    try:
        end = (await consumer.end_offsets([tp]))[tp]
        while await consumer.position(tp) < end:
            found += [json.loads(r.value) for r in (await consumer.getmany(tp, timeout_ms=100)).get(tp, [])]
    finally:
        await stop_client(consumer)
    return found


Levels = tuple[tuple[int, int], ...]


async def test_a_gap_of_update_ids_asks_for_a_snapshot_and_the_next_one_heals_the_book(
    running: Settings, cache: MarketCache, publisher: TickPublisher, wait_until: WaitUntil
) -> None:
    instrument = Instrument("binance", "spot", "GAP-USDT", price_exp=0, size_exp=0)
    model = BookPool(1)

    async def say(event: TickArray) -> None:
        model.apply(event, np.zeros(len(event), np.int32), model.header(0).version + 1)
        await publisher.publish(event, [instrument])

    async def state(wanted: int, update_id: int) -> bool:
        header = await book_header(running, instrument.text)
        return header is not None and (header.state, header.last_update_id) == (wanted, update_id)

    async def asked() -> list[tuple[int, int]]:
        own = [r for r in await requests(running) if r["instrument"] == instrument.text]
        assert all(r["request"] == "snapshot" and r["ts_ns"] > TS_NS for r in own)
        return [(r["book_update_id"], r["diff_first_id"]) for r in own]

    async def levels() -> tuple[Any, ...]:
        entry = await cache.get(f"md:{instrument.text}:book")
        assert entry is not None
        return tuple(tuple((int(p), int(q)) for p, q in entry.value[side]) for side in ("bids", "asks"))

    async def shown(bids: Levels, asks: Levels) -> bool:  # Redis has a book before readers are told of it
        return await levels() == (bids, asks)

    await say(books.diff(9, 11, {100: 1}, {}))  # before its snapshot
    await wait_until(lambda: state(AWAITS_SNAPSHOT, 0), DEADLINE_S, "a book that awaits its first snapshot")
    await say(books.snapshot(10, {99: 5, 98: 1}, {101: 5}))
    await wait_until(lambda: state(LIVE, 11), DEADLINE_S, "the snapshot and the diff that waited")
    await wait_until(lambda: shown(((100, 1), (99, 5), (98, 1)), ((101, 5),)), DEADLINE_S, "the book of both")

    await say(books.diff(12, 14, {100: 7}, {101: 0}))  # 12 never came
    await wait_until(lambda: state(AWAITS_SNAPSHOT, 11), DEADLINE_S, "a book that awaits a snapshot")
    assert await levels() == (((100, 1), (99, 5), (98, 1)), ((101, 5),)), "what waits is not shown"
    await say(books.diff(14, 15, {}, {103: 2}))
    await say(books.snapshot(13, {100: 3}, {101: 4}))
    await wait_until(lambda: state(LIVE, 15), DEADLINE_S, "the healed book")
    await wait_until(lambda: shown(((100, 7),), ((103, 2),)), DEADLINE_S, "its levels")
    assert await levels() == tuple(tuple(map(tuple, side.tolist())) for side in model.levels(0))
    assert await wait_until(asked, DEADLINE_S, "requests") == [(0, 10), (11, 13)]


# -- leaving, and coming back ------------------------------------------------------------------------------------------


async def test_sigterm_in_the_middle_of_work_leaves_quickly_and_a_restart_applies_nothing_twice(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    n_sent = 0

    async def keep_sending(publisher: TickPublisher, stop: asyncio.Event) -> None:
        nonlocal n_sent
        while not stop.is_set():
            for symbol in ("A", "B", "C", "D", "E", "F"):
                await publisher.trade(f"x.spot.{symbol}-USD", price=str(n_sent), size="1", ts_event_ns=TS_NS)
                n_sent += 1
            await publisher.flush()

    async with WorkerProcess(settings, tmp_path / "log") as worker, TickPublisher(settings) as publisher:
        stop = asyncio.Event()
        sending = asyncio.create_task(keep_sending(publisher, stop))
        for round_ in range(3):
            before = max(on_disk(settings).values())
            await wait_until(
                lambda before=before: max(on_disk(settings).values()) > before, DEADLINE_S, "a barrier under load"
            )
            seconds = await worker.stop(deadline_s=60)
            print(f"stop {round_ + 1} under load took {seconds:.2f} s, worker's end: {worker.last_line()}")
            assert seconds < STOP_BOUND_S
            assert "worker_stopped" in worker.last_line()
            durable = on_disk(settings)
            assert durable == await committed(settings), "what is durable is committed, and nothing else is"
            n_durable = sum(_rows(settings))
            if round_ == 2:
                stop.set()
                await sending
            await worker.start()
        await wait_until(reached([settings], await last_offsets(settings)), DEADLINE_S, "everything sent")
        assert sum(_rows(settings)) == n_sent
        assert await metric(settings, "marketprism_market_ticks_total") == n_sent - n_durable
        assert await metric(settings, "marketprism_market_gaps_total") == 0


def _rows(settings: Settings) -> list[int]:
    """Rows counted in each partition on disk."""
    counted = []
    for number in range(settings.kafka.partitions):
        rows = read_partition(settings, number).market.rows
        counted.append(int(rows.rows[:, :, facets.N_ROWS].sum()))
    return counted


async def test_the_port_tells_metrics_health_and_readiness(
    running: Settings, cache: MarketCache, wait_until: WaitUntil
) -> None:
    await cache.put("port:a", 1)
    status, text = await ask(running, "/ready")
    assert (status, json.loads(text)) == (200, {"ready": True})
    status, text = await ask(running, "/health")
    report = json.loads(text)
    assert (status, report["status"], report["partitions"], report["redis_behind"]) == (
        200, "healthy", list(range(running.kafka.partitions)), [],
    )  # fmt: skip
    assert report["uptime_s"] > 0
    assert await metric(running, "marketprism_worker_partitions") == running.kafka.partitions
    assert await metric(running, "marketprism_redis_up") == 1

    async def barriers() -> float:
        return await metric(running, "marketprism_barrier_seconds_count")

    await wait_until(barriers, DEADLINE_S, "a barrier")


async def test_a_port_that_is_taken_is_said_before_anything_else(running: Settings, tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="is taken"):
        async with WorkerProcess(running, tmp_path / "log"):
            pytest.fail("two workers on one port")


# -- two workers -------------------------------------------------------------------------------------------------------


async def test_two_workers_share_partitions_and_hand_them_over_in_mid_replay(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    day = sample_day()
    settings = replace(settings, publisher=replace(settings.publisher, frame_ticks=64))
    port = free_ports(1)[0]
    other = replace(settings, worker=replace(settings.worker, data_dir=str(tmp_path / "other"), port=port))
    everything = set(range(settings.kafka.partitions))

    async def owned(worker: Settings) -> set[int]:
        status, text = await ask(worker, "/health")
        report = json.loads(text)
        return set(report["partitions"]) if status == 200 and report["ready"] else set()

    async def shared() -> bool:
        one, two = await owned(settings), await owned(other)
        return bool(one and two) and not one & two and one | two == everything

    async def is_served(**options: Any) -> None:
        report = await Replay([day], settings, live=True, **options).run()
        assert report.digest == GOLDEN["digest"]
        await wait_until(reached([settings, other], report.offsets), DEADLINE_S, "every frame on one of the disks")
        assert merged_digest(settings, other) == GOLDEN["digest"]

    async with WorkerProcess(settings, tmp_path / "one.log"), WorkerProcess(other, tmp_path / "two.log") as second:
        await wait_until(shared, DEADLINE_S, "a share for each")
        await is_served()
        await wait_until(shared, DEADLINE_S, "a share for each after the replay")

        async def hand_over(_: Pause) -> None:
            print(f"the second worker left within {await second.stop():.2f} s")

        await is_served(speed=300, pause_at=[day.rows // 2], on_pause=hand_over)

        async def has_everything() -> bool:
            return await owned(settings) == everything

        await wait_until(has_everything, DEADLINE_S, "everything with the first one")

        async def join(_: Pause) -> None:
            joining.append(asyncio.create_task(second.start()))

        joining: list[asyncio.Task[float]] = []
        await is_served(speed=150, pause_at=[day.rows // 3], on_pause=join)
        await joining[0]
        await wait_until(shared, DEADLINE_S, "a share for each again")
    for log in ("one.log", "two.log"):
        assert "worker_failed" not in (tmp_path / log).read_text()
