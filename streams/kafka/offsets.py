"""How far a topic goes, and how far the workers' group has come in it."""

from __future__ import annotations

from streams.kafka.admin import connected, describe_topics, topic_offsets
from streams.settings import Settings
from streams.topics import FRAMES


async def last_offsets(settings: Settings, topic: str = FRAMES) -> dict[int, int]:
    """Offset of the newest record in each partition, -1 = none.

    Raises:
        ServiceUnavailable: no broker answers.
    """
    name = settings.topics.prefix + topic
    states = await describe_topics(settings, [name])
    ends = (await topic_offsets(settings, states.values()))[name]
    return {number: end - 1 for number, (_, end) in enumerate(ends)}


async def committed(settings: Settings, topic: str = FRAMES) -> dict[int, int]:
    """Newest offset that the workers' group has committed in each partition, -1 = none.

    Raises:
        ServiceUnavailable: no broker answers.
    """
    async with connected(settings.kafka) as admin:
        found = await admin.list_consumer_group_offsets(settings.topics.prefix + settings.worker.id)
    name = settings.topics.prefix + topic
    own = {tp.partition: int(at.offset) - 1 for tp, at in found.items() if tp.topic == name}
    return dict.fromkeys(range(settings.kafka.partitions), -1) | own
