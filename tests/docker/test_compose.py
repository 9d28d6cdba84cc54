"""The compose site for real: up, answering from the host, the worker ready, down without a trace."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from streams.services.ports import free_ports, kafka_answers, redis_answers
from tests.conftest import ROOT, WaitUntil
from tests.containers import docker_wanted, images_at_hand

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class ComposeSite:
    """One project of `docker/compose.yaml` under a name of its own."""

    command: list[str]
    environment: dict[str, str]
    kafka_port: int
    redis_port: int

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.command, *arguments], env=self.environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def health(self, service: str) -> str:
        container = self("ps", "-q", service).strip()
        form = "{{.State.Health.Status}}"
        told = subprocess.run(
            ["docker", "inspect", "--format", form, container], capture_output=True, text=True, timeout=20, check=False
        )
        return told.stdout.strip()


@pytest.fixture
def compose() -> Iterator[ComposeSite]:
    if not images_at_hand() and not docker_wanted():
        pytest.skip("no Docker daemon with the images answers; `make test-docker` builds them and insists")
    project = f"mp{uuid.uuid4().hex[:8]}"
    kafka_port, redis_port = free_ports(2)
    ports = {"MP_KAFKA_PORT": str(kafka_port), "MP_REDIS_PORT": str(redis_port)}
    site = ComposeSite(
        [*_compose(), "-p", project, "-f", str(ROOT / "docker" / "compose.yaml")],
        os.environ | ports,
        kafka_port,
        redis_port,
    )
    yield site
    site("down", "--volumes", "--timeout", "5")
    listed = ["docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project}"]
    assert subprocess.run(listed, capture_output=True, text=True, timeout=20, check=True).stdout == ""


def _compose() -> list[str]:
    """Compose as a plugin of `docker`, else the older program."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=20, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


async def test_kafka_and_redis_answer_from_the_host(compose: ComposeSite, wait_until: WaitUntil) -> None:
    compose("up", "-d", "kafka", "redis")
    await wait_until(lambda: kafka_answers(compose.kafka_port), 60, "Kafka's metadata")
    await wait_until(lambda: redis_answers(compose.redis_port), 60, "Redis's PONG")
    for service in ("kafka", "redis"):
        await wait_until(_healthy(compose, service), 60, f"the health of {service}")


async def test_the_worker_gets_ready(compose: ComposeSite, wait_until: WaitUntil) -> None:
    compose("up", "-d")
    await wait_until(_healthy(compose, "worker"), 120, "the health of worker")


def test_an_installed_wheel_finds_the_pom() -> None:
    if not images_at_hand() and not docker_wanted():
        pytest.skip("no Docker daemon with the images answers")
    code = (
        "from streams.services.jars import broker_file; print(broker_file('pom.xml'), broker_file('log4j2.properties'))"
    )
    image = os.environ.get("MP_APP_IMAGE", "marketprism/app:local")
    command = ["docker", "run", "--rm", "--entrypoint", "python", image, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("site-packages/streams/services/") == 2


def _healthy(compose: ComposeSite, service: str) -> Callable[[], bool]:
    return lambda: compose.health(service) == "healthy"
