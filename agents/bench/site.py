"""Where a scenario runs: on a Kafka and a Redis of its own, or on the configured ones."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from agents.bench.process import listener
from streams.cache.connect import connect_redis, redis_errors
from streams.kafka.admin import connected
from streams.services.ports import free_ports
from streams.services.site import Say, silent
from streams.services.temporary import temporary_site
from streams.settings import Settings

_DELETE_AT_ONCE = 1000


@dataclass(frozen=True)
class BenchSite:
    """Attributes:
    settings: with the site's addresses.
    folder: for workers' data and logs; gone afterwards.
    logs: folder of Kafka's partitions; None on a broker that is not the bench's own.
    """

    settings: Settings
    folder: Path
    logs: Path | None = None

    def run_settings(self, name: str) -> Settings:
        """Settings of one run: topics, keys, a consumer group, a folder and a port of its own."""
        id_ = f"{name}-{uuid.uuid4().hex[:8]}"
        worker = replace(
            self.settings.worker, id="bench", data_dir=str(self.folder / id_), port=free_ports(1)[0], instance_id=""
        )
        return replace(
            self.settings, topics=replace(self.settings.topics, prefix=f"run.{id_}."), worker=worker
        )  # fmt: skip

    def pids(self) -> dict[str, int]:
        """Broker and Redis, as far as they run on this machine."""
        found = {
            "broker": listener(self.settings.kafka.bootstrap),
            "redis": listener(self.settings.redis.url),
        }
        return {name: process.pid for name, process in found.items() if process is not None}

    def log_bytes(self, topic: str) -> int | None:
        """Bytes of a topic (full name) in the broker's log, compressed as they are fetched; None if not to be seen."""
        if self.logs is None:
            return None
        total = 0
        for segment in self.logs.glob(f"{topic}-*/*.log"):
            with contextlib.suppress(FileNotFoundError):  # retention deletes segments meanwhile
                total += segment.stat().st_size
        return total


@contextlib.contextmanager
def bench_site(settings: Settings, *, live: bool, say: Say = silent) -> Iterator[BenchSite]:
    """A Kafka and a Redis for the length of the block; `live`: those that the settings name.

    Raises:
        ServiceSetupError, ServiceUnavailable: as `temporary_site`.
    """
    with tempfile.TemporaryDirectory(prefix="marketprism-bench-") as name:
        folder = Path(name)
        if live:
            yield BenchSite(settings, folder)
            return
        with temporary_site(folder / "site", cache_dir=settings.services.cache_dir, say=say) as at:
            own = replace(
                settings,
                kafka=replace(settings.kafka, bootstrap=at.bootstrap),
                redis=replace(settings.redis, url=at.redis_url),
            )
            yield BenchSite(own, folder, folder / "site" / "kafka" / "data")


async def forget_run(settings: Settings) -> None:
    """Delete the topics and keys of a run.

    Raises:
        ServiceUnavailable: a service does not answer.
    """
    prefix = settings.topics.prefix
    if not prefix.startswith("run."):
        raise ValueError(f"{prefix!r} is no run's prefix: other topics and keys are not a bench's to delete")
    async with connected(settings.kafka) as client:
        if names := [name for name in await client.list_topics() if name.startswith(prefix)]:
            await client.delete_topics(names)
    async with aclosing(connect_redis(settings.redis)) as redis:
        with redis_errors(settings.redis.url):
            keys = [key async for key in redis.scan_iter(match=f"{prefix}*", count=_DELETE_AT_ONCE)]
            for start in range(0, len(keys), _DELETE_AT_ONCE):
                await redis.unlink(*keys[start : start + _DELETE_AT_ONCE])
