"""Kafka and Redis in containers. The images are the public ones unless the environment names others, never pulled."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterator

import docker
from docker.errors import DockerException

KAFKA_IMAGE = os.environ.get("MP_KAFKA_IMAGE", "apache/kafka:4.1.0")
REDIS_IMAGE = os.environ.get("MP_REDIS_IMAGE", "redis:7.4")
DOCKER_VARIABLE = "MARKETPRISM_TEST_DOCKER"
_OUTSIDE, _INSIDE, _CONTROLLER = 9094, 9092, 9093
_START_SCRIPT = "/tmp/start-broker.sh"
_DAEMON_TIMEOUT_S = 5
_START_DEADLINE_S = 60


def docker_wanted() -> bool:
    """Whether this run insists on containers: then their absence is a failure, not a reason to skip."""
    return bool(os.environ.get(DOCKER_VARIABLE))


def images_at_hand() -> bool:
    """Whether a daemon answers (a `docker` command alone says nothing) and already has both images."""
    try:
        with contextlib.closing(docker.from_env(timeout=_DAEMON_TIMEOUT_S)) as client:
            for image in (KAFKA_IMAGE, REDIS_IMAGE):
                client.images.get(image)
    except DockerException:
        return False
    return True


@contextlib.contextmanager
def container_site() -> Iterator[tuple[str, str]]:
    """Yields (bootstrap, Redis URL); both containers are removed at the end."""
    # the sweeper that testcontainers starts beside them is one more image to pull; these context managers sweep
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.redis import RedisContainer  # noqa: PLC0415  (reads the variable when imported)

    with _kafka() as bootstrap, RedisContainer(REDIS_IMAGE) as redis:
        yield bootstrap, f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0"


@contextlib.contextmanager
def _kafka() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415
    from testcontainers.core.wait_strategies import ExecWaitStrategy  # noqa: PLC0415

    container = (
        DockerContainer(KAFKA_IMAGE)
        .with_exposed_ports(_OUTSIDE)
        .with_envs(
            KAFKA_NODE_ID="1",
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_CONTROLLER_QUORUM_VOTERS=f"1@localhost:{_CONTROLLER}",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_LISTENERS=f"PLAINTEXT://:{_INSIDE},CONTROLLER://:{_CONTROLLER},HOST://:{_OUTSIDE}",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT",
            KAFKA_INTER_BROKER_LISTENER_NAME="PLAINTEXT",
            KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
            KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
            KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
            KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
            KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS="2000",
            KAFKA_MESSAGE_MAX_BYTES=str(8 << 20),
            KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        )
        # the broker must advertise a port that is known only once the container runs: it idles until told
        .with_command(["bash", "-c", f"until [ -f {_START_SCRIPT} ]; do sleep 0.1; done; source {_START_SCRIPT}"])
    )
    with container:
        address = f"{container.get_container_host_ip()}:{container.get_exposed_port(_OUTSIDE)}"
        listeners = f"PLAINTEXT://localhost:{_INSIDE},HOST://{address}"
        script = f"export KAFKA_ADVERTISED_LISTENERS={listeners}\nexec /etc/kafka/docker/run\n"
        container.get_wrapped_container().put_archive("/", _tar(_START_SCRIPT.lstrip("/"), script.encode()))
        # asked from inside: a published port answers before the broker does
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{_OUTSIDE}"]
        ExecWaitStrategy(probe).with_startup_timeout(_START_DEADLINE_S).with_poll_interval(0.2).wait_until_ready(
            container
        )
        yield address


def _tar(path: str, content: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(path)
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()
