"""Kafka clients as this project wants them, started; foreign errors become ours here, once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import PublishFailed, ServiceUnavailable
from streams.kafka.admin import unavailable
from streams.kafka.compression import use_fast_lz4
from streams.kafka.fetch_codec import use_fast_fetch
from streams.kafka.fetched import keep_fetched
from streams.settings import KafkaSettings
from streams.topics import MAX_RECORD_BYTES

_ENVELOPE_BYTES = 1 << 10  # what Kafka wraps around a record counts towards max.message.bytes
_STOP_S = 5.0


async def start_producer(kafka: KafkaSettings) -> AIOKafkaProducer:
    """An idempotent producer: acks from all replicas, lz4, a retry never repeats or reorders a partition's records.

    It retries without end while a broker is away; callers bound their waits themselves.

    Raises:
        ServiceUnavailable: no broker answers.
    """
    use_fast_lz4()
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        enable_idempotence=True,
        acks="all",
        compression_type="lz4",
        max_request_size=MAX_RECORD_BYTES - _ENVELOPE_BYTES,
        max_batch_size=1 << 20,  # the default of 16 KiB holds no whole frame: each would be a request
        request_timeout_ms=int(kafka.request_timeout_s * 1000),
    )
    await _start(producer, kafka)
    return producer


async def start_consumer(kafka: KafkaSettings, topic: str, partitions: Iterable[int] = (0,)) -> AIOKafkaConsumer:
    """A consumer without a group, at the beginning of the given partitions; the caller seeks and stops it.

    Raises:
        ServiceUnavailable: no broker answers, or there is no such topic.
    """
    use_fast_fetch()
    keep_fetched()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=MAX_RECORD_BYTES,
        request_timeout_ms=int(kafka.request_timeout_s * 1000),
    )
    await _start(consumer, kafka)
    if topic not in await consumer.topics():
        await stop_client(consumer)
        raise no_such_topic(kafka, topic)
    consumer.assign([TopicPartition(topic, partition) for partition in partitions])
    return consumer


async def partition_count(producer: AIOKafkaProducer, kafka: KafkaSettings, topic: str) -> int:
    """Raises: ServiceUnavailable when there is no such topic."""
    try:
        return len(await asyncio.wait_for(producer.partitions_for(topic), kafka.connect_timeout_s))
    except (KafkaError, TimeoutError) as exc:
        raise no_such_topic(kafka, topic) from exc


class Outgoing(NamedTuple):
    """A record to send."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


async def send_acknowledged(
    producer: AIOKafkaProducer, records: Sequence[Outgoing], *, deadline_s: float, then: str = "then try again"
) -> None:
    """Send records in order and wait until Kafka has all of them.

    Args:
        then: what to do once the broker is well, for the message.

    Raises:
        PublishFailed: not all of them were acknowledged within `deadline_s`.
    """
    try:
        async with asyncio.timeout(deadline_s):
            acks = [
                await producer.send(r.topic, r.value, key=r.key, partition=r.partition, headers=list(r.headers))
                for r in records
            ]
            await asyncio.gather(*acks)
    except (KafkaError, TimeoutError, AssertionError) as exc:  # aiokafka asserts that the partition exists
        topics = ", ".join(sorted({record.topic for record in records}))
        raise PublishFailed(
            f"{len(records)} records to {topics} were not all acknowledged within {deadline_s:g} s "
            f"({type(exc).__name__}): check the broker, {then}"
        ) from exc


async def stop_client(client: AIOKafkaProducer | AIOKafkaConsumer, timeout_s: float = _STOP_S) -> None:
    """Stop a client, giving a producer `timeout_s` to deliver what it still holds."""
    try:
        await asyncio.wait_for(client.stop(), timeout_s)
    except TimeoutError:
        # Its stop waits for acks that a dead broker never sends; without sockets the retries end.
        if isinstance(client, AIOKafkaProducer):
            await client.client.close()


def no_such_topic(kafka: KafkaSettings, topic: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"Kafka at {kafka.bootstrap} has no topic {topic}: make it with `marketprism topics --create`"
    )


async def _start(client: AIOKafkaProducer | AIOKafkaConsumer, kafka: KafkaSettings) -> None:
    try:
        await asyncio.wait_for(client.start(), kafka.connect_timeout_s)
    except (KafkaError, TimeoutError, OSError) as exc:
        await stop_client(client)
        raise unavailable(kafka, exc) from exc
