"""Workers killed with SIGKILL at seeded moments: what they serve in the end is the day, every row counted once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from models.market.json_text import to_json
from models.market.tick import Flag
from streams.client.json_publisher import JsonPublisher
from streams.days.day import Day
from streams.days.replay import Pause, Replay
from streams.days.served import disk_finals, redis_differences, served_digest, wait_served
from streams.kafka.admin import ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.instruments import InstrumentDirectory
from streams.kafka.offsets import committed, last_offsets
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import FRAMES, JSON_TICKS
from tests.conftest import WaitUntil
from tests.workers import GOLDEN, Assassin, Between, metric, sample_day, wipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

N_KILLS = 3
N_SOAK_KILLS = 20
DEADLINE_S = 60.0
SPEED = 150  # the sample day in 6 s: its frames meet a worker that is busy, dead or catching up


@pytest.fixture(scope="module")
def day() -> Day:
    return sample_day()


@pytest.fixture
def crashing(settings: Settings) -> Settings:
    """Small frames, so that a kill finds many of them on their way; a static member, so that a restart is quick."""
    return replace(
        settings,
        worker=replace(settings.worker, instance_id="one", commit_interval_s=0.5),
        publisher=replace(settings.publisher, frame_ticks=64),
    )


def moments(seed: int, n: int, n_kills: int = N_KILLS) -> list[int]:
    """Where the kills fall: seeded, one in each part of `n`, the last two parts without."""
    part = n // (n_kills + 2)
    return [part * k + random.Random(seed + k).randrange(part // 2, part) for k in range(n_kills)]


async def replayed(
    settings: Settings,
    day: Day,
    log: Path,
    wait_until: WaitUntil,
    *,
    seed: int,
    between: Between = lambda kill: None,
    n_kills: int = N_KILLS,
) -> Settings:
    """Replay the day through a worker that is killed on the way; settings of the run, all of it served."""
    struck: list[int] = []

    async def strike(pause: Pause) -> None:
        await assassin.strike()
        struck.append(pause.seq)

    replay = Replay([day], settings, speed=SPEED, pause_at=moments(seed, day.rows, n_kills), on_pause=strike)
    run = replay.settings
    await ensure_topics(run)
    async with WorkerProcess(run, log) as worker:
        assassin = Assassin(worker, wait_until, between)
        report = await replay.run()
        await assassin.back_at_work()
        await wait_served(run, report.offsets, DEADLINE_S)
    assert assassin.kills == n_kills
    assert report.frames > 500, "the frames are small"
    print(f"killed after rows {struck} of {report.rows}, {report.frames} frames")
    return run


async def is_the_day(run: Settings, *, ended: bool = True) -> None:
    """`ended`: the log closes the windows, as a replay's does; live topics leave the last ones open."""
    ends = disk_finals(run)
    assert sum(end.rows for end in ends) == GOLDEN["rows"]
    assert served_digest(run) == GOLDEN["digest"]
    assert await redis_differences(run, ends, ended=ended) == []


@pytest.mark.parametrize("seed", [11, 12])
async def test_a_worker_killed_three_times_serves_the_day(
    crashing: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil, seed: int
) -> None:
    await is_the_day(await replayed(crashing, day, tmp_path / "log", wait_until, seed=seed))


async def test_a_worker_that_also_lost_its_disk_serves_the_day(
    crashing: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    def lose_the_disk(kill: int) -> None:
        if kill == 1:
            wipe(crashing)

    await is_the_day(await replayed(crashing, day, tmp_path / "log", wait_until, seed=13, between=lose_the_disk))


async def test_a_worker_without_a_name_of_its_own_is_replaced_when_its_session_ends(
    crashing: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    nameless = replace(crashing, worker=replace(crashing.worker, instance_id="", session_timeout_s=2.0))
    await is_the_day(await replayed(nameless, day, tmp_path / "log", wait_until, seed=14))


async def test_json_ticks_are_counted_once_by_a_gateway_that_is_killed(
    crashing: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    await gateway_killed(crashing, day, tmp_path / "log", wait_until, seed=15)
    await is_the_day(crashing, ended=False)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [21, 22])
async def test_a_worker_killed_twenty_times_in_one_replay_serves_the_day(
    crashing: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil, seed: int
) -> None:
    await is_the_day(await replayed(crashing, day, tmp_path / "log", wait_until, seed=seed, n_kills=N_SOAK_KILLS))


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_gateway_killed_twenty_times_in_one_day_counts_every_tick_once(
    crashing: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    await gateway_killed(crashing, day, tmp_path / "log", wait_until, seed=23, n_kills=N_SOAK_KILLS)
    await is_the_day(crashing, ended=False)


async def gateway_killed(
    settings: Settings, day: Day, log: Path, wait_until: WaitUntil, *, seed: int, n_kills: int = N_KILLS
) -> None:
    """Send the day as JSON ticks to a worker that is killed on the way, and wait until all of them are counted."""
    chunks = [chunk.tolist() for chunk in np.array_split(np.array(list(json_lines(day)), object), 20 * n_kills)]
    strikes = {moment // 100 for moment in moments(seed, 100 * len(chunks), n_kills)}
    await define(settings, day)
    async with WorkerProcess(settings, log) as worker, JsonPublisher(settings) as publisher:
        assassin = Assassin(worker, wait_until)
        for number, chunk in enumerate(chunks):
            await publisher.publish(chunk)
            if number in strikes:
                await assassin.strike()
        await assassin.back_at_work()
        await all_counted(settings, wait_until)
        assert assassin.kills == n_kills
        repeated = sum((await last_offsets(settings)).values())
        print(f"{sum(map(len, chunks))} JSON ticks became {repeated + 4} frames")


async def test_what_is_read_again_from_the_first_record_on_is_dropped_row_by_row(
    crashing: Settings, day: Day, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Commits that were lost: frames are known by their version, what the gateway sends again by its positions."""
    await define(crashing, day)
    async with WorkerProcess(crashing, tmp_path / "log") as worker:
        async with JsonPublisher(crashing) as publisher:
            await publisher.publish(list(json_lines(day)))
        await all_counted(crashing, wait_until)
        await is_the_day(crashing, ended=False)
        once = await last_offsets(crashing)
        await worker.stop()
        await rewind(crashing)
        await worker.start()
        await all_counted(crashing, wait_until)
        twice = await last_offsets(crashing)
        assert all(twice[number] > once[number] for number in once if once[number] >= 0), "everything was sent again"
        assert await metric(crashing, "marketprism_market_ticks_total") == 0
    await is_the_day(crashing, ended=False)


async def rewind(settings: Settings) -> None:
    """Commit the first offset of every source for the workers' group, which has no members now."""
    name = settings.topics.prefix + settings.worker.id
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap, group_id=name, enable_auto_commit=False)
    await consumer.start()
    try:
        parts = [
            TopicPartition(settings.topics.prefix + topic, number)
            for topic in (FRAMES, JSON_TICKS)
            for number in range(settings.kafka.partitions)
        ]
        consumer.assign(parts)
        await consumer.commit(dict.fromkeys(parts, 0))
    finally:
        await consumer.stop()


def json_lines(day: Day) -> Iterator[bytes]:
    """Each event of the day as the JSON tick that a collector would have sent."""
    instruments = day.instruments
    for ticks in day.batches():
        ends = np.flatnonzero(ticks["flags"] & Flag.LAST) + 1
        for event in np.split(ticks, ends[:-1]):
            yield to_json(event, instruments[int(event["instrument_id"][0])])


async def define(settings: Settings, day: Day) -> None:
    await ensure_topics(settings)
    producer = await start_producer(settings.kafka)
    try:
        async with InstrumentDirectory(settings, producer=producer) as directory:
            await directory.define(day.instruments)
    finally:
        await stop_client(producer)


async def all_counted(settings: Settings, wait_until: WaitUntil) -> None:
    """Until every JSON tick in the log is committed, and then every frame that they became is durable."""

    async def packed() -> bool:
        return await committed(settings, JSON_TICKS) == await last_offsets(settings, JSON_TICKS)

    await wait_until(packed, DEADLINE_S, "the commit of every JSON tick")
    await wait_served(settings, await last_offsets(settings), DEADLINE_S)
