"""A process's age by its own word, held against the clock of the one that started it."""

from __future__ import annotations

import subprocess
import sys
import time


def test_a_process_is_as_old_as_the_time_since_it_was_started() -> None:
    ask = "from streams.age import process_age_s\nfor _ in range(2): print(process_age_s(), flush=True); input()"
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", ask], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        first, heard = float(child.stdout.readline()), time.monotonic()
        asked = time.monotonic()
        child.stdin.write("\n\n")
        child.stdin.flush()
        second, again = float(child.stdout.readline()), time.monotonic()
    assert 0 < first < heard - began + 0.05
    assert asked - heard <= second - first
    assert asked - began - 0.5 < second < again - began + 0.05
