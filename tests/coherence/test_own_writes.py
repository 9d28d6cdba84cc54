"""A reader that has two writes under way, and hears of the later one first."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from models.cache.invalidation import Invalidation, RecordType, Source, encode
from models.errors import TooStale
from streams.client.reader import MarketCache
from streams.settings import KafkaSettings, ReaderSettings, Settings
from streams.topics import INVALIDATIONS
from tests.coherence.fake_kafka import FakeKafka, Sent
from tests.coherence.fake_redis import RedisServer
from tests.coherence.network import Process
from tests.coherence.redis_model import RedisModel
from tests.coherence.site import simulated_site
from tests.coherence.virtual import VirtualClock, VirtualLoop, virtual_time

KEY, OTHERS = "session:1", "api"


async def use(kafka: FakeKafka, found: list[str]) -> None:
    """Hold a miss, then put the key and clear another namespace at once: the put lies before it in the log."""
    heartbeat = Invalidation(RecordType.HEARTBEAT, Source.WRITES, 1, -1, -1)
    settings = Settings(kafka=KafkaSettings(partitions=1), reader=ReaderSettings(max_wait_s=0.05))
    async with MarketCache(settings, clock=lambda: kafka.clock.ns) as cache:
        kafka.append(INVALIDATIONS, 0, [Sent(None, encode(heartbeat))])
        await asyncio.sleep(0.1)
        assert await cache.get(KEY) is None and len(cache.memory) == 1
        acknowledged: list[str] = []

        async def put() -> None:
            await cache.put(KEY, "mine")
            acknowledged.append("put")

        async def clear() -> None:
            await cache.clear(OTHERS)
            acknowledged.append("clear")

        await asyncio.gather(put(), clear())
        try:
            entry = await cache.get(KEY)  # no worker is there: only memory can answer
        except TooStale:
            found.append("refused")
        else:
            found.append("missed" if entry is None else str(entry.value))
        found.append(acknowledged[0])


@pytest.mark.parametrize("first", ["put", "clear"])
def test_a_put_that_is_acknowledged_after_a_later_clear_ends_what_was_held(first: str) -> None:
    for seed in range(100):
        clock, found = VirtualClock(), list[str]()
        kafka = FakeKafka(clock, Random(seed))
        redis = RedisServer(RedisModel(lambda clock=clock: clock.ms))  # type: ignore[misc]
        loop = VirtualLoop(clock)
        process = Process("reader", clock, Random(seed))

        async def run(kafka: FakeKafka = kafka, found: list[str] = found, process: Process = process) -> None:
            process.spawn(use(kafka, found))
            await asyncio.sleep(5.0)

        with virtual_time(clock), simulated_site(kafka, redis, 1):
            loop.run_until_complete(run())
        loop.close()
        assert process.bugs == [] and process.failure is None
        if found[1] == first:
            assert found[0] != "missed", f"seed {seed}: a miss from before the reader's own put"
            return
    pytest.fail(f"no seed acknowledged {first} first")
