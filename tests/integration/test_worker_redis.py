"""Redis loses its data, stops, hangs, or meets a writer that lost its partition: in the end it holds the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from models.cache.keys import Space
from models.errors import OwnerFenced, ServiceSetupError
from streams.cache.batch import Answer, Batch, put
from streams.cache.connect import connect_redis
from streams.cache.redis import PartitionWriter
from streams.client.reader import MarketCache
from streams.days.day import Day
from streams.days.replay import Pause, Replay
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.admin import ensure_topics
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.sites import OwnRedis, forget_keys
from tests.workers import GOLDEN, ask, in_redis, is_gone, marks, metric, reached, sample_day

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DEADLINE_S = 60.0
SPEED = 200  # the sample day in 4.5 s


@pytest.fixture(scope="module")
def day() -> Day:
    return sample_day()


@pytest.fixture
def small_frames(settings: Settings) -> Settings:
    return replace(settings, publisher=replace(settings.publisher, frame_ticks=64))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    try:
        redis = OwnRedis(tmp_path / "redis")
    except ServiceSetupError as exc:
        pytest.skip(f"needs a Redis that a test may stop: {exc}")
    redis.start()
    try:
        yield redis
    finally:
        redis.stop()


async def redis_is_whole(run: Settings) -> None:
    ends = disk_finals(run)
    assert served_digest(run) == GOLDEN["digest"]
    assert await redis_differences(run, ends) == []


async def behind(run: Settings) -> list[str]:
    status, text = await ask(run, "/health")
    report = json.loads(text)
    assert (status, report["status"]) == (200, "degraded" if report["redis_behind"] else "healthy")
    return list(report["redis_behind"])


async def test_a_flushed_redis_is_written_again_from_the_pages_while_the_day_goes_on(
    small_frames: Settings, day: Day, tmp_path: Path
) -> None:
    async def flush(_: Pause) -> None:
        assert await forget_keys(run.redis.url, run.topics.prefix) > 0

    replay = Replay([day], small_frames, speed=SPEED, pause_at=[day.rows // 3, day.rows // 2], on_pause=flush)
    run = replay.settings
    async with WorkerProcess(run, tmp_path / "log"):
        rewrites = await metric(run, "marketprism_redis_rewrites_total")
        async with MarketCache(run, follow=False) as cache:
            version = await cache.put("kept:a", "still there")
        report = await replay.run()
        await wait_served(run, report.offsets, DEADLINE_S)
        await redis_is_whole(run)
        assert await metric(run, "marketprism_redis_rewrites_total") >= rewrites + run.kafka.partitions
        async with MarketCache(run, follow=False) as cache:
            entry = await cache.get("kept:a")
            assert entry is not None and (entry.version, entry.value) == (version, "still there")


async def test_a_flush_at_rest_is_noticed_by_the_next_heartbeat(
    small_frames: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    replay = Replay([day], small_frames)
    run = replay.settings
    async with WorkerProcess(run, tmp_path / "log"):
        report = await replay.run()
        await wait_served(run, report.offsets, DEADLINE_S)
        before = await marks(run)
        await forget_keys(run.redis.url, run.topics.prefix)

        async def whole() -> bool:
            return [mark.version for mark in await marks(run)] == [mark.version for mark in before]

        await wait_until(whole, DEADLINE_S, "every mark")
        await redis_is_whole(run)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_a_worker_goes_on_without_redis_and_writes_everything_when_it_is_back(
    small_frames: Settings, own_redis: OwnRedis, day: Day, tmp_path: Path, wait_until: WaitUntil, how: str
) -> None:
    away: list[Pause] = []

    async def turn(pause: Pause) -> None:
        if not away:
            own_redis.stop() if how == "stopped" else own_redis.freeze(True)
        else:
            await wait_until(reached([run], pause.offsets), DEADLINE_S, "what came without Redis is durable")
            assert await wait_until(lambda: behind(run), DEADLINE_S, "a degraded worker")
            own_redis.start() if how == "stopped" else own_redis.freeze(False)
        away.append(pause)

    settings = replace(small_frames, redis=replace(small_frames.redis, url=own_redis.url, timeout_s=0.3))
    replay = Replay([day], settings, speed=SPEED, pause_at=[day.rows // 4, day.rows // 2], on_pause=turn)
    run = replay.settings
    async with WorkerProcess(run, tmp_path / "log"):
        report = await replay.run()
        await wait_served(run, report.offsets, DEADLINE_S)

        async def healthy() -> bool:
            return not await behind(run)

        await wait_until(healthy, DEADLINE_S, "a healthy worker")
        await redis_is_whole(run)
        assert await metric(run, "marketprism_redis_up") == 1
    assert "worker_failed" not in (tmp_path / "log").read_text()


# -- who may write -----------------------------------------------------------------------------------------------------


async def test_a_writer_with_an_older_token_is_refused_and_changes_nothing(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    async with WorkerProcess(settings, tmp_path / "log") as worker, MarketCache(settings) as cache:
        await worker.stop()
        await worker.start()  # the first owner's token was 0
        version = await cache.put("fenced:a", "the owner's")
        at = cache._locate("fenced:a").partition

        async def written() -> bool:
            return (await marks(settings, Space.GENERIC))[at].version >= version

        await wait_until(written, DEADLINE_S, "the entry in Redis")
        before = await in_redis(settings, "fenced:a")
        token = (await marks(settings, Space.GENERIC))[at].token
        assert before is not None and token > 0
        async with aclosing(connect_redis(settings.redis)) as redis:
            zombie = PartitionWriter(redis, url=settings.redis.url, prefix=settings.topics.prefix)
            update = (cache._locate("fenced:a").redis_key, put((version + 5).to_bytes(8, "big") + b"the zombie's"))
            for rewrite in (False, True):
                batch = Batch(Space.GENERIC, at, token - 1, version, version + 5, 0, updates=[update], rewrite=rewrite)
                (outcome,) = await zombie.apply(batch)
                assert (outcome.answer, outcome.token) == (Answer.FENCED, token)
            (outcome,) = await zombie.heartbeat([(Space.GENERIC, at, token - 1, version, 0)])
            assert outcome.answer is Answer.FENCED
            with pytest.raises(OwnerFenced, match=f"followed by {token}"):
                await zombie.take(Space.GENERIC, at, token - 1, reset=True)
        assert await in_redis(settings, "fenced:a") == before
        newer = await cache.put("fenced:a", "again the owner's")
        assert newer > version
        assert json.loads((await ask(settings, "/health"))[1])["status"] == "healthy"


async def test_a_worker_that_meets_a_newer_token_stops(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    worker = WorkerProcess(settings, tmp_path / "log")
    async with worker:
        token = max(mark.token for mark in await marks(settings))
        async with aclosing(connect_redis(settings.redis)) as redis:
            usurper = PartitionWriter(redis, url=settings.redis.url, prefix=settings.topics.prefix)
            await usurper.take(Space.MARKET, 2, token + 1_000)
        await wait_until(lambda: is_gone(worker.pid), DEADLINE_S, "its end")
        assert f"followed by {token + 1_000}" in (tmp_path / "log").read_text()


async def test_a_worker_that_was_frozen_while_another_took_over_overwrites_nothing(
    small_frames: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    worker = replace(small_frames.worker, session_timeout_s=2.0)
    one = replace(small_frames, worker=worker)
    two = replace(one, worker=replace(worker, data_dir=str(tmp_path / "two"), port=free_ports(1)[0]))
    fresh = replace(one, worker=replace(worker, data_dir=str(tmp_path / "fresh")))
    await ensure_topics(one)
    async with WorkerProcess(one, tmp_path / "one.log") as first, WorkerProcess(two, tmp_path / "two.log") as second:
        frozen = psutil.Process(second.pid)

        async def freeze(_: Pause) -> None:
            frozen.suspend()

        async def noticed() -> bool:
            """The second one gave up, or it joined again and every partition got a new owner."""
            tokens = [mark.token for mark in await marks(one)]
            return is_gone(second.pid) or all(now > then for now, then in zip(tokens, before, strict=True))

        report = await Replay([day], one, live=True, speed=SPEED, pause_at=[day.rows // 3], on_pause=freeze).run()
        await wait_until(reached([one], report.offsets), DEADLINE_S, "everything on the first one's disk")
        before = [mark.token for mark in await marks(one)]
        frozen.resume()
        await wait_until(noticed, DEADLINE_S, "the end of the second one's belief that it owns partitions")
        await redis_is_whole(one)
        for process in (second, first):
            await process.stop()
    async with WorkerProcess(fresh, tmp_path / "fresh.log"):
        await wait_served(fresh, report.offsets, DEADLINE_S)
        await redis_is_whole(fresh)  # although the changelog ends in pages that the second one wrote too late
