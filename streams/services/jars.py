"""Kafka's jars: exactly what the pom pins, fetched once by Maven (or jgo, Maven in Python) and kept."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from models.errors import ServiceSetupError

_MAVEN_TIMEOUT_S = 600
_ADVICE = "check the network (Maven Central must be reachable) and try again"


def broker_file(name: str) -> Path:
    """A file of the broker's: beside this module in an installed wheel, in `docker/kafka` in a checkout.

    Raises:
        ServiceSetupError: it is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here, here.parents[1] / "docker" / "kafka"):
        if (folder / name).is_file():
            return folder / name
    raise ServiceSetupError(f"{name} is missing from this installation; install marketprism again")


def kafka_jars(cache_dir: Path, say: Callable[[str], None]) -> Path:
    """The folder of jars that the pom pins; fetched when the cache has none for this very pom (43 MB, 7 to 15 s).

    Raises:
        ServiceSetupError: no network, no disk, or neither `mvn` nor jgo is there.
    """
    pom = broker_file("pom.xml")
    folder = cache_dir / f"kafka-{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    say("fetching Kafka's jars (43 MB, once)")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=cache_dir) as scratch:
            fetch_jars(pom, Path(scratch) / "jars")
            # two processes may fetch at once: the first one's rename wins, both sets are equal
            if not folder.is_dir():
                (Path(scratch) / "jars").rename(folder)
    except OSError as exc:
        if folder.is_dir():
            return folder
        raise ServiceSetupError(
            f"Kafka's jars cannot be stored in {cache_dir}: {exc}; free some space or set services.cache_dir"
        ) from exc
    return folder


def fetch_jars(pom: Path, target: Path) -> None:
    """Put the pom's runtime dependencies into the new folder `target`, with `mvn` when it is on the PATH, else jgo."""
    target.mkdir(parents=True)
    if maven := shutil.which("mvn"):
        _fetch_with_maven(maven, pom, target)
    elif find_spec("jgo"):
        _fetch_with_jgo(pom, target)
    else:
        raise ServiceSetupError(
            "Kafka's jars need `mvn` on the PATH or the package jgo: `pip install 'marketprism[local]'`"
        )
    broken = [jar.name for jar in target.iterdir() if not zipfile.is_zipfile(jar)]
    if broken or not list(target.glob("kafka_*.jar")):
        raise ServiceSetupError(f"Kafka's jars came incomplete ({', '.join(broken) or 'no broker'}); {_ADVICE}")


def _fetch_with_maven(maven: str, pom: Path, target: Path) -> None:
    command: list[str | Path] = [
        maven,
        "-q",
        "-B",
        "-f",
        pom,
        "dependency:copy-dependencies",
        f"-DoutputDirectory={target}",
    ]
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_MAVEN_TIMEOUT_S, check=True
        )
    except subprocess.TimeoutExpired as exc:
        raise ServiceSetupError(f"Kafka's jars did not come within {_MAVEN_TIMEOUT_S} s: {_ADVICE}") from exc
    except subprocess.CalledProcessError as exc:
        why = next((line for line in exc.stdout.splitlines() if "[ERROR]" in line), "it said nothing")
        raise ServiceSetupError(f"Kafka's jars could not be fetched: {_ADVICE} (mvn: {why[:200]})") from exc


def _fetch_with_jgo(pom: Path, target: Path) -> None:
    import requests  # noqa: PLC0415  (both come with the extra `local` only)
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415
    from jgo.parse import Coordinate  # noqa: PLC0415

    logging.getLogger("jgo").setLevel(logging.ERROR)
    resolver = PythonResolver()
    # its own repository, thrown away: an interrupted download there would be taken for whole the next time
    context = MavenContext(repo_cache=target.parent / "repository", resolver=resolver, timeout=60)
    # `!` = as the pom says; without it each dependency's own bill of materials rules (log4j's brings Kafka 3.9 clients)
    asked = [context.create_dependency(replace(Coordinate.parse(f"{one}!"), scope="compile")) for one in pinned(pom)]
    try:
        inputs, transitive = resolver.resolve(asked)
        for dependency in [*inputs, *transitive]:
            if dependency.scope in (None, "compile", "runtime"):
                shutil.copy(dependency.artifact.resolve(), target)
    except (requests.RequestException, RuntimeError) as exc:
        raise ServiceSetupError(f"Kafka's jars could not be fetched: {_ADVICE} (jgo: {str(exc)[:200]})") from exc


def pinned(pom: Path) -> list[str]:
    """`group:artifact:version` of each dependency the pom names."""
    dependencies = ElementTree.parse(pom).iterfind("dependencies/dependency")
    fields = ("groupId", "artifactId", "version")
    return [":".join(d.findtext(field, "") for field in fields) for d in dependencies]
