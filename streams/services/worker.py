"""A worker as a child process: started, ready, stopped in order or killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Self

import aiohttp

from models.errors import DeadlineExceeded, ServiceUnavailable
from streams.settings import Settings, environment_of

_POLL_S = 0.02


class WorkerProcess:
    """`marketprism worker` with these settings: `async with WorkerProcess(settings, log) as worker: ...`.

    Args:
        settings: all of them; the child sees no other.
        log: file that its log is appended to.
        ready_s: deadline for the child to own and serve its partitions; a first start compiles for 20 s or more.
    """

    def __init__(self, settings: Settings, log: Path, *, ready_s: float = 120.0) -> None:
        self.settings = settings
        self.log = log
        self._ready_s = ready_s
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> float:
        """Start and wait until it serves; how long that took, in seconds.

        Raises:
            ServiceUnavailable: it ended; the message has the last line of its log.
            DeadlineExceeded: it did not serve in time.
        """
        began = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        own = {key: value for key, value in os.environ.items() if not key.startswith("MARKETPRISM_")}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "agents.cli.main", "worker",
                env=own | environment_of(self.settings), stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches the parent alone, who stops the child in order
            )  # fmt: skip
        url = f"http://127.0.0.1:{self.settings.worker.port}/health"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
            while not await _serves(session, url, self.pid):
                if self._process.returncode is not None:
                    raise ServiceUnavailable(f"the worker ended at its start: {self.last_line()}")
                if time.monotonic() - began > self._ready_s:
                    await self.kill()
                    raise DeadlineExceeded(f"the worker did not serve within {self._ready_s} s: {self.last_line()}")
                await asyncio.sleep(_POLL_S)
        return time.monotonic() - began

    async def stop(self, deadline_s: float = 20.0) -> float:
        """SIGTERM and wait; seconds until it had left. Harmless when it is gone."""
        began = time.monotonic()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), deadline_s)
            except TimeoutError:
                await self.kill()
        return time.monotonic() - began

    async def kill(self) -> None:
        """SIGKILL: what a crash looks like."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else f"no log in {self.log}"


async def _serves(session: aiohttp.ClientSession, url: str, pid: int) -> bool:
    """Whether this very process is ready: another one may have the port."""
    try:
        async with session.get(url) as answer:
            report = await answer.json()
            return answer.status == 200 and report["ready"] is True and report["pid"] == pid
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        return False
