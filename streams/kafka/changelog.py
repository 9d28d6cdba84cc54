"""Reading a stretch of a changelog partition, for what Faust's recovery does not see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiokafka import ConsumerRecord, TopicPartition

from models.errors import DeadlineExceeded
from streams.kafka.clients import start_consumer, stop_client
from streams.settings import KafkaSettings

_POLL_MS = 200


async def read_changelog(
    kafka: KafkaSettings, topic: str, partition: int, *, start: int, end: int | None = None
) -> AsyncIterator[list[ConsumerRecord]]:
    """Records with offsets from `start` up to, not with, `end` (None: the log's end now), in batches.

    Raises:
        ServiceUnavailable: no broker answers.
        DeadlineExceeded: nothing came for `kafka.request_timeout_s`.
    """
    tp = TopicPartition(topic, partition)
    consumer = await start_consumer(kafka, topic, [partition])
    try:
        if end is None:
            end = int((await consumer.end_offsets([tp]))[tp])
        consumer.seek(tp, start)
        position, deadline_s = start, kafka.request_timeout_s
        heard = asyncio.get_running_loop().time()
        while position < end:
            records = (await consumer.getmany(tp, timeout_ms=_POLL_MS)).get(tp, [])
            now, at = asyncio.get_running_loop().time(), int(await consumer.position(tp))
            if at > position:
                position, heard = at, now
            elif now - heard > deadline_s:
                raise DeadlineExceeded(
                    f"{topic} partition {partition} gave nothing from offset {position} on within {deadline_s:g} s, "
                    f"although it ends at {end}: check the broker"
                )
            if wanted := [record for record in records if record.offset < end]:
                yield wanted
    finally:
        await stop_client(consumer)
