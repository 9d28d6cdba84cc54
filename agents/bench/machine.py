"""What a figure depends on: the machine, its load, the versions that ran, the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil

from agents.bench.process import listener
from streams.cache.connect import connect_redis, redis_errors
from streams.settings import Settings

_LIBRARIES = ("faust-streaming", "aiokafka", "rocksdict", "redis", "hiredis", "numpy", "numba", "uvloop", "msgspec")
_SOURCE = Path(__file__).resolve().parents[2]
_GIT_S = 10


async def machine_facts(settings: Settings) -> dict[str, object]:
    """Facts of this machine and of the services that the settings name. Ask before the load begins.

    Raises:
        ServiceUnavailable: Redis does not answer.
    """
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load": [round(load, 2) for load in os.getloadavg()],  # 1, 5, 15 minutes
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kafka": _kafka_version(settings.kafka.bootstrap),
        "redis": await _redis_version(settings),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def commit() -> str:
    """Of the checkout this code runs from, `-dirty` behind it when files differ; `unknown` outside one."""
    try:
        return _git("rev-parse", "HEAD") + ("-dirty" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ("git", "-C", str(_SOURCE), *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=True).stdout.strip()


def _cpu_model() -> str:
    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()


def _kafka_version(bootstrap: str) -> str:
    """By the jar it runs: the protocol does not tell a broker's version. Only of a broker on this machine."""
    if (process := listener(bootstrap)) is None:
        return "unknown"
    for part in ":".join(process.cmdline()).split(":"):
        if part.endswith("/*") and (jars := sorted(Path(part[:-2]).glob("kafka_2.*.jar"))):
            return jars[0].stem.partition("-")[2]
    return "unknown"


async def _redis_version(settings: Settings) -> str:
    redis = connect_redis(settings.redis)
    try:
        with redis_errors(settings.redis.url):
            return str((await redis.info("server"))["redis_version"])
    finally:
        await redis.aclose()
