"""Processes as a bench sees them: found by their port, their CPU time, held and let go."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import psutil

_HERE = ("127.0.0.1", "localhost", "::1")
_CPUCLOCK_SCHED = 2  # Linux, include/uapi/linux/time.h and posix-timers: clock id of another process's CPU time


def listener(address: str) -> psutil.Process | None:
    """The process of this machine that listens at the first `host:port` of an address; None if it is not to be seen."""
    where = urlsplit(address if "://" in address else f"//{address.split(',', 1)[0]}")
    if where.hostname not in _HERE:
        return None
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            at = connection.laddr
            if connection.status == psutil.CONN_LISTEN and at and at.port == where.port and connection.pid:
                return psutil.Process(connection.pid)
    return None


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, all threads, user and system; exact on Linux, else in 10 ms steps."""
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def disk_bytes(pid: int) -> int | None:
    """Bytes that a process has caused to be written to disks so far, whole pages; None where the system does not tell.

    Source: Linux, Documentation/filesystems/proc.rst, `write_bytes` of /proc/PID/io. Memory file systems do not count.
    """
    try:
        return int(psutil.Process(pid).io_counters().write_bytes)
    except (AttributeError, psutil.AccessDenied):
        return None


class CpuMeter:
    """CPU seconds of several processes since the meter was made.

    Args:
        pids: by the name that people know the process by.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._began = {name: cpu_s(pid) for name, pid in self._pids.items()}

    def read(self) -> dict[str, float]:
        return {name: cpu_s(pid) - self._began[name] for name, pid in self._pids.items()}


@contextlib.contextmanager
def held(pid: int) -> Iterator[None]:
    """Stop a process for the length of the block, so that work can pile up before it; it knows nothing of it."""
    process = psutil.Process(pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()
