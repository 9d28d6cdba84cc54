"""CPU of a command from its first instruction to its last."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from models.errors import MarketPrismError


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Run a command to its end; CPU seconds that it used, user and system, all threads.

    Raises:
        MarketPrismError: it failed; the message has the last line that it wrote to stderr.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith("MARKETPRISM_")}
    with subprocess.Popen(
        command, env=own | dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as child:
        errors = child.stderr.read() if child.stderr else ""
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise MarketPrismError(
            f"{' '.join(command[2:5])} failed: {(errors.strip().splitlines() or ['no message'])[-1]}"
        )
    return usage.ru_utime + usage.ru_stime
