"""The local site: a Kafka and a Redis for one machine, as ordinary processes in one state folder."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.errors import ServiceSetupError
from streams.services.jars import kafka_jars
from streams.services.java import find_java
from streams.services.kafka import KafkaNode
from streams.services.ports import HOST, kafka_answers, redis_answers, require_free
from streams.services.process import LocalProcess
from streams.services.redis import find_redis, redis_command
from streams.settings import ServicesSettings

_MIN_FREE_BYTES = 512 << 20
_START_DEADLINE_S = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class ServiceStatus:
    """Attributes:
    address: where clients find it: `host:port` for Kafka, a URL for Redis.
    answers: somebody answers there.
    pid: the process this state folder started, or None.
    """

    name: str
    address: str
    answers: bool
    pid: int | None


@dataclass(frozen=True)
class Addresses:
    """Where a site is.

    Attributes:
        bootstrap: Kafka's `host:port`.
        redis_url: Redis with database 0.
    """

    bootstrap: str
    redis_url: str


def silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class LocalSite:
    """The services of one state folder. Blocking; call it from a thread where a loop runs.

    Attributes:
        settings: folders and ports.
        keep: data outlives the processes; without it starting is quicker and stopping is a kill.
        say: told what takes long, such as a download.
    """

    settings: ServicesSettings
    keep: bool = True
    say: Say = silent

    @property
    def addresses(self) -> Addresses:
        return Addresses(f"{HOST}:{self.settings.kafka_port}", f"redis://{HOST}:{self.settings.redis_port}/0")

    def up(self, *, fresh: bool = False, deadline_s: float = _START_DEADLINE_S) -> tuple[ServiceStatus, ServiceStatus]:
        """Start what does not run yet and return when both answer; harmless when they already do.

        Args:
            fresh: stop them first and throw their data away.

        Raises:
            ServiceSetupError: Java, Redis, jars, a port, the disk or the folder stands in the way.
            ServiceUnavailable: one of them did not answer within `deadline_s`.
        """
        with self._alone():
            if fresh:
                self._stop()
                for process in (self._kafka, self._redis):
                    shutil.rmtree(process.folder, ignore_errors=True)
            started: list[LocalProcess] = []
            try:
                self._start(started)
                with ThreadPoolExecutor() as pool:
                    waits = [
                        pool.submit(self._kafka.wait_until_it_answers, self._kafka_answers, deadline_s),
                        pool.submit(self._redis.wait_until_it_answers, self._redis_answers, deadline_s),
                    ]
                for wait in waits:
                    wait.result()
            except BaseException:
                for process in started:
                    process.stop(grace_s=0)
                raise
        return self.status()

    def fetch(self) -> Path:
        """Download what a start needs, so that it will need no network; returns the folder of Kafka's jars.

        Raises:
            ServiceSetupError: no Java, no Redis, or the download failed.
        """
        find_java()
        find_redis()
        return self._jars()

    def down(self) -> list[str]:
        """Stop what this folder started and nothing else; returns the names of what was stopped."""
        if not self._folder.is_dir():
            return []
        with self._alone():
            return self._stop()

    def status(self) -> tuple[ServiceStatus, ServiceStatus]:
        """Kafka, Redis: whether they answer and whether this folder started them."""
        kafka, redis = self._kafka.find(), self._redis.find()
        return (
            ServiceStatus("Kafka", self.addresses.bootstrap, self._kafka_answers(), kafka.pid if kafka else None),
            ServiceStatus("Redis", self.addresses.redis_url, self._redis_answers(), redis.pid if redis else None),
        )

    def _start(self, started: list[LocalProcess]) -> None:
        """Start what is missing; each is added to `started` as soon as it exists."""
        need_kafka = not self._runs(self._kafka, self.settings.kafka_port)
        need_redis = not self._runs(self._redis, self.settings.redis_port)
        # look at everything before starting anything
        if need_redis:
            require_free(self.settings.redis_port, service="Redis", setting="services.redis_port")
            redis_binary = find_redis()
        if need_kafka:
            require_free(self.settings.kafka_port, service="Kafka", setting="services.kafka_port")
            require_free(self.settings.controller_port, service="its controller", setting="services.controller_port")
            self._require_space()
            node = KafkaNode(
                folder=self._kafka.folder,
                java=find_java(),
                jars=self._jars(),
                port=self.settings.kafka_port,
                controller_port=self.settings.controller_port,
                short_lived=not self.keep,
            )
        if need_redis:
            self.say("starting Redis")
            data = self._redis.folder / "data"
            data.mkdir(parents=True, exist_ok=True)
            command = redis_command(redis_binary, data, port=self.settings.redis_port, keep=self.keep)
            self._redis.start(command, port=self.settings.redis_port)
            started.append(self._redis)
        if need_kafka:
            self.say("starting Kafka")
            node.prepare()
            self._kafka.start(node.command(), port=self.settings.kafka_port)
            started.append(self._kafka)

    def _stop(self) -> list[str]:
        # Redis first: Kafka takes a second or two to leave in order
        grace_s = 30.0 if self.keep else 0.0
        return [process.name for process in (self._redis, self._kafka) if process.stop(grace_s=grace_s)]

    def _runs(self, process: LocalProcess, port: int) -> bool:
        record = process.find()
        if record and record.port != port:
            raise ServiceSetupError(
                f"{process.name} of {self._folder} runs on port {record.port}, the settings say {port}: "
                "run `marketprism down` first"
            )
        return record is not None

    def _require_space(self) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < _MIN_FREE_BYTES:
            raise ServiceSetupError(
                f"{self._folder} has {free >> 20} MB left and Kafka needs {_MIN_FREE_BYTES >> 20}; "
                "free some space, or set services.state_dir to another disk"
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` at a time in a folder; the kernel lets go when the holder dies."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as exc:
            raise ServiceSetupError(
                f"the folder {self._folder} cannot be written: {exc}; set services.state_dir to another one"
            ) from exc

    def _jars(self) -> Path:
        return kafka_jars(Path(self.settings.cache_dir).expanduser().resolve(), self.say)

    def _kafka_answers(self) -> bool:
        return kafka_answers(self.settings.kafka_port)

    def _redis_answers(self) -> bool:
        return redis_answers(self.settings.redis_port)

    @property
    def _folder(self) -> Path:
        return Path(self.settings.state_dir).expanduser().resolve()

    @property
    def _kafka(self) -> LocalProcess:
        return LocalProcess("Kafka", self._folder / "kafka")

    @property
    def _redis(self) -> LocalProcess:
        return LocalProcess("Redis", self._folder / "redis")
