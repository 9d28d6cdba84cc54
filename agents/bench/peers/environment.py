"""Peers' own virtual environments: their pins do not fit ours. Each is made once, from a lock file with hashes."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bar

from models.errors import ServiceSetupError

LOCK = Path(__file__).with_name("requirements.lock")  # of the stream processors

Progress = Callable[[int, int, str], None]  # packages so far, of all, the one that is next

_ADVICE = "check the network (the package index must be reachable) and the disk, then run this again"
_NAMED = re.compile(r"Collecting ([A-Za-z0-9._-]+)")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\]+)", re.MULTILINE)
_LAST_LINES = 20


def peers_folder(cache_dir: Path, lock: Path | None = None) -> Path:
    """Where the environment of this very lock (None: `LOCK`) and Python lies, whether it is there or not."""
    of = (lock or LOCK).read_bytes() + f"{sys.implementation.cache_tag} {platform.machine()}".encode()
    return cache_dir / f"peers-{hashlib.sha256(of).hexdigest()[:16]}"


def ready_python(cache_dir: Path, console: Console, lock: Path, what: str) -> Path:
    """The Python of a lock's environment, with a progress bar while it is installed.

    Args:
        what: says whom it installs, and how large they are.

    Raises:
        ServiceSetupError: as `peers_python`.
    """
    if peers_folder(cache_dir, lock).is_dir():
        return peers_python(cache_dir, lambda *_: None, lock)
    console.print(f"Installing {what} into an environment of their own ...")
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("fetching")
        return peers_python(
            cache_dir, lambda done, total, name: bar.update(task, completed=done, total=total, description=name), lock
        )


def peers_python(cache_dir: Path, progress: Progress, lock: Path | None = None) -> Path:
    """The environment's Python; installed (a minute or two) when the cache has none of this lock.

    Raises:
        ServiceSetupError: the index or the disk failed, or this Python cannot make environments.
    """
    lock = lock or LOCK
    folder = peers_folder(cache_dir, lock)
    if not folder.is_dir():
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix="installing-", dir=cache_dir))
        except OSError as exc:
            raise ServiceSetupError(f"{cache_dir} cannot be written: {exc}; set services.cache_dir") from exc
        try:
            _install(scratch / "peers", progress, lock)
            # An environment may be moved as long as only `bin/python` is used. Of two that are installed at once the
            # first stays, both are equal.
            _move(scratch / "peers", folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder / "bin" / "python"


def _move(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError as exc:
        if not folder.is_dir():
            raise ServiceSetupError(f"{folder} cannot be made: {exc}; set services.cache_dir") from exc


def _install(folder: Path, progress: Progress, lock: Path) -> None:
    python = folder / "bin" / "python"
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ServiceSetupError(
            f"{sys.executable} cannot make a virtual environment: {_reason(made.stdout + made.stderr)}; "
            "on Debian and Ubuntu install python3-venv"
        )
    total = len(locked_versions(lock))
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check",
               "--no-input", "--require-hashes", "--only-binary", ":all:", "--progress-bar", "off",
               "-r", str(lock)]  # fmt: skip
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        done = 0
        for line in pip.stdout:
            lines.append(line)
            if named := _NAMED.match(line):
                progress(done, total, named[1])
                done += 1
            elif line.startswith("Installing collected"):
                progress(total, total, "unpacking")
    if pip.returncode:
        raise ServiceSetupError(f"the peers could not be installed: {_reason(''.join(lines))}; {_ADVICE}")


def _reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "Error"))]
    return (errors or lines or ["no output"])[0]


def locked_versions(lock: Path | None = None) -> dict[str, str]:
    """Versions that a lock (None: `LOCK`) names, by package."""
    return dict(_PINNED.findall((lock or LOCK).read_text()))
