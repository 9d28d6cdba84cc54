"""An event loop in which time passes only when nobody has anything to do: seconds cost microseconds, and every run of
a seed is the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

START_NS = 1_760_000_000_000_000_000  # UTC ns at which every simulation begins


class VirtualClock:
    """Attributes: s: since the simulation's start."""

    def __init__(self) -> None:
        self.s = 0.0

    @property
    def ns(self) -> int:
        return START_NS + round(self.s * 1e9)

    @property
    def ms(self) -> int:
        return self.ns // 1_000_000


class _Selector(selectors.SelectSelector):
    """Waits for nothing: whoever waits has a timer, and the clock jumps to the next one."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else: the simulation stands still")
        self._clock.s += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Selector(clock))
        self._virtual = clock
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual.s


@contextlib.contextmanager
def replaced(originals: dict[str, tuple[Callable[..., Any], Callable[..., Any]]]) -> Iterator[None]:
    """In every module of ours that has it under this name, one function stands for another: name -> (original, new)."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for module in list(sys.modules.values()):
            if not getattr(module, "__name__", "").startswith(("streams.", "agents.")):
                continue
            for name, (original, new) in originals.items():
                if getattr(module, name, None) is original:
                    undo.append((module, name, original))
                    setattr(module, name, new)
        yield
    finally:
        for module, name, original in undo:
            setattr(module, name, original)


@contextlib.contextmanager
def virtual_time(clock: VirtualClock) -> Iterator[None]:
    """`time.monotonic` is the clock's, and nobody logs."""
    real = time.monotonic
    level = logging.root.manager.disable
    time.monotonic = lambda: clock.s  # type: ignore[assignment]
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        time.monotonic = real  # type: ignore[assignment]
        logging.disable(level)
