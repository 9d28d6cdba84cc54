"""A Kafka and a Redis for the tests, from wherever this machine has them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import psutil
from aiokafka.admin import AIOKafkaAdminClient

from streams.cache.connect import connect_redis
from streams.services import temporary_site
from streams.services.ports import HOST, free_ports, redis_answers
from streams.services.process import LocalProcess
from streams.services.redis import find_redis, redis_command
from streams.settings import RedisSettings
from tests.containers import container_site, docker_wanted, images_at_hand

KAFKA_VARIABLE = "MARKETPRISM_TEST_KAFKA"
REDIS_VARIABLE = "MARKETPRISM_TEST_REDIS"
_REDIS_S = 60.0


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


class OwnRedis:
    """A Redis for one test to mistreat; it keeps nothing when it stops."""

    def __init__(self, folder: Path) -> None:
        self._port = free_ports(1)[0]
        self._process = LocalProcess("Redis", folder)
        (folder / "data").mkdir(parents=True)
        self._command = redis_command(find_redis(), folder / "data", port=self._port, keep=False)
        self.url = f"redis://{HOST}:{self._port}/0"

    def start(self) -> None:
        self._process.start(self._command, port=self._port)
        self._process.wait_until_it_answers(lambda: redis_answers(self._port), _REDIS_S)

    def stop(self) -> None:
        self._process.stop(grace_s=0)

    def freeze(self, frozen: bool) -> None:
        record = self._process.find()
        assert record is not None
        server = psutil.Process(record.pid)
        if frozen:
            server.suspend()
        else:
            server.resume()
