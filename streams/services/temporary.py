"""A site for a while: its own ports, its own folder, and gone with its owner, even when that is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from streams.services.ports import free_ports
from streams.services.site import Addresses, LocalSite, Say, silent
from streams.settings import ServicesSettings

_STOP_DEADLINE_S = 30.0
_GUARD = "import sys; from streams.services.temporary import stop_when_orphaned as guard; guard(sys.argv[1])"


@contextlib.contextmanager
def temporary_site(
    folder: Path, *, cache_dir: str = ServicesSettings.cache_dir, say: Say = silent
) -> Iterator[Addresses]:
    """A Kafka and a Redis of their own in `folder`, on free ports, killed at the end; for tests and demonstrations.

    Raises:
        ServiceSetupError, ServiceUnavailable: as `LocalSite.up`.
    """
    kafka_port, controller_port, redis_port = free_ports(3)
    settings = ServicesSettings(
        state_dir=str(folder),
        cache_dir=cache_dir,
        kafka_port=kafka_port,
        controller_port=controller_port,
        redis_port=redis_port,
    )
    site = LocalSite(settings, keep=False, say=say)
    with _guarded(folder):
        try:
            site.up()
            yield site.addresses
        finally:
            site.down()


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """A small process holds the other end of a pipe: when this end closes, in order or by death, it stops the site."""
    command = [sys.executable, "-c", _GUARD, str(folder)]
    # a session of its own: Ctrl-C in the terminal must reach the owner alone, who then ends the block in order
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as guard:
        try:
            yield
        finally:
            if guard.stdin:
                guard.stdin.close()
            guard.wait(_STOP_DEADLINE_S)


def stop_when_orphaned(folder: str) -> None:
    """What the guard runs: wait for the end of standard input, then stop what this folder started."""
    sys.stdin.buffer.read()
    LocalSite(ServicesSettings(state_dir=folder), keep=False).down()
