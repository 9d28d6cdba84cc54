"""What tests read back from Kafka."""

from __future__ import annotations

from typing import Any

from aiokafka import TopicPartition

from streams.kafka.clients import start_consumer, stop_client
from streams.settings import Settings


async def records(settings: Settings, name: str, n_partitions: int = 1) -> list[Any]:
    """Everything that is in a topic now, partition by partition."""
    topic = settings.topics.prefix + name
    consumer = await start_consumer(settings.kafka, topic, range(n_partitions))
    found = []
    try:
        for tp in [TopicPartition(topic, partition) for partition in range(n_partitions)]:
            end = (await consumer.end_offsets([tp]))[tp]
            while await consumer.position(tp) < end:
                found += (await consumer.getmany(tp, timeout_ms=100)).get(tp, [])
    finally:
        await stop_client(consumer)
    return found
