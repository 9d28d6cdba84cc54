"""Topics on a real broker: made once, checked ever after, never changed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from aiokafka.admin import NewTopic

from models.errors import ServiceUnavailable, SettingsError
from streams.kafka.admin import (
    connected,
    describe_topics,
    ensure_topics,
    topic_configs,
    topic_ids,
    topic_offsets,
)
from streams.settings import KafkaSettings, Settings
from streams.topics import DEAD, FRAMES, TOPICS, Topic

pytestmark = pytest.mark.integration


def name(settings: Settings, topic: str) -> str:
    return settings.topics.prefix + topic


async def test_every_topic_is_made_as_the_table_says(settings: Settings) -> None:
    made = await ensure_topics(settings)
    assert sorted(made) == sorted(name(settings, topic.name) for topic in TOPICS)
    states = await describe_topics(settings, made)
    configs = await topic_configs(settings, made, ["cleanup.policy", "retention.ms", "message.timestamp.type"])
    for topic in TOPICS:
        full = name(settings, topic.name)
        assert states[full].ready
        assert states[full].n_partitions == (settings.kafka.partitions if topic.partitioned else 1)
        assert configs[full].items() >= {k: v for k, v in topic.config.items() if k in configs[full]}.items()
    assert configs[name(settings, FRAMES)]["message.timestamp.type"] == "LogAppendTime"


async def test_a_second_call_makes_nothing(settings: Settings) -> None:
    await ensure_topics(settings)
    assert await ensure_topics(settings) == []


async def test_two_processes_may_make_them_at_once(settings: Settings) -> None:
    made = await asyncio.gather(*(ensure_topics(settings) for _ in range(3)))
    assert sorted(one for some in made for one in some) == sorted(name(settings, topic.name) for topic in TOPICS)


async def test_another_number_of_partitions_is_refused_before_anything_is_made(settings: Settings) -> None:
    frames = tuple(topic for topic in TOPICS if topic.name == FRAMES)
    await ensure_topics(settings, frames)
    wider = replace(settings, kafka=replace(settings.kafka, partitions=settings.kafka.partitions + 1))
    with pytest.raises(SettingsError, match=rf"{FRAMES}.*set kafka\.partitions = {settings.kafka.partitions}"):
        await ensure_topics(wider)
    states = await describe_topics(settings, [name(settings, topic.name) for topic in TOPICS])
    assert [s.n_partitions for s in states.values()] == [settings.kafka.partitions]


async def test_a_policy_that_breaks_the_protocol_is_refused(settings: Settings) -> None:
    async with connected(settings.kafka) as client:
        configs = {"message.timestamp.type": "CreateTime"}
        await client.create_topics(
            [NewTopic(name(settings, FRAMES), settings.kafka.partitions, 1, topic_configs=configs)]
        )
    with pytest.raises(SettingsError, match=r"message\.timestamp\.type = CreateTime, not LogAppendTime"):
        await ensure_topics(settings)


async def test_a_config_the_broker_refuses_is_told(settings: Settings) -> None:
    with pytest.raises(ServiceUnavailable, match="did not make the topic"):
        await ensure_topics(settings, [Topic("odd", config={"cleanup.policy": "sometimes"})])


async def test_a_topic_created_anew_has_another_id(settings: Settings) -> None:
    dead = tuple(topic for topic in TOPICS if topic.name == DEAD)
    full = name(settings, DEAD)
    assert await topic_ids(settings, [full]) == {full: None}
    await ensure_topics(settings, dead)
    first = (await topic_ids(settings, [full]))[full]
    assert first is not None and (await topic_ids(settings, [full]))[full] == first
    async with connected(settings.kafka) as client:
        await client.delete_topics([full])
    await ensure_topics(settings, dead)
    assert (await topic_ids(settings, [full]))[full] not in (None, first)


async def test_offsets_name_each_partition(settings: Settings) -> None:
    dead = tuple(topic for topic in TOPICS if topic.name == DEAD)
    await ensure_topics(settings, dead)
    states = await describe_topics(settings, [name(settings, DEAD)])
    assert await topic_offsets(settings, states.values()) == {name(settings, DEAD): [(0, 0)]}


@pytest.mark.parametrize("bootstrap", ["127.0.0.1:1", "no-such-host.invalid:9092"])
async def test_a_broker_that_is_not_there_is_told_within_seconds(settings: Settings, bootstrap: str) -> None:
    nowhere = replace(settings, kafka=KafkaSettings(bootstrap=bootstrap))
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=rf"{bootstrap} .*marketprism up"):
        await ensure_topics(nowhere)
    assert time.monotonic() - started < 10


async def test_an_address_that_never_answers_is_given_up_in_time(settings: Settings) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    mute = replace(settings, kafka=KafkaSettings(bootstrap=f"127.0.0.1:{port}", connect_timeout_s=0.5))
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=f"127.0.0.1:{port}"):
        await ensure_topics(mute)
    assert time.monotonic() - started < 20
    server.close()
