"""What tests ask of worker processes: how far they are, what their disk and Redis hold, what Kafka has committed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import cast

import aiohttp
import psutil
from aiokafka.admin import AIOKafkaAdminClient

from models.cache.keys import Space, mark_key, parse_key, redis_key
from models.cache.mark import Mark, unpack_mark
from models.cache.version import offset_of
from models.market.digest import InstrumentFinal, digest
from models.market.final import finals
from streams.cache.connect import connect_redis
from streams.cache.rocks import applied_on_disk, read_partition
from streams.days.day import Day
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil

_DEADLINE_S = 60.0
REPLAY_DATA = Path(__file__).parents[1] / "replay_data"
GOLDEN = json.loads((REPLAY_DATA / "sample-day.golden.json").read_text())


def sample_day() -> Day:
    return Day.open(REPLAY_DATA / "sample-day")


async def marks(settings: Settings, space: Space = Space.MARKET) -> list[Mark]:
    """Redis' mark of each partition."""
    prefix, numbers = settings.topics.prefix, range(settings.kafka.partitions)
    async with aclosing(connect_redis(settings.redis)) as redis:
        return [unpack_mark(data) for data in await redis.mget([mark_key(prefix, space, n) for n in numbers])]


def on_disk(settings: Settings) -> dict[int, int]:
    """Newest offset of the frames that the last barrier made durable, by partition; -1 = none."""
    applied = {number: applied_on_disk(settings, number) for number in range(settings.kafka.partitions)}
    return {number: offset_of(version) if version >= 0 else -1 for number, version in applied.items()}


def merged_finals(*workers: Settings) -> list[InstrumentFinal]:
    """Every instrument as the disk that is furthest has it: of partitions that moved, others hold older pages."""
    numbers = range(workers[0].kafka.partitions)
    owners = [max(workers, key=lambda worker: applied_on_disk(worker, number)) for number in numbers]
    return [
        final
        for number, owner in zip(numbers, owners, strict=True)
        for final in finals(read_partition(owner, number).market)
    ]


def merged_digest(*workers: Settings) -> str:
    return digest(merged_finals(*workers))


def reached(workers: Iterable[Settings], offsets: dict[int, int]) -> Callable[[], bool]:
    """A condition: disks hold every frame up to these offsets, each partition on one of them."""
    folders = list(workers)

    def there() -> bool:
        disks = [on_disk(worker) for worker in folders]
        return all(max(disk[number] for disk in disks) >= offset for number, offset in offsets.items())

    return there


async def in_redis(settings: Settings, key: str) -> bytes | None:
    """The bytes of a key that is no book."""
    parsed = parse_key(key)
    name = redis_key(settings.topics.prefix, parsed, parsed.partition(settings.kafka.partitions))
    async with aclosing(connect_redis(settings.redis)) as redis:
        return cast(bytes | None, await redis.get(name))


def wipe(settings: Settings) -> None:
    """Lose the worker's disk."""
    shutil.rmtree(settings.worker.data_dir)


async def ask(settings: Settings, path: str) -> tuple[int, str]:
    """Status and text of the worker's port."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{settings.worker.port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def metric(settings: Settings, name: str) -> float:
    """One metric of the worker, summed over its labels; histograms by `..._sum` or `..._count`."""
    _, text = await ask(settings, "/metrics")
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] == name]
    if not lines:
        raise KeyError(name)
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def share(settings: Settings) -> set[int]:
    """Partitions that a worker serves; none while it is away or not ready."""
    try:
        report = json.loads((await ask(settings, "/health"))[1])
    except aiohttp.ClientError:
        return set()
    return set(report["partitions"]) if report["ready"] else set()


async def changelog_of(settings: Settings) -> str:
    """Full name of the changelog of the workers' pages."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()
    try:
        own = [topic for topic in await admin.list_topics() if topic.startswith(settings.topics.prefix)]
    finally:
        await admin.close()
    (name,) = [topic for topic in own if topic.endswith("changelog")]
    return name


def is_gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody has asked for its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


Between = Callable[[int], None]


class Assassin:
    """Kills a worker and starts it again while its work goes on; each kill finds it with work it has not made durable.

    Args:
        between: called with the number of the kill while the worker is dead.
    """

    def __init__(self, worker: WorkerProcess, wait_until: WaitUntil, between: Between = lambda kill: None) -> None:
        self.kills = 0
        self._worker = worker
        self._wait_until = wait_until
        self._between = between
        self._durable = -1
        self._starting: asyncio.Task[float] | None = None

    async def strike(self) -> None:
        await self.back_at_work()
        await self._wait_until(self._has_applied_more, _DEADLINE_S, "work since the last start")
        await self._worker.kill()
        self._durable = sum(on_disk(self._worker.settings).values())
        self._between(self.kills)
        self.kills += 1
        self._starting = asyncio.create_task(self._worker.start())

    async def back_at_work(self) -> None:
        if self._starting is not None:
            await self._starting

    async def _has_applied_more(self) -> bool:
        return sum(mark.version for mark in await marks(self._worker.settings)) > self._durable
