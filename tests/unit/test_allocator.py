"""The allocator's settings, in a process of their own: they last as long as it does."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# A block of 8 MiB that is freed and taken again: its second life costs no page fault when the process kept it.
_FAULTS = """
import resource
from streams.allocator import keep_freed_memory
kept = {kept} and keep_freed_memory()
bytearray(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(8 << 20)
print(bool(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_freed_memory_is_taken_again_without_page_faults() -> None:
    def faults(*, kept: bool) -> tuple[str, int]:
        out = subprocess.run(
            [sys.executable, "-c", _FAULTS.format(kept=kept)], capture_output=True, text=True, check=True, timeout=60
        ).stdout.split()
        return out[0], int(out[1])

    assert faults(kept=True)[0] == "True"
    assert faults(kept=True)[1] * 10 < faults(kept=False)[1]


# Blocks of 1 MiB below one that stays: the heap cannot shrink from its end.
_RESIDENT = """
import psutil
from streams.allocator import give_back, keep_freed_memory
keep_freed_memory()
blocks = [bytearray(b"x" * (1 << 20)) for _ in range(64)]
last = bytearray(b"x" * (1 << 20))
rss = psutil.Process().memory_info
del blocks
before = rss().rss
print(give_back(), (before - rss().rss) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_freed_memory_that_nobody_takes_again_goes_back() -> None:
    out = subprocess.run(
        [sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    told, given_mib = out.split()
    assert told == "True"
    assert int(given_mib) >= 48
