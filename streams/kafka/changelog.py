"""Reading a stretch of one partition, or its last record, for what Faust's recovery does not see."""

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


async def last_record(kafka: KafkaSettings, topic: str, partition: int) -> ConsumerRecord | None:
    """The newest record of a partition, None when it has none.

    Raises:
        ServiceUnavailable, DeadlineExceeded: as `read_changelog`.
    """
    tp = TopicPartition(topic, partition)
    consumer = await start_consumer(kafka, topic, [partition])
    try:
        first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    finally:
        await stop_client(consumer)
    if first == end:
        return None
    newest = None
    async for records in read_changelog(kafka, topic, partition, start=end - 1, end=end):
        newest = records[-1]
    return newest
