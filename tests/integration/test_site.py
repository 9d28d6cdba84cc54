"""Whatever site the tests run on, it can do what the project asks of Kafka and Redis."""

from __future__ import annotations

import pytest
import redis.asyncio as redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

pytestmark = pytest.mark.integration


async def test_records_of_the_largest_size_reach_a_group_with_short_sessions(settings: Settings) -> None:
    topic = f"{settings.topics.prefix}large"
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": str(MAX_RECORD_BYTES)})])
    finally:
        await admin.close()
    record = bytes(MAX_RECORD_BYTES - 1024)  # the batch around it needs some room
    async with (
        AIOKafkaProducer(
            bootstrap_servers=settings.kafka.bootstrap, enable_idempotence=True, max_request_size=MAX_RECORD_BYTES
        ) as producer,
        AIOKafkaConsumer(
            topic,
            bootstrap_servers=settings.kafka.bootstrap,
            group_id=settings.worker.id,
            auto_offset_reset="earliest",
            session_timeout_ms=2_000,
            heartbeat_interval_ms=500,
            fetch_max_bytes=MAX_RECORD_BYTES,
            max_partition_fetch_bytes=MAX_RECORD_BYTES,
        ) as consumer,
    ):
        await producer.send_and_wait(topic, record)
        assert (await consumer.getone()).value == record
        await consumer.commit()


async def test_a_topic_nobody_created_is_not_created_by_writing_to_it(settings: Settings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap, request_timeout_ms=1_000)
    async with producer:
        with pytest.raises(KafkaError):
            await producer.send_and_wait(f"{settings.topics.prefix}nobody", b"x")


async def test_redis_runs_functions(settings: Settings) -> None:
    name = f"probe_{settings.topics.prefix.replace('.', '_')}"
    async with redis.Redis.from_url(settings.redis.url) as client:
        code = f"#!lua name={name}\nredis.register_function('{name}', function(keys, args) return #keys + #args end)"
        await client.function_load(code)
        try:
            assert await client.fcall(name, 2, "a", "b", "c") == 3
        finally:
            await client.function_delete(name)
