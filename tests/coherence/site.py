"""Where our code meets the libraries, a simulated Kafka and Redis stand in: the functions that open clients."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import streams.cache.connect
import streams.clock
import streams.kafka.admin
import streams.kafka.changelog
import streams.kafka.clients
from streams.kafka.metadata import TopicState
from streams.settings import Settings
from tests.coherence.fake_kafka import FakeConsumer, FakeKafka, FakeProducer, Record
from tests.coherence.fake_redis import FakeRedis, RedisServer
from tests.coherence.network import current
from tests.coherence.virtual import replaced


@contextlib.contextmanager
def simulated_site(kafka: FakeKafka, redis: RedisServer, n_partitions: int) -> Iterator[None]:
    """Inside, clients that are opened speak to these."""

    async def describe_topics(_: Settings, names: Iterable[str]) -> dict[str, TopicState]:
        await current.get().running()
        return {name: TopicState(name, f"id of {name}", n_partitions, 1, ready=True) for name in names}

    async def topic_offsets(_: Settings, states: Iterable[TopicState]) -> dict[str, list[tuple[int, int]]]:
        await current.get().running()
        logs = {state.name: [kafka.logs[state.name, n] for n in range(n_partitions)] for state in states}
        return {name: [(log.first, log.end) for log in parts] for name, parts in logs.items()}

    async def read_changelog(
        _: Any, topic: str, partition: int, *, start: int, end: int | None = None
    ) -> AsyncIterator[list[Record]]:
        await current.get().running()
        if records := kafka.logs[topic, partition].records[start:end]:
            yield records

    async def last_record(_: Any, topic: str, partition: int) -> Record | None:
        await current.get().running()
        records = kafka.logs[topic, partition].records
        return records[-1] if records else None

    async def start_producer(_: Any) -> FakeProducer:
        await current.get().running()
        return FakeProducer(kafka, current.get())

    async def start_consumer(_: Any, topic: str, partitions: Iterable[int] = (0,)) -> FakeConsumer:
        await current.get().running()
        return FakeConsumer(kafka, current.get(), topic)

    async def stop_client(client: Any, timeout_s: float = 0.0) -> None:
        await client.stop()

    def connect_redis(_: Any, *, max_connections: int = 8) -> FakeRedis:
        return FakeRedis(redis, current.get())

    def now_ns() -> int:
        return kafka.clock.ns

    with replaced(
        {
            "describe_topics": (streams.kafka.admin.describe_topics, describe_topics),
            "topic_offsets": (streams.kafka.admin.topic_offsets, topic_offsets),
            "read_changelog": (streams.kafka.changelog.read_changelog, read_changelog),
            "last_record": (streams.kafka.changelog.last_record, last_record),
            "start_producer": (streams.kafka.clients.start_producer, start_producer),
            "start_consumer": (streams.kafka.clients.start_consumer, start_consumer),
            "stop_client": (streams.kafka.clients.stop_client, stop_client),
            "connect_redis": (streams.cache.connect.connect_redis, connect_redis),
            "now_ns": (streams.clock.now_ns, now_ns),
        }
    ):
        yield
