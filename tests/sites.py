"""A Kafka and a Redis for the tests, from wherever this machine has them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from streams.cache.connect import connect_redis
from streams.services import temporary_site
from streams.settings import RedisSettings
from tests.containers import container_site, docker_wanted, images_at_hand

KAFKA_VARIABLE = "MARKETPRISM_TEST_KAFKA"
REDIS_VARIABLE = "MARKETPRISM_TEST_REDIS"


@dataclass(frozen=True)
class Site:
    """Attributes:
    bootstrap: Kafka's `host:port`.
    redis_url: Redis with a database.
    how: where they come from, for people.
    temporary: they end with the session, and their data with them.
    """

    bootstrap: str
    redis_url: str
    how: str
    temporary: bool


@contextlib.contextmanager
def choose_site(folder: Path) -> Iterator[Site]:
    """Addresses given by environment, else containers, else processes in `folder`."""
    kafka, redis = os.environ.get(KAFKA_VARIABLE), os.environ.get(REDIS_VARIABLE)
    if bool(kafka) != bool(redis):
        raise RuntimeError(f"set both {KAFKA_VARIABLE} and {REDIS_VARIABLE}, or neither")
    if kafka and redis:
        yield Site(kafka, redis, "as the environment says", temporary=False)
    elif docker_wanted() or images_at_hand():
        with container_site() as (bootstrap, redis_url):
            yield Site(bootstrap, redis_url, "containers", temporary=True)
    else:
        with temporary_site(folder) as addresses:
            yield Site(addresses.bootstrap, addresses.redis_url, "local processes", temporary=True)


async def forget_topics(bootstrap: str, prefix: str) -> None:
    """Delete every topic whose name begins with `prefix`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if names := [name for name in await admin.list_topics() if name.startswith(prefix)]:
            await admin.delete_topics(names)
    finally:
        await admin.close()


async def forget_keys(redis_url: str, prefix: str) -> int:
    """Delete every key that begins with `prefix`, as a flush would; how many there were."""
    async with aclosing(connect_redis(RedisSettings(url=redis_url))) as redis:
        keys = [key async for key in redis.scan_iter(match=prefix + "*", count=1000)]
        for start in range(0, len(keys), 1000):
            await redis.delete(*keys[start : start + 1000])
    return len(keys)
