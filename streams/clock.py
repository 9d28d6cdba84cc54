"""The clock of the storeys above `models`: UTC nanoseconds as a plain call, so that a test can hand in its own."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]  # UTC ns


# The machine's clock, UTC ns. It dates and ages; it never decides which of two values is newer. A plain name of it: a
# function around it would be a tenth of a read from memory.
now_ns: Clock = time.time_ns


class SettableClock:
    """A clock that stands still until it is moved.

    Args:
        start_ns: UTC ns that it shows first.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self.ns = start_ns

    def __call__(self) -> int:
        return self.ns

    def advance(self, ns: int) -> None:
        self.ns += ns
