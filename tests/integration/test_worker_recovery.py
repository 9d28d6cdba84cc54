"""A recovery says how far it is, and ends: with a worker that serves or with an error, never with a hang."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete

from models.cache.version import epoch_of
from models.errors import ServiceUnavailable
from streams.client.publisher import TickPublisher
from streams.client.reader import Entry, MarketCache
from streams.kafka.admin import ensure_topics
from streams.kafka.offsets import last_offsets
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import FRAMES
from tests.conftest import WaitUntil
from tests.sites import forget_keys
from tests.workers import ask, changelog_of, marks, metric, reached, wipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DEADLINE_S = 60.0


async def publish(settings: Settings, name: str) -> None:
    async with TickPublisher(settings) as publisher:
        for number in range(40):
            await publisher.trade(f"x.spot.{name}{number}-USD", price="1", size="1", ts_event_ns=10**18)
        await publisher.flush()


async def publish_some(settings: Settings, wait_until: WaitUntil) -> None:
    await publish(settings, "C")
    await wait_until(reached([settings], await last_offsets(settings)), DEADLINE_S, "everything on disk")


async def commit_all(settings: Settings) -> dict[int, int]:
    """As another owner that has applied every frame; the last offset of each partition."""
    ends = await last_offsets(settings)
    offsets = {TopicPartition(settings.topics.prefix + FRAMES, number): end + 1 for number, end in ends.items()}
    group = settings.topics.prefix + settings.worker.id
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap, group_id=group) as other:
        other.assign(list(offsets))
        await other.commit(offsets)
    return ends


@asynccontextmanager
async def changelog(settings: Settings) -> AsyncIterator[tuple[AIOKafkaAdminClient, str]]:
    """An admin client, and the name of the changelog."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    try:
        yield admin, await changelog_of(settings)
    finally:
        await admin.close()


async def test_a_recovery_tells_how_many_records_it_read_and_how_long_it_took(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        await publish_some(settings, wait_until)
        await worker.stop()
        wipe(settings)
        await worker.start()
        report = json.loads((await ask(settings, "/health"))[1])["recovery"]
        assert report["phase"] == "serving"
        assert report["records_done"] == report["records_total"] > settings.kafka.partitions
        assert 0 < report["seconds"] < DEADLINE_S
        assert await metric(settings, "marketprism_recovery_records_total") == report["records_done"]
        assert await metric(settings, "marketprism_recovery_remaining_records") == 0
        assert await metric(settings, "marketprism_recovery_seconds") == pytest.approx(report["seconds"], abs=0.001)
        assert f"recovered records={report['records_done']}" in (tmp_path / "log").read_text()


async def test_a_changelog_that_was_emptied_ends_the_worker_with_an_error_that_says_so(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Whether the disk has nothing, which Faust takes for a state that is empty, or too little, which it waits for."""
    settings = replace(settings, worker=replace(settings.worker, stall_timeout_s=8.0))
    older = tmp_path / "older"
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        await publish_some(settings, wait_until)
        await worker.stop()
        shutil.copytree(settings.worker.data_dir, older)
        await worker.start()
        await publish_some(settings, wait_until)
        await worker.stop()
        wipe(settings)
        async with changelog(settings) as (admin, name):
            parts = [TopicPartition(name, number) for number in range(settings.kafka.partitions)]
            for policy in ("compact,delete", "compact"):  # Kafka refuses to empty a topic that is only compacted
                await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": policy})])
                if policy != "compact":
                    await admin.delete_records(dict.fromkeys(parts, RecordsToDelete(-1)))
        for disk in ("empty", "older"):
            if disk == "older":
                shutil.copytree(older, settings.worker.data_dir, dirs_exist_ok=True)
            with pytest.raises(ServiceUnavailable, match=r"changelog was emptied"):
                async with asyncio.timeout(DEADLINE_S):
                    await worker.start()


async def test_what_the_group_committed_beyond_the_pages_is_read_all_the_same(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Another owner went on: a worker that woke between loading its pages and asking for offsets is told of those."""
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        await publish_some(settings, wait_until)
        await worker.stop()
        await publish(settings, "D")
        ends = await commit_all(settings)
        await worker.start()
        await wait_until(reached([settings], ends), DEADLINE_S, "what was published while it was away")
        assert "committed_beyond_state" in (tmp_path / "log").read_text()


async def test_a_topic_created_anew_is_read_from_its_first_record_whatever_the_group_committed(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """As above, and both owners raised the epoch: the pages of the one that woke know nothing of the new topic."""
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        await publish_some(settings, wait_until)
        async with MarketCache(settings, follow=False) as cache:
            assert await cache.incr("count:a") == 1
        await worker.stop()
        async with changelog(settings) as (admin, _):
            await admin.delete_topics([settings.topics.prefix + FRAMES])
        await ensure_topics(settings)
        await publish(settings, "E")
        await commit_all(settings)
        await worker.start()
        async with MarketCache(settings, follow=False) as cache:

            async def served() -> bool:
                found = await cache.get_many([f"md:x.spot.E{number}-USD:trade" for number in range(40)])
                return all(isinstance(entry, Entry) and epoch_of(entry.version) == 1 for entry in found)

            await wait_until(served, DEADLINE_S, "every instrument of the new topic")
            assert await cache.incr("count:a") == 2
            entry = await cache.get("count:a")
            assert entry is not None and epoch_of(entry.version) == 1


@pytest.mark.parametrize("redis", ["lives", "forgot"])
async def test_owners_of_a_changelog_that_was_deleted_are_newer_than_all_that_copies_remember(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil, redis: str
) -> None:
    await ensure_topics(settings)
    async with MarketCache(settings) as reader, WorkerProcess(settings, tmp_path / "log") as worker:
        for _ in range(2):  # so that tokens are above those of a new changelog
            await publish_some(settings, wait_until)
            await worker.stop()
            await worker.start()
        before = [mark.token for mark in await marks(settings)]
        await worker.stop()
        async with changelog(settings) as (admin, name):
            await admin.delete_topics([name])
        if redis == "forgot":  # the announcements remember
            await forget_keys(settings.redis.url, settings.topics.prefix)
        await worker.start()
        after = [mark.token for mark in await marks(settings)]
        assert all(new > old for new, old in zip(after, before, strict=True))
        assert {epoch_of(token) for token in before} == {0} and {epoch_of(token) for token in after} == {1}
        async with MarketCache(settings, follow=False) as writer:
            await writer.put("heard:a", "of the new owner")

        async def heard() -> bool:
            entry = await reader.get("heard:a")
            return entry is not None and entry.value == "of the new owner"

        await wait_until(heard, DEADLINE_S, "a reader that had heard the old owners")
        await worker.stop()
        await worker.start()
        assert {epoch_of(mark.token) for mark in await marks(settings)} == {1}, "the epoch stays with the changelog"
