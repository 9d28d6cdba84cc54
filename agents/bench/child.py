"""Processes that a bench starts beside the worker: they and their parent tell each other JSON objects, one a line."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import orjson

from models.errors import DeadlineExceeded, ServiceUnavailable
from streams.settings import Settings, environment_of

_LINE_BYTES = 1 << 28  # a reader tells all that it holds in one line
_STOP_S = 20.0


class ChildProcess:
    """`python -m MODULE SPEC` with these settings: `async with ChildProcess(...) as child: await child.hear(60)`.

    Args:
        module: its `__main__` part takes a JSON object as the one argument.
        spec: that object.
        log: file that what it says on stderr is appended to.
    """

    def __init__(self, module: str, settings: Settings, spec: Mapping[str, object], log: Path) -> None:
        self._module = module
        self._settings = settings
        self._spec = spec
        self._log = log
        self._process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aenter__(self) -> Self:
        own = {key: value for key, value in os.environ.items() if not key.startswith("MARKETPRISM_")}
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module, orjson.dumps(dict(self._spec)).decode(),
                env=own | environment_of(self._settings), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=log, limit=_LINE_BYTES,
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # its end tells a child that nobody listens any more
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def hear(self, deadline_s: float) -> dict[str, Any]:
        """The next object that it tells.

        Raises:
            ServiceUnavailable: it ended; the message has the last line of its log.
            DeadlineExceeded: it said nothing in time.
        """
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), deadline_s)
        except TimeoutError:
            raise DeadlineExceeded(f"{self._module} said nothing for {deadline_s:g} s") from None
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise ServiceUnavailable(f"{self._module} ended early: {said[-1] if said else 'it said nothing'}")
        told: dict[str, Any] = orjson.loads(line)
        return told

    def tell(self, **what: object) -> None:
        """Send it an object."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(what) + b"\n")


async def hear_parent() -> dict[str, Any]:
    """In the child: the parent's next object. Raises: EOFError when the parent is gone."""
    line = await asyncio.to_thread(sys.stdin.buffer.readline)
    if not line:
        raise EOFError("the bench that started this process is gone")
    told: dict[str, Any] = orjson.loads(line)
    return told


def tell_parent(**what: object) -> None:
    """In the child: tell the parent an object."""
    sys.stdout.buffer.write(orjson.dumps(what, option=orjson.OPT_NON_STR_KEYS) + b"\n")
    sys.stdout.buffer.flush()
