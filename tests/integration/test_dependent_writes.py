"""Writes that depend on what a key holds, through a real worker: increments, put-if-version, fills, many puts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from models.cache.entry import grave_version
from models.cache.keys import Space
from models.errors import OutcomeUnknown, WriteRefused
from streams.cache.rocks import store_path
from streams.cache.secondary import Secondary
from streams.client.reader import MarketCache
from streams.kafka.deadletter import DeadLetters
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.workers import metric

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

DEADLINE_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(
    make_settings: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("dependent")
    settings = make_settings(folder)
    settings = replace(settings, worker=replace(settings.worker, instance_id="one"))  # a restart is quick
    async with WorkerProcess(settings, folder / "log") as worker:
        yield worker


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caches(worker: WorkerProcess) -> AsyncIterator[list[MarketCache]]:
    """Two clients of one site, the second of which only looks."""
    async with MarketCache(worker.settings) as one, MarketCache(worker.settings, follow=False) as two:
        yield [one, two]


async def value_of(cache: MarketCache, key: str) -> Any:
    entry = await cache.get(key)
    return entry and entry.value


async def test_a_hundred_increments_at_once_are_a_hundred_and_each_is_told_its_own(caches: list[MarketCache]) -> None:
    numbers = await asyncio.gather(*(caches[i % 2].incr("n:hits") for i in range(100)))
    assert sorted(numbers) == list(range(1, 101))
    assert [await value_of(cache, "n:hits") for cache in caches] == [100, 100]
    assert await caches[0].incr("n:hits", -30) == 70
    assert await value_of(caches[0], "n:hits") == 70


async def test_increments_go_on_from_what_is_on_disk_after_a_crash(
    worker: WorkerProcess, caches: list[MarketCache], wait_until: WaitUntil
) -> None:
    """The first barriers are on disk, the last increments are replayed: none is lost, none counts twice."""
    for _ in range(3):
        await asyncio.gather(*(caches[0].incr("n:crash") for _ in range(20)))
    barriers = await metric(worker.settings, "marketprism_barrier_flushes_total")

    async def at_rest() -> bool:
        return await metric(worker.settings, "marketprism_barrier_flushes_total") > barriers

    await wait_until(at_rest, DEADLINE_S, "a barrier")
    await asyncio.gather(*(caches[0].incr("n:crash") for _ in range(20)))
    await worker.kill()
    await worker.start()
    assert await caches[0].incr("n:crash") == 81
    assert await caches[0].put("n:crash", 5)
    assert await caches[1].incr("n:crash") == 6


async def test_an_increment_keeps_the_life_of_a_number_and_gives_one_to_a_new_one(caches: list[MarketCache]) -> None:
    one, _ = caches
    assert await one.incr("n:brief", ttl_ms=60_000) == 1
    first = await one.get("n:brief")
    assert await one.incr("n:brief", ttl_ms=600_000) == 2
    second = await one.get("n:brief")
    assert first is not None and second is not None
    assert first.expires_at_ms is not None and first.expires_at_ms == second.expires_at_ms


async def test_a_wrong_type_under_the_key_is_refused_kept_as_a_letter_and_harms_nothing(
    worker: WorkerProcess, caches: list[MarketCache], wait_until: WaitUntil
) -> None:
    one, two = caches
    await one.put("n:text", "twelve")
    with pytest.raises(WriteRefused, match="'n:text' holds no whole number"):
        await two.incr("n:text")
    assert await value_of(one, "n:text") == "twelve"
    await one.put("n:large", 2**63 - 1)
    with pytest.raises(WriteRefused, match="64-bit"):
        await one.incr("n:large")

    async def both_letters() -> bool:
        why = [letter.detail async for letter in DeadLetters(worker.settings).read() if letter.reason == "bad_write"]
        return all(any(name in detail for detail in why) for name in ("n:text", "n:large"))

    await wait_until(both_letters, DEADLINE_S, "a letter each")


async def test_of_many_who_replace_one_version_one_wins_and_all_are_told(caches: list[MarketCache]) -> None:
    one, _ = caches
    version = await one.put("cas:a", 0)
    for round_ in range(3):
        new = await asyncio.gather(*(caches[i % 2].put_if("cas:a", [round_, i], version=version) for i in range(10)))
        (winner,) = [i for i, won in enumerate(new) if won is not None]
        version = new[winner] or 0
        entries = [await cache.get("cas:a") for cache in caches]
        assert [(e.version, e.value) for e in entries if e] == [(version, [round_, winner])] * 2


async def test_put_if_absent_wins_once_and_again_after_a_deletion(
    caches: list[MarketCache], wait_until: WaitUntil
) -> None:
    one, two = caches
    assert await one.put_if("cas:new", "first", version=None) is not None
    assert await two.put_if("cas:new", "second", version=None) is None
    assert await value_of(two, "cas:new") == "first"
    await one.delete("cas:new")
    assert await two.put_if("cas:new", "third", version=None) is not None

    async def heard() -> bool:
        return await value_of(one, "cas:new") == "third"

    await wait_until(heard, DEADLINE_S, "the other client's write")


@pytest.mark.parametrize("newer", ["put", "delete", "tag", "clear"])
async def test_a_fill_that_was_overtaken_is_dropped_and_one_that_was_not_counts(
    caches: list[MarketCache], newer: str
) -> None:
    one, two = caches
    key = f"fill{newer}:a"
    base = await one.known(key)
    match newer:
        case "put":
            await two.put(key, "newer")
        case "delete":
            await two.delete(key)
        case "tag":
            await two.delete_tag(newer)
        case "clear":
            await two.clear(f"fill{newer}")
    await one.fill(key, "slow", base=base, ttl_ms=60_000, tags=[newer])
    assert await value_of(one, key) == ("newer" if newer == "put" else None)
    await one.fill(key, "loaded", base=await one.known(key), ttl_ms=60_000, tags=[newer])
    assert [await value_of(cache, key) for cache in caches] == ["loaded"] * 2


async def test_many_puts_are_all_there_and_one_bad_value_stops_all_of_them(
    caches: list[MarketCache], wait_until: WaitUntil
) -> None:
    one, two = caches
    keys = [f"many:{i}" for i in range(300)]
    versions = await one.put_many({key: [key] for key in keys}, ttl_ms=60_000)
    assert [await value_of(one, key) for key in keys] == [[key] for key in keys]

    async def everywhere() -> bool:
        entries = await asyncio.gather(*(two.get(key) for key in keys))
        return [e and (e.value, e.version) for e in entries] == [([key], versions[key]) for key in keys]

    await wait_until(everywhere, DEADLINE_S, "all of them in Redis")
    with pytest.raises(WriteRefused, match="'many:2'"):
        await one.put_many({"many:1": "changed", "many:2": object()})
    with pytest.raises(WriteRefused, match="1048576"):
        await one.put_many({"many:1": "changed", "many:2": random.Random(1).randbytes(1 << 20)})
    assert await value_of(one, "many:1") == ["many:1"]


async def test_without_a_worker_nobody_says_what_became_of_an_increment(
    worker: WorkerProcess, caches: list[MarketCache]
) -> None:
    one, _ = caches
    impatient = replace(worker.settings, reader=replace(worker.settings.reader, max_wait_s=0.5))
    await worker.stop()
    async with MarketCache(impatient, follow=False) as cache:
        with pytest.raises(OutcomeUnknown, match="no worker came to it"):
            await cache.incr("n:later")
    await worker.start()
    assert await one.incr("n:later") == 2
    assert one.position(Space.GENERIC, one._locate("n:later").partition) >= 0


async def test_entries_that_nobody_can_be_given_any_more_leave_the_disk(
    worker: WorkerProcess, caches: list[MarketCache], wait_until: WaitUntil, tmp_path: Path
) -> None:
    n_partitions = worker.settings.kafka.partitions
    await caches[0].put_many({f"gone:{n}": "large" * 100 for n in range(20)})
    await caches[0].put("kept:1", 1)
    await caches[0].clear("gone")
    stores = []
    for number in range(n_partitions):
        (tmp_path / str(number)).mkdir()
        stores.append(Secondary(store_path(worker.settings, number), tmp_path / str(number)))

    def is_grave(key: str) -> bool:
        return any(grave_version(data) is not None for store in stores if (data := store.entry(key)) is not None)

    async def all_are_graves() -> bool:
        await caches[0].put_many({f"other:{n}": 1 for n in range(20)})  # barriers come with writes
        for store in stores:
            store.catch_up()
        return all(is_grave(f"gone:{n}") for n in range(20))

    try:
        await wait_until(all_are_graves, DEADLINE_S, "graves in place of what a floor covers")
        assert not is_grave("kept:1")
    finally:
        for store in stores:
            store.close()
    assert [await value_of(cache, key) for cache in caches for key in ("gone:7", "kept:1")] == [None, 1, None, 1]
