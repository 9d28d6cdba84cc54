"""The broker is restarted, or hangs, while ticks flow: the worker goes on, or ends with an error; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agents.cli.worker import EXIT_S
from models.errors import DeadlineExceeded, ServiceUnavailable
from streams.client.publisher import TickPublisher
from streams.days.replay import Pause, Replay
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.admin import ensure_topics
from streams.services import LocalSite
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import ServicesSettings, Settings
from streams.topics import FRAMES
from tests.conftest import WaitUntil
from tests.workers import GOLDEN, is_gone, sample_day

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DEADLINE_S = 90.0
RESTART_S = 120.0  # what a broker may take for it where nobody is to give up before
SPEED = 100
STALL_S = 8.0  # longer than a step of a start takes on a busy machine, or the worker would end before its broker does


@pytest.fixture(scope="module")
def mistreated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    """A Kafka and a Redis that tests may kill; what the broker has outlives its restart."""
    kafka, controller, redis = free_ports(3)
    folder = tmp_path_factory.mktemp("mistreated")
    site = LocalSite(
        ServicesSettings(state_dir=str(folder), kafka_port=kafka, controller_port=controller, redis_port=redis)
    )
    yield site
    site.down()


@pytest.fixture
def own_site(settings: Settings, mistreated: LocalSite) -> tuple[LocalSite, Settings]:
    """It runs again, whatever the test before did to it."""
    mistreated.up()
    return mistreated, replace(
        settings,
        kafka=replace(settings.kafka, bootstrap=mistreated.addresses.bootstrap),
        redis=replace(settings.redis, url=mistreated.addresses.redis_url),
        publisher=replace(settings.publisher, frame_ticks=64, delivery_timeout_s=RESTART_S),
    )


async def is_the_day(run: Settings) -> None:
    assert served_digest(run) == GOLDEN["digest"]
    assert await redis_differences(run, disk_finals(run)) == []


def broker(site: LocalSite) -> psutil.Process:
    (pid,) = [service.pid for service in site.status() if service.name == "Kafka"]
    assert pid
    return psutil.Process(pid)


def flip_last_bit(folder: Path, topic: str) -> int:
    """Damage the newest record of the one partition that has any; the partition."""
    (log,) = (found for found in folder.rglob(f"{topic}-*/*.log") if found.stat().st_size)
    raw = log.read_bytes()
    with log.open("r+b") as file:
        file.seek(len(raw) - 1)
        file.write(bytes([raw[-1] ^ 1]))
    return int(log.parent.name.rpartition("-")[2])


async def test_a_worker_outlives_a_restart_of_its_broker_under_load(
    own_site: tuple[LocalSite, Settings], tmp_path: Path
) -> None:
    site, settings = own_site
    settings = replace(settings, kafka=replace(settings.kafka, request_timeout_s=RESTART_S))
    day = sample_day()

    async def restart() -> None:
        process = broker(site)
        process.kill()
        await asyncio.to_thread(process.wait, 10)
        await asyncio.to_thread(site.up, deadline_s=RESTART_S)

    async def begin(_: Pause) -> None:  # the replay goes on meanwhile
        restarts.append(asyncio.create_task(restart()))

    restarts: list[asyncio.Task[None]] = []
    replay = Replay([day], settings, speed=SPEED, pause_at=[day.rows // 3], on_pause=begin)
    run = replay.settings
    async with WorkerProcess(run, tmp_path / "log") as worker:
        first = worker.pid
        report = await replay.run()
        await restarts[0]
        await wait_served(run, report.offsets, DEADLINE_S)
        await is_the_day(run)
        assert worker.pid == first
    assert "worker_failed" not in (tmp_path / "log").read_text()


async def test_a_broker_that_hangs_ends_the_worker_and_the_next_one_serves_the_day(
    own_site: tuple[LocalSite, Settings], tmp_path: Path, wait_until: WaitUntil
) -> None:
    site, settings = own_site
    settings = replace(settings, worker=replace(settings.worker, stall_timeout_s=STALL_S))
    day, log = sample_day(), tmp_path / "log"
    took: list[float] = []

    async def freeze(_: Pause) -> None:
        # what was sent before the pause is in its sockets; the worker's round and barrier now wait for acknowledgements
        process = broker(site)
        process.suspend()
        began = time.monotonic()
        try:
            await wait_until(lambda: is_gone(worker.pid), DEADLINE_S, "its end")
            took.append(time.monotonic() - began)
        finally:
            process.resume()

    replay = Replay([day], settings, speed=SPEED, pause_at=[day.rows // 3], on_pause=freeze)
    run = replay.settings
    async with WorkerProcess(run, log) as worker:
        running = asyncio.create_task(replay.run())
        await wait_until(lambda: took, DEADLINE_S, "the end of the worker")
        assert "made no progress for" in worker.last_line()
        print(f"the worker ended {took[0]:.1f} s after its broker had stopped answering")
        assert took[0] < STALL_S + EXIT_S + 10
        await worker.start()
        report = await running
        await wait_served(run, report.offsets, DEADLINE_S)
        await is_the_day(run)


async def test_a_frame_that_was_damaged_on_the_brokers_disk_ends_the_worker_with_its_place(
    own_site: tuple[LocalSite, Settings], tmp_path: Path, wait_until: WaitUntil
) -> None:
    site, settings = own_site
    topic = settings.topics.prefix + FRAMES
    await ensure_topics(settings)
    async with TickPublisher(settings) as publisher:
        await publisher.trade("x.spot.A-USD", price="1", size="1", ts_event_ns=10**18)
        await publisher.flush()
    number = flip_last_bit(Path(site.settings.state_dir), topic)
    worker = WorkerProcess(settings, tmp_path / "log")
    with contextlib.suppress(ServiceUnavailable):  # as soon as it reads, which may be before anybody saw it serve
        await worker.start()
    await wait_until(lambda: is_gone(worker.pid), DEADLINE_S, "the end of the worker")
    where = re.escape(f"topic='{topic}', partition={number}) at offset 0: bytes are damaged")
    assert re.search(f"the worker stopped: .*{where}", worker.last_line())


async def test_a_worker_whose_broker_is_gone_says_so_and_ends(
    own_site: tuple[LocalSite, Settings], tmp_path: Path, wait_until: WaitUntil
) -> None:
    site, settings = own_site
    settings = replace(settings, worker=replace(settings.worker, stall_timeout_s=STALL_S))
    async with WorkerProcess(settings, tmp_path / "log") as worker:
        broker(site).kill()
        await wait_until(lambda: is_gone(worker.pid), DEADLINE_S, "the end of the worker")
        assert "worker_failed" in (tmp_path / "log").read_text()
        with pytest.raises((DeadlineExceeded, Exception), match="does not answer"):
            await worker.start()
