"""Topics: made explicitly (auto-creation is off), checked, described; never changed in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from models.errors import DeadlineExceeded, ServiceUnavailable, SettingsError
from streams.kafka.metadata import TopicState, describe
from streams.settings import KafkaSettings, Settings
from streams.topics import TOPICS, Topic

# A topic that differs in one of these breaks a rule of the protocol; other configs are the operator's to tune.
_MUST_MATCH = ("cleanup.policy", "message.timestamp.type")
_POLL_S = 0.02


async def ensure_topics(settings: Settings, topics: Iterable[Topic] = TOPICS) -> list[str]:
    """Make the missing topics and wait until every partition has a leader; calling it twice is harmless.

    Returns:
        Full names of the topics that this call made.

    Raises:
        SettingsError: a topic exists with another number of partitions, or a policy that breaks the protocol.
        ServiceUnavailable: no broker answers, or it refuses to make a topic.
        DeadlineExceeded: the topics were not ready within `kafka.request_timeout_s`.
    """
    wanted = {settings.topics.prefix + topic.name: topic for topic in topics}
    async with connected(settings.kafka) as client:
        there = await describe(client, list(wanted))
        configs = await _configs(client, list(there), _MUST_MATCH)
        for name, state in there.items():  # before anything is made: topics of two P beside each other help nobody
            _check(wanted[name], state, configs[name], settings)
        made = await _create(client, settings.kafka, {name: wanted[name] for name in wanted if name not in there})
        states = await _wait_ready(client, list(wanted), settings.kafka)
    for name in states.keys() - there.keys():  # another process may have been faster, with settings of its own
        _check(wanted[name], states[name], wanted[name].config, settings)
    return made


async def describe_topics(settings: Settings, names: Iterable[str]) -> dict[str, TopicState]:
    """Those of `names` (full names, prefix included) that exist.

    Raises:
        ServiceUnavailable: no broker answers.
    """
    async with connected(settings.kafka) as client:
        return await describe(client, list(names))


async def topic_ids(settings: Settings, names: Iterable[str]) -> dict[str, str | None]:
    """Kafka's id of each topic (full names), None where there is no such topic.

    A topic that was deleted and created anew has another id: the epoch of its versions rises (rule 6).

    Raises:
        ServiceUnavailable: no broker answers.
    """
    wanted = list(names)
    states = await describe_topics(settings, wanted)
    return {name: states[name].id if name in states else None for name in wanted}


async def topic_configs(settings: Settings, names: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """The values of `keys` that hold for each of the topics (full names), which must exist.

    Raises:
        ServiceUnavailable: no broker answers, or one of the topics does not exist.
    """
    async with connected(settings.kafka) as client:
        return await _configs(client, names, keys)


async def topic_offsets(settings: Settings, states: Iterable[TopicState]) -> dict[str, list[tuple[int, int]]]:
    """`(first offset, end offset)` of each partition, by topic; the end offset is the one the next record gets.

    Raises:
        ServiceUnavailable: no broker answers.
    """
    kafka, wanted = settings.kafka, list(states)
    partitions = [TopicPartition(s.name, p) for s in wanted for p in range(s.n_partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=None)
    try:
        async with asyncio.timeout(kafka.request_timeout_s):
            await consumer.start()
            first, end = await asyncio.gather(consumer.beginning_offsets(partitions), consumer.end_offsets(partitions))
    except (KafkaError, OSError, TimeoutError) as exc:
        raise unavailable(kafka, exc) from exc
    finally:
        await consumer.stop()
    return {
        s.name: [(first[tp], end[tp]) for tp in (TopicPartition(s.name, p) for p in range(s.n_partitions))]
        for s in wanted
    }


@asynccontextmanager
async def connected(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client; what Kafka raises inside the block leaves it as an error of ours.

    Raises:
        ServiceUnavailable: no broker answers within `kafka.connect_timeout_s`, or a call inside the block failed.
    """
    client = AIOKafkaAdminClient(
        bootstrap_servers=kafka.bootstrap, request_timeout_ms=int(kafka.request_timeout_s * 1000)
    )
    try:
        async with asyncio.timeout(kafka.connect_timeout_s):
            await client.start()
        yield client
    except (KafkaError, OSError, TimeoutError) as exc:
        raise unavailable(kafka, exc) from exc
    finally:
        await client.close()


def unavailable(kafka: KafkaSettings, exc: Exception) -> ServiceUnavailable:
    """What to tell people when Kafka fails with `exc`."""
    return ServiceUnavailable(
        f"Kafka at {kafka.bootstrap} does not answer ({type(exc).__name__}): start it with `marketprism up`, "
        "or set MARKETPRISM_KAFKA__BOOTSTRAP"
    )


async def _create(client: AIOKafkaAdminClient, kafka: KafkaSettings, topics: dict[str, Topic]) -> list[str]:
    if not topics:
        return []
    new = [
        NewTopic(name, kafka.partitions if topic.partitioned else 1, kafka.replication, topic_configs=topic.config)
        for name, topic in topics.items()
    ]
    response = await client.create_topics(new, timeout_ms=int(kafka.request_timeout_s * 1000))
    made = []
    for name, code, message in response.topic_errors:
        if not code:
            made.append(name)
        elif code != TopicAlreadyExistsError.errno:  # another process was faster: fine, it is checked like any other
            reason = message or for_code(code).__name__
            raise ServiceUnavailable(f"Kafka at {kafka.bootstrap} did not make the topic {name}: {reason}")
    return made


async def _wait_ready(client: AIOKafkaAdminClient, names: list[str], kafka: KafkaSettings) -> dict[str, TopicState]:
    states: dict[str, TopicState] = {}
    try:
        async with asyncio.timeout(kafka.request_timeout_s):
            while not (len(states) == len(names) and all(s.ready for s in states.values())):
                if states:
                    await asyncio.sleep(_POLL_S)
                states = await describe(client, names)
    except TimeoutError as exc:
        late = sorted(name for name in names if name not in states or not states[name].ready)
        raise DeadlineExceeded(
            f"topics without a leader after {kafka.request_timeout_s} s: {', '.join(late)}; are enough brokers up for "
            f"kafka.replication = {kafka.replication}?"
        ) from exc
    return states


async def _configs(client: AIOKafkaAdminClient, names: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, str]]:
    # aiokafka takes the keys of `configs` as the names to ask for
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(keys, "")) for name in names]
    found: dict[str, dict[str, str]] = {}
    for response in await client.describe_configs(wanted) if wanted else ():
        for code, message, _kind, name, entries in response.resources:
            if code:
                raise ServiceUnavailable(f"Kafka does not describe {name}: {message or for_code(code).__name__}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _check(topic: Topic, state: TopicState, config: dict[str, str], settings: Settings) -> None:
    expected = settings.kafka.partitions if topic.partitioned else 1
    if state.n_partitions != expected:
        mend = f"set kafka.partitions = {state.n_partitions}, or " if topic.partitioned else ""
        raise SettingsError(
            f"topic {state.name} at {settings.kafka.bootstrap} has {state.n_partitions} partitions, not {expected}: "
            f"{mend}use another topics.prefix; partitions never change in place, because keys would move"
        )
    for key in _MUST_MATCH:
        if key in topic.config and config.get(key) != topic.config[key]:
            raise SettingsError(
                f"topic {state.name} at {settings.kafka.bootstrap} has {key} = {config.get(key)}, not "
                f"{topic.config[key]}: alter it (kafka-configs.sh --alter --topic {state.name} --add-config "
                f"{key}={topic.config[key]}) or use another topics.prefix"
            )
