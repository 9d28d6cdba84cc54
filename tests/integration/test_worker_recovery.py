"""A recovery says how far it is, and ends: with a worker that serves or with an error, never with a hang."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from models.errors import ServiceUnavailable
from streams.client.publisher import TickPublisher
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil
from tests.workers import ask, last_offsets, metric, reached, wipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DEADLINE_S = 60.0


async def publish_some(settings: Settings, wait_until: WaitUntil) -> None:
    async with TickPublisher(settings) as publisher:
        for number in range(40):
            await publisher.trade(f"x.spot.C{number}-USD", price="1", size="1", ts_event_ns=10**18)
        await publisher.flush()
    await wait_until(reached([settings], await last_offsets(settings)), DEADLINE_S, "everything on disk")


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
    settings = replace(settings, worker=replace(settings.worker, stall_timeout_s=4.0))
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        await publish_some(settings, wait_until)
        await worker.stop()
        wipe(settings)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
        await admin.start()
        try:
            own = [topic for topic in await admin.list_topics() if topic.startswith(settings.topics.prefix)]
            (name,) = [topic for topic in own if topic.endswith("changelog")]
            parts = [TopicPartition(name, number) for number in range(settings.kafka.partitions)]
            await admin.delete_records(dict.fromkeys(parts, RecordsToDelete(-1)))
        finally:
            await admin.close()
        with pytest.raises(ServiceUnavailable, match=r"recovering .* made no progress for .*changelog was emptied"):
            async with asyncio.timeout(DEADLINE_S):
                await worker.start()
