"""Writes to the generic namespaces: one record of `cache.writes.v1` each, done when Kafka has acknowledged it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from models.cache import version as versions
from models.cache.keys import parse_key
from models.cache.write import CacheWrite, encode_write
from models.errors import PublishFailed, ServiceUnavailable, SettingsError
from streams.kafka.admin import describe_topics
from streams.kafka.clients import no_such_topic, start_producer, stop_client
from streams.settings import Settings
from streams.topics import WRITES


class Written(NamedTuple):
    """Where a write lies in the log.

    Attributes:
        partition: of `cache.writes.v1`.
        version: of the key from now on.
        time_ms: log-append time, UTC ms: lives are counted from it.
    """

    partition: int
    version: int
    time_ms: int


class CacheWriter:
    """Sends writes; open it with `async with`.

    Args:
        settings: Kafka, prefix, delivery timeout (`publisher.delivery_timeout_s`).
        epoch: epoch of a partition of `cache.writes.v1`, as a tier's mark or the invalidations tell it.
    """

    def __init__(self, settings: Settings, *, epoch: Callable[[int], int] = lambda partition: 0) -> None:
        self._settings = settings
        self._epoch = epoch
        self._topic = settings.topics.prefix + WRITES
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> CacheWriter:
        """Raises: ServiceUnavailable (no broker, no topic); SettingsError (`kafka.partitions` is not the topic's)."""
        kafka = self._settings.kafka
        state = (await describe_topics(self._settings, [self._topic])).get(self._topic)
        if state is None:
            raise no_such_topic(kafka, self._topic)
        if state.n_partitions != kafka.partitions:
            # A key would go to a partition where no reader looks for it.
            raise SettingsError(f"kafka.partitions is {kafka.partitions}, but {self._topic} has {state.n_partitions}")
        self._producer = await start_producer(kafka)
        return self

    async def __aexit__(self, *exc: object) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer)

    async def write(self, write: CacheWrite) -> list[Written]:
        """Send a write to the partition of its key; one of tags, a namespace or everything to each partition.

        Returns:
            one place in the log a partition, partitions rising.

        Raises:
            WriteRefused: it breaks a bound; nothing was sent.
            PublishFailed: no acknowledgement in time; it may still arrive.
        """
        value = encode_write(write)
        n_partitions = self._settings.kafka.partitions
        if write.has_key:
            key = parse_key(write.key)
            return [await self._send(value, key.kafka_key.encode(), key.partition(n_partitions))]
        return await asyncio.gather(*(self._send(value, None, p) for p in range(n_partitions)))

    async def _send(self, value: bytes, key: bytes | None, partition: int) -> Written:
        if self._producer is None:
            raise ServiceUnavailable("the cache writer is not open: use it with `async with`")
        deadline_s = self._settings.publisher.delivery_timeout_s
        try:
            async with asyncio.timeout(deadline_s):
                metadata = await self._producer.send_and_wait(self._topic, value, key=key, partition=partition)
        except (KafkaError, TimeoutError) as exc:
            raise PublishFailed(
                f"{self._topic} partition {partition} did not acknowledge a write within {deadline_s} s "
                f"({type(exc).__name__}); it may still arrive"
            ) from exc
        version = versions.version(self._epoch(partition), metadata.offset)
        return Written(partition, version, metadata.timestamp)
