"""The consumer of invalidations against a real broker: every partition, gaps, fencing, resuming."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from models.cache.invalidation import CHANGE, Invalidation, KeyOp, RecordType, Source, encode
from models.cache.version import version
from models.errors import ServiceUnavailable, SettingsError
from models.market.instruments import Instrument
from streams.client.events import Changed, Event, Gap, GapReason, Heartbeat
from streams.client.invalidations import InvalidationConsumer
from streams.kafka.admin import connected, ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.instruments import InstrumentDirectory
from streams.services import LocalSite
from streams.services.ports import free_ports
from streams.settings import KafkaSettings, ServicesSettings, Settings
from streams.topics import INVALIDATIONS, TOPICS

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
QUIET_S = 0.5  # an event that is not there would have come long before
NOW_NS = 1_760_000_000_000_000_000
TOPIC = tuple(topic for topic in TOPICS if topic.name == INVALIDATIONS)


class Worker:
    """Announces as a worker does; remembers where each partition stands."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self.topic = settings.topics.prefix + INVALIDATIONS
        self.producer = producer

    async def say(self, partition: int, *records: Invalidation | bytes) -> None:
        for record in records:
            value = record if isinstance(record, bytes) else encode(record)
            await self.producer.send_and_wait(self.topic, value, partition=partition)


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[Worker]:
    await ensure_topics(settings, TOPIC)
    producer = await start_producer(settings.kafka)
    yield Worker(settings, producer)
    await stop_client(producer)


async def announce(settings: Settings, *records: Invalidation) -> None:
    """As `Worker.say` to partition 0, with a producer that has no past with the broker or the topic."""
    producer = await start_producer(settings.kafka)
    await Worker(settings, producer).say(0, *records)
    await stop_client(producer)


def change(start: int, end: int, *, token: int = 1, watermark_ns: int = 0, key: str | None = None) -> Invalidation:
    keys = ((KeyOp.PUT, key or f"k:{end}"),)
    kind, source = RecordType.CHANGES, Source.FRAMES
    return Invalidation(kind, source, token, version(0, start), version(0, end), watermark_ns, keys=keys)


def heartbeat(at: int, *, watermark_ns: int = 0, token: int = 1) -> Invalidation:
    return Invalidation(RecordType.HEARTBEAT, Source.FRAMES, token, version(0, at), version(0, at), watermark_ns)


async def take(consumer: InvalidationConsumer, n: int) -> list[Event]:
    events = []
    while len(events) < n:
        event = await consumer.next(DEADLINE_S)
        assert event is not None, f"only {len(events)} of {n} events came within {DEADLINE_S} s: {events}"
        events.append(event)
    return events


async def quiet(consumer: InvalidationConsumer) -> bool:
    return await consumer.next(QUIET_S) is None


def ends(events: Iterable[Event]) -> list[int]:
    return [event.record.to_version for event in events if isinstance(event, Changed)]


async def test_every_partition_is_heard(settings: Settings, worker: Worker) -> None:
    async with InvalidationConsumer(settings, start="earliest") as consumer:
        for p in range(settings.kafka.partitions):
            await worker.say(p, change(0, 1))
        events = await take(consumer, settings.kafka.partitions)
    assert sorted(event.partition for event in events) == list(range(settings.kafka.partitions))


async def test_latest_begins_with_what_comes_after_it_was_opened(settings: Settings, worker: Worker) -> None:
    await worker.say(0, change(0, 1))
    async with InvalidationConsumer(settings) as consumer:
        await worker.say(0, change(1, 2))
        assert ends(await take(consumer, 1)) == [2]


async def test_offsets_say_where_each_partition_begins(settings: Settings, worker: Worker) -> None:
    await worker.say(0, *(change(i, i + 1) for i in range(5)))
    await worker.say(1, *(change(i, i + 1) for i in range(3)))
    async with InvalidationConsumer(settings, start={0: 3}) as consumer:
        assert ends(await take(consumer, 2)) == [4, 5]
        assert await quiet(consumer)  # partition 1 was not named: it begins at its end


async def test_a_reader_resumes_with_nothing_missed_and_nothing_twice(
    settings: Settings, worker: Worker, tmp_path: Path
) -> None:
    path = tmp_path / "positions.json"
    await worker.say(0, *(change(i, i + 1) for i in range(6)))
    seen = []
    async with InvalidationConsumer(settings, start="earliest", save=path) as consumer:
        seen += await take(consumer, 3)
    await worker.say(0, *(change(i, i + 1) for i in range(6, 9)))
    async with InvalidationConsumer(settings, save=path) as consumer:
        seen += await take(consumer, 6)
        assert await quiet(consumer)
        assert consumer.counts.gaps == 0
    assert ends(seen) == list(range(1, 10))


async def test_an_event_that_was_not_dealt_with_comes_again(settings: Settings, worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "positions.json"
    await worker.say(0, change(0, 1), change(1, 2))
    with pytest.raises(RuntimeError, match="while at the second"):
        async with InvalidationConsumer(settings, start="earliest", save=path) as consumer:
            await take(consumer, 2)
            raise RuntimeError("while at the second")
    async with InvalidationConsumer(settings, save=path) as consumer:
        assert ends(await take(consumer, 1)) == [2]


async def test_a_gap_between_versions_is_told_before_the_record_that_shows_it(
    settings: Settings, worker: Worker
) -> None:
    async with InvalidationConsumer(settings) as consumer:
        await worker.say(0, change(0, 5), change(7, 9), change(9, 10))
        first, gap, *rest = await take(consumer, 4)
    assert isinstance(first, Changed)
    assert gap == Gap(0, Source.FRAMES, 5, 7, GapReason.VERSIONS)
    assert ends(rest) == [9, 10]


async def test_a_heartbeat_shows_that_the_last_announcement_never_came(settings: Settings, worker: Worker) -> None:
    async with InvalidationConsumer(settings) as consumer:
        await worker.say(0, heartbeat(5), heartbeat(6))
        events = await take(consumer, 3)
    assert [type(event) for event in events] == [Heartbeat, Gap, Heartbeat]


async def test_a_gap_survives_a_restart_of_the_reader(settings: Settings, worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "positions.json"
    async with InvalidationConsumer(settings, save=path) as consumer:
        await worker.say(0, change(0, 5, token=9))
        await take(consumer, 1)
    await worker.say(0, change(5, 6, token=8), change(7, 8, token=9))
    async with InvalidationConsumer(settings, save=path) as consumer:
        gap, changed = await take(consumer, 2)
        assert consumer.counts.fenced == 1
    assert gap == Gap(0, Source.FRAMES, 5, 7, GapReason.VERSIONS)
    assert ends([changed]) == [8]


async def test_a_worker_that_lost_its_partition_is_not_heard(settings: Settings, worker: Worker) -> None:
    async with InvalidationConsumer(settings) as consumer:
        owner = Invalidation(RecordType.OWNER, Source.FRAMES, 2, version(0, 5), version(0, 5))
        await worker.say(0, change(0, 5), owner, change(5, 900, token=1), change(3, 6, token=2))
        assert ends(await take(consumer, 2)) == [5, 6]
        assert (consumer.counts.fenced, consumer.counts.gaps) == (1, 0)


async def test_freshness_is_proven_only_by_what_is_dealt_with(settings: Settings, worker: Worker) -> None:
    async with InvalidationConsumer(settings, clock=lambda: NOW_NS) as consumer:
        await worker.say(0, heartbeat(5, watermark_ns=NOW_NS - 7), heartbeat(5, watermark_ns=NOW_NS + 10**9))
        await take(consumer, 1)
        assert consumer.freshness_ns(0) is None
        await take(consumer, 1)
        assert consumer.freshness_ns(0) == NOW_NS - 7
        assert consumer.freshness_ns(1) is None
        assert await quiet(consumer)
        assert consumer.freshness_ns(0) is None  # the second is from the future


async def test_a_gap_voids_the_proof_until_the_record_after_it_is_dealt_with(
    settings: Settings, worker: Worker
) -> None:
    async with InvalidationConsumer(settings, clock=lambda: NOW_NS) as consumer:
        await worker.say(0, heartbeat(5, watermark_ns=NOW_NS - 9), heartbeat(6, watermark_ns=NOW_NS - 8))
        await take(consumer, 2)
        assert consumer.freshness_ns(0) is None  # the caller is dealing with the gap
        await take(consumer, 1)
        assert consumer.freshness_ns(0) is None
        assert await quiet(consumer)
        assert consumer.freshness_ns(0) == NOW_NS - 8


async def test_a_record_that_cannot_be_read_is_a_gap_and_does_not_stop_the_reader(
    settings: Settings, worker: Worker
) -> None:
    async with InvalidationConsumer(settings) as consumer:
        await worker.say(0, change(0, 1), b"MPI1 not an invalidation", change(4, 5))
        events = await take(consumer, 3)
        assert consumer.counts.corrupt == 1
    assert ends(events) == [1, 5]
    assert events[1] == Gap(0, None, 1, 2, GapReason.CORRUPT)


async def test_records_that_retention_took_are_a_gap(settings: Settings, worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "positions.json"
    await worker.say(0, change(0, 1))
    async with InvalidationConsumer(settings, start="earliest", save=path) as consumer:
        await take(consumer, 1)
    await worker.say(0, *(change(i, i + 1) for i in range(1, 6)))
    async with connected(settings.kafka) as client:
        await client.delete_records({TopicPartition(worker.topic, 0): RecordsToDelete(before_offset=4)})
    async with InvalidationConsumer(settings, save=path) as consumer:
        gap, *rest = await take(consumer, 3)
    assert gap == Gap(0, None, 1, 4, GapReason.LOG_CUT)
    assert ends(rest) == [5, 6]


async def test_a_topic_that_was_created_anew_is_a_gap_and_read_from_its_start(
    settings: Settings, worker: Worker, tmp_path: Path
) -> None:
    path = tmp_path / "positions.json"
    await worker.say(0, change(0, 1))
    async with InvalidationConsumer(settings, start="earliest", save=path) as consumer:
        await take(consumer, 1)
    async with connected(settings.kafka) as client:
        await client.delete_topics([worker.topic])
    await ensure_topics(settings, TOPIC)
    await announce(settings, change(7, 8))
    async with InvalidationConsumer(settings, save=path) as consumer:
        events = await take(consumer, settings.kafka.partitions + 1)
    gaps = [event for event in events if isinstance(event, Gap)]
    assert {gap.reason for gap in gaps} == {GapReason.RECREATED}
    assert sorted(gap.partition for gap in gaps) == list(range(settings.kafka.partitions))
    assert ends(events) == [8]


async def test_a_topic_that_is_created_anew_under_a_reader_is_a_gap(settings: Settings, worker: Worker) -> None:
    async with InvalidationConsumer(settings) as consumer:
        await worker.say(0, change(0, 1), change(1, 2))
        await take(consumer, 2)
        async with connected(settings.kafka) as client:
            await client.delete_topics([worker.topic])
        await ensure_topics(settings, TOPIC)
        await announce(settings, change(7, 8))
        gap, changed = await take(consumer, 2)
    assert gap == Gap(0, None, 2, 0, GapReason.RECREATED)
    assert ends([changed]) == [8]


@pytest.mark.timeout(240)  # two starts of a broker
async def test_a_reader_outlives_its_broker_and_misses_nothing(tmp_path: Path) -> None:
    kafka, controller, redis = free_ports(3)
    services = ServicesSettings(
        state_dir=str(tmp_path / "site"), kafka_port=kafka, controller_port=controller, redis_port=redis
    )
    site = LocalSite(services)
    own = Settings(kafka=KafkaSettings(bootstrap=site.addresses.bootstrap, partitions=1), services=services)
    await asyncio.to_thread(site.up)
    try:
        await ensure_topics(own, TOPIC)
        async with InvalidationConsumer(own) as consumer:
            await announce(own, change(0, 1))
            seen = await take(consumer, 1)
            await asyncio.to_thread(site.down)
            assert await quiet(consumer)
            await asyncio.to_thread(site.up)
            await announce(own, change(1, 2), change(2, 3))
            seen += await take(consumer, 2)
            assert consumer.counts.gaps == 0
    finally:
        await asyncio.to_thread(site.down)
    assert ends(seen) == [1, 2, 3]


async def test_a_gap_that_was_not_dealt_with_is_told_again(settings: Settings, worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "positions.json"
    async with InvalidationConsumer(settings, start={0: 0}, save=path) as consumer:
        await worker.say(0, change(0, 1), change(1, 2))
        await take(consumer, 1)
    async with connected(settings.kafka) as client:
        await client.delete_records({TopicPartition(worker.topic, 0): RecordsToDelete(before_offset=2)})
    with pytest.raises(RuntimeError, match="at the gap"):
        async with InvalidationConsumer(settings, save=path) as consumer:
            await take(consumer, 1)
            raise RuntimeError("at the gap")
    async with InvalidationConsumer(settings, save=path) as consumer:
        assert await take(consumer, 1) == [Gap(0, None, 1, 2, GapReason.LOG_CUT)]


async def test_positions_of_another_topic_are_refused(settings: Settings, worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "positions.json"
    async with InvalidationConsumer(settings, save=path):
        pass
    path.write_bytes(path.read_bytes().replace(worker.topic.encode(), b"other"))
    with pytest.raises(SettingsError, match="positions in other"):
        async with InvalidationConsumer(settings, save=path):
            pass


async def test_stop_ends_the_iteration_soon(settings: Settings, worker: Worker) -> None:
    async with InvalidationConsumer(settings) as consumer:
        asyncio.get_running_loop().call_later(0.05, consumer.stop)
        started = time.monotonic()
        assert [event async for event in consumer] == []
        assert time.monotonic() - started < 10


async def test_a_missing_topic_is_named_with_the_way_to_make_it(settings: Settings) -> None:
    with pytest.raises(ServiceUnavailable, match=rf"{settings.topics.prefix}{INVALIDATIONS}.*marketprism topics"):
        async with InvalidationConsumer(settings):
            pass


async def test_a_broker_that_is_not_there_is_told_within_seconds(settings: Settings) -> None:
    nowhere = replace(settings, kafka=KafkaSettings(bootstrap="127.0.0.1:1"))
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:1 .*marketprism up"):
        async with InvalidationConsumer(nowhere):
            pass
    assert time.monotonic() - started < 10


async def command(settings: Settings, *arguments: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MARKETPRISM_")}
    environment["MARKETPRISM_KAFKA__BOOTSTRAP"] = settings.kafka.bootstrap
    environment["MARKETPRISM_TOPICS__PREFIX"] = settings.topics.prefix
    pipe = asyncio.subprocess.PIPE
    main = "from agents.cli.main import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", main, "invalidations", *arguments, stdout=pipe, stderr=pipe, env=environment
    )


async def test_the_command_prints_readable_keys_one_object_a_line(settings: Settings, worker: Worker) -> None:
    await ensure_topics(settings)
    async with InstrumentDirectory(settings) as directory:
        await directory.define([Instrument("binance", "spot", "BTC-USDT")])
    changes = np.array([(Instrument("binance", "spot", "BTC-USDT").hash, 0b11)], CHANGE)
    await worker.say(
        0,
        replace(change(0, 3, key="session:1"), changes=changes),
        heartbeat(3),
        replace(change(5, 6), keys=((KeyOp.DELETE, "session:2"), (KeyOp.FLUSH_ALL, ""))),
    )
    process = await command(settings, "--from", "earliest", "--max", "3", "--json")
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0, err
    first, gap, last = map(orjson.loads, out.splitlines())
    assert first["keys"] == ["md:binance.spot.BTC-USDT:trade", "md:binance.spot.BTC-USDT:quote", "session:1"]
    assert (first["event"], first["source"], first["to_version"]) == ("changed", "md.frames.v1", 3)
    assert gap == {
        "event": "gap",
        "partition": 0,
        "source": "md.frames.v1",
        "reason": "versions",
        "expected": 3,
        "got": 5,
    }
    assert (last["keys"], last["deleted"], last["flush_all"]) == (["session:2"], ["session:2"], True)
    assert b"2 changes" in err and b"1 gaps" in err


async def test_ctrl_c_ends_the_command_cleanly_with_a_summary(
    settings: Settings, worker: Worker, tmp_path: Path
) -> None:
    await ensure_topics(settings)
    await worker.say(0, change(0, 1))
    path = str(tmp_path / "positions.json")
    process = await command(settings, "--from", "earliest", "--save", path)
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
    assert b"k:1" in line
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (process.returncode, out) == (0, b"")
    assert err.startswith(b"1 changes of 1 keys") and err.count(b"\n") == 1
    await worker.say(0, change(1, 2))
    process = await command(settings, "--save", path, "--max", "1", "--json")
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert orjson.loads(out)["keys"] == ["k:2"], err
