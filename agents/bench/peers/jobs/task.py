"""What the bench tells a peer's process to do, and what that process tells at its end."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from models.market.instruments import Instrument

BAR_S = (1, 10, 60)
GRACE_S = 1


class PeerTask(msgspec.Struct, frozen=True):
    """Everything a peer's process is told.

    Attributes:
        topic: to read from its beginning, full name.
        group: consumer group, where the peer has them.
        folder: for the peer's state; empty.
        commit_s: each so many seconds what was done is made durable.
        instruments: definitions of all that may come (frames name them by hash).
    """

    bootstrap: str
    topic: str
    group: str
    folder: str
    commit_s: float
    instruments: tuple[Instrument, ...] = ()


class Bar(msgspec.Struct, frozen=True, array_like=True):
    """A closed window: length and start in seconds, prices and volume as the peer keeps them."""

    instrument: str
    length_s: int
    start_s: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class PeerResult(msgspec.Struct, frozen=True):
    """What a peer's process ends with.

    Attributes:
        bars: windows that it closed, in that order.
        late: trades that it left out because their window was closed.
    """

    bars: list[Bar] = []
    late: int = 0


def read_task() -> PeerTask:
    """The task whose file is the process's only argument."""
    return msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=PeerTask)


def answer_when_asked(task: PeerTask, result: Callable[[], PeerResult]) -> None:
    """End the process when standard input ends, that is with its owner too; a byte before that asks for the result.

    A thread that only waits: it costs the peer nothing, and asks nothing of how it stops.
    """

    def wait() -> None:
        if os.read(sys.stdin.fileno(), 1):
            Path(task.folder, "result.json").write_bytes(msgspec.json.encode(result()))
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
