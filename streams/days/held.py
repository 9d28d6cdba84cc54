"""What the log holds of a run that was stopped or killed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aiokafka import TopicPartition

from models.errors import CorruptFrame
from models.market.frame import FrameHeader, decode_header
from streams.kafka.clients import start_consumer, stop_client
from streams.settings import Settings
from streams.topics import FRAMES

_POLL_MS = 200


class Held(NamedTuple):
    """What a partition has: every row up to `position`, and repetitions (by a fault) up to position `repeated`."""

    position: int
    repeated: int = 0

    def then(self, header: FrameHeader) -> Held:
        """With the next frame; one whose rows were there before repeats them."""
        if header.first_position <= self.position:
            return Held(max(self.position, header.last_position), max(self.repeated, header.last_position))
        return Held(header.last_position, self.repeated)


NOTHING = Held(0)


async def held_positions(
    settings: Settings, source: int, starts: Mapping[int, int] | None, *, repeats: bool = False
) -> dict[int, Held]:
    """How far a source's rows are in the log, by partition; partitions without any are left out.

    Args:
        source: its hash.
        starts: partition -> offset from which on to look; None = only this source writes to the topic, so its last
            record tells.
        repeats: the source may repeat rows, so its frames are looked at from the first one on.

    Raises:
        ServiceUnavailable: no broker, or no topic.
    """
    topic, numbers = settings.topics.prefix + FRAMES, range(settings.kafka.partitions)
    consumer = await start_consumer(settings.kafka, topic, numbers)
    found: dict[int, Held] = {}
    try:
        parts = [TopicPartition(topic, number) for number in numbers]
        ends, begins = await consumer.end_offsets(parts), await consumer.beginning_offsets(parts)
        for tp in parts:
            own = begins[tp] if repeats else ends[tp] - 1
            consumer.seek(tp, max(own if starts is None else starts[tp.partition], begins[tp]))
        while waiting := [tp for tp in parts if await consumer.position(tp) < ends[tp]]:
            for tp, records in (await consumer.getmany(*waiting, timeout_ms=_POLL_MS)).items():
                for record in records:
                    try:
                        header = decode_header(record.value or b"")
                    except CorruptFrame:
                        continue
                    if header.source == source:
                        found[tp.partition] = found.get(tp.partition, NOTHING).then(header)
    finally:
        await stop_client(consumer)
    return found
