"""JSON ticks as they are, one record each, into `md.json.v1`: the road of producers in other languages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from aiokafka import AIOKafkaProducer

from models.market.instruments import partition_of
from streams.kafka.clients import Outgoing, partition_count, send_acknowledged, start_producer, stop_client
from streams.kafka.deadletter import tick_key
from streams.settings import Settings
from streams.topics import JSON_TICKS


class JsonPublisher:
    """Sends lines unread, keyed by their instrument (none if a line names none); the gateway refuses what is wrong.

    Args:
        settings: broker, topic prefix, `publisher.delivery_timeout_s`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topics.prefix + JSON_TICKS
        self._producer: AIOKafkaProducer
        self._n_partitions = 0

    async def __aenter__(self) -> Self:
        self._producer = await start_producer(self._settings.kafka)
        try:
            self._n_partitions = await partition_count(self._producer, self._settings.kafka, self._topic)
        except BaseException:
            await stop_client(self._producer)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_client(self._producer)

    async def publish(self, lines: Sequence[bytes]) -> None:
        """Send lines and wait until Kafka has them all.

        Raises:
            PublishFailed: not acknowledged within `publisher.delivery_timeout_s`.
        """
        keys = [tick_key(line) for line in lines]
        records = [
            Outgoing(self._topic, partition_of(key or b"", self._n_partitions), line, key)
            for key, line in zip(keys, lines, strict=True)
        ]
        deadline_s = self._settings.publisher.delivery_timeout_s
        await send_acknowledged(self._producer, records, deadline_s=deadline_s, then="then send the ticks again")
