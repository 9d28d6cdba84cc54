"""The local site for real: processes come, answer, are left alone, keep their data and go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
import redis as redis_client
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from models.errors import ServiceSetupError
from streams.services import LocalSite, temporary_site
from streams.services.ports import HOST, free_ports
from streams.services.process import LocalProcess
from streams.settings import ServicesSettings

pytestmark = pytest.mark.integration


def _site(folder: Path) -> LocalSite:
    kafka, controller, redis = free_ports(3)
    return LocalSite(
        ServicesSettings(state_dir=str(folder), kafka_port=kafka, controller_port=controller, redis_port=redis)
    )


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalSite]:
    """A site that nobody has started yet."""
    site = _site(tmp_path / "state")
    yield site
    site.down()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    """A site that was started."""
    site = _site(tmp_path_factory.mktemp("running"))
    site.up()
    yield site
    site.down()


def _topics(bootstrap: str, create: str = "") -> list[str]:
    async def ask() -> list[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            if create:
                await admin.create_topics([NewTopic(create, 1, 1)])
            return list(await admin.list_topics())
        finally:
            await admin.close()

    return asyncio.run(ask())


def _redis(site: LocalSite) -> redis_client.Redis:
    return redis_client.Redis.from_url(site.addresses.redis_url)


def test_data_outlives_a_restart_and_ends_with_fresh(local: LocalSite) -> None:
    first = local.up()
    assert all(service.answers and service.pid for service in first)
    assert _topics(local.addresses.bootstrap, create="kept") == ["kept"]
    with _redis(local) as client:
        client.set("kept", 1)

    assert local.up() == first, "a second up starts nothing"
    assert local.down() == ["Redis", "Kafka"]
    assert [(service.answers, service.pid) for service in local.status()] == [(False, None)] * 2
    assert local.down() == [], "a second down finds nothing"

    local.up()
    assert "kept" in _topics(local.addresses.bootstrap)
    with _redis(local) as client:
        assert client.get("kept") == b"1"

    local.up(fresh=True)
    assert _topics(local.addresses.bootstrap) == []
    with _redis(local) as client:
        assert client.get("kept") is None


def test_up_starts_again_only_what_died(running: LocalSite) -> None:
    kafka, redis = running.status()
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(redis.pid)], timeout=60)
    assert running.status()[1].pid is None
    again_kafka, again_redis = running.up()
    assert again_kafka == kafka
    assert again_redis.answers
    assert again_redis.pid != redis.pid


def test_a_taken_port_is_named_with_its_owner_and_nothing_is_left_running(local: LocalSite) -> None:
    with socket.create_server((HOST, local.settings.kafka_port)), pytest.raises(ServiceSetupError) as refusal:
        local.up()
    message = str(refusal.value)
    assert f"port {local.settings.kafka_port} for Kafka is taken" in message
    assert f"pid {os.getpid()}" in message
    assert "services.kafka_port" in message
    assert [service.pid for service in local.status()] == [None, None]


def test_a_site_that_runs_on_other_ports_is_not_started_twice(running: LocalSite) -> None:
    moved = LocalSite(replace(running.settings, redis_port=free_ports(1)[0]))
    with pytest.raises(ServiceSetupError, match="marketprism down"):
        moved.up()


def test_down_leaves_a_stranger_with_a_reused_pid_alone(tmp_path: Path) -> None:
    process = LocalProcess("Redis", tmp_path)
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started_s = psutil.Process(stranger.pid).create_time()
        record = {"pid": stranger.pid, "started_s": started_s - 100, "port": 1}
        (tmp_path / "process.json").write_bytes(msgspec.json.encode(record))
        assert process.find() is None
        assert process.stop() is False
        assert stranger.poll() is None

        (tmp_path / "process.json").write_bytes(msgspec.json.encode(record | {"started_s": started_s}))
        assert process.find() is not None, "the same record with the true start is ours"
    finally:
        stranger.kill()
        stranger.communicate()


def test_a_server_that_dies_while_starting_is_reported_with_its_last_words(tmp_path: Path) -> None:
    process = LocalProcess("Kafka", tmp_path)
    process.start([sys.executable, "-c", "raise SystemExit('Error: no such disk')"], port=1)
    with pytest.raises(ServiceSetupError, match="Error: no such disk"):
        process.wait_until_it_answers(lambda: False, deadline_s=60)


def test_the_command_line_starts_reports_and_stops(local: LocalSite) -> None:
    environment = os.environ | {
        "MARKETPRISM_SERVICES__STATE_DIR": local.settings.state_dir,
        "MARKETPRISM_SERVICES__KAFKA_PORT": str(local.settings.kafka_port),
        "MARKETPRISM_SERVICES__CONTROLLER_PORT": str(local.settings.controller_port),
        "MARKETPRISM_SERVICES__REDIS_PORT": str(local.settings.redis_port),
    }

    def marketprism(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("marketprism")), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    def last_object(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
        value = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(value, dict)
        return value

    nothing = marketprism("status", "--json")
    assert (nothing.returncode, last_object(nothing)["ok"]) == (1, False)
    assert "marketprism up" in nothing.stderr

    up = marketprism("up", "--json")
    assert up.returncode == 0, up.stderr
    assert last_object(up)["bootstrap"] == local.addresses.bootstrap
    status = marketprism("status", "--json")
    assert (status.returncode, last_object(status)["ok"]) == (0, True)
    down = marketprism("down", "--json")
    assert (down.returncode, last_object(down)["stopped"]) == (0, ["Redis", "Kafka"])


def test_a_temporary_site_is_gone_after_its_block(tmp_path: Path) -> None:
    with temporary_site(tmp_path) as addresses:
        assert _topics(addresses.bootstrap) == []
        records = [LocalProcess("", tmp_path / name).find() for name in ("kafka", "redis")]
    assert all(record and not psutil.pid_exists(record.pid) for record in records)


def test_a_temporary_site_ends_with_its_owner_even_when_that_is_killed(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from streams.services import temporary_site
with temporary_site(Path(sys.argv[1])):
    print("up", flush=True)
    sys.stdin.read()
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    records = [LocalProcess("", tmp_path / name).find() for name in ("kafka", "redis")]
    processes = [psutil.Process(record.pid) for record in records if record]
    assert len(processes) == 2
    owner.kill()
    owner.communicate()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
