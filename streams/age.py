"""How long this process has lived."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil


def process_age_s() -> float:
    """Seconds since this process began; to 10 ms on Linux, elsewhere as exactly as the machine's start is known."""
    if sys.platform != "linux":
        return time.time() - psutil.Process().create_time()
    # proc(5), /proc/pid/stat: field 22, `starttime`; psutil's own adds a boot time in whole seconds
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
