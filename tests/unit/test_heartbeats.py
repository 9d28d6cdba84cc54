"""What a heartbeat may vouch for while Redis is away and rounds wait to be told (rule 11)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from models.cache.invalidation import Invalidation, Source, decode
from models.cache.keys import Space
from streams.cache.coherence import Coherence
from streams.cache.connect import connect_redis
from streams.cache.redis import PartitionWriter
from streams.kafka.owned import OwnedPartition
from streams.settings import RedisSettings

NOWHERE = "redis://127.0.0.1:1/0"


class Producer:
    """Acknowledges everything at once."""

    def __init__(self) -> None:
        self.sent: list[Invalidation] = []

    async def send(self, topic: str, value: bytes, **_: Any) -> asyncio.Future[None]:
        self.sent.append(decode(value))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


@pytest.mark.parametrize(("applied", "told"), [(7, True), (8, False)])
async def test_no_heartbeat_vouches_for_a_round_that_nobody_was_told_of(applied: int, told: bool) -> None:
    owned = OwnedPartition(0, "", token=1)
    owned.market.applied, owned.announced[Space.MARKET] = applied, 7
    producer: Any = Producer()
    table: Any = SimpleNamespace(pages=lambda number: iter(()))
    async with aclosing(connect_redis(RedisSettings(url=NOWHERE))) as redis:
        writer = PartitionWriter(redis, url=NOWHERE)
        coherence = Coherence(writer=writer, producer=producer, table=table, prefix="", deadline_s=1.0)
        await coherence.heartbeat([owned], {(Space.MARKET, 0): 10**18})
    beats = [record for record in producer.sent if record.source is Source.FRAMES]
    assert [(beat.to_version, beat.watermark_ns) for beat in beats] == ([(7, 10**18)] if told else [])
