"""A peer as a child process in its own environment, and how far it has made its work durable."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec
from aiokafka.admin import AIOKafkaAdminClient

from agents.bench.peers.durable import bytewax_offsets, committed_offsets
from agents.bench.peers.jobs.task import PeerResult, PeerTask
from models.errors import DeadlineExceeded, ServiceUnavailable

_SOURCE = Path(__file__).resolve().parents[3]
_POLL_S = 0.05
_DONE_S = 900.0
_ANSWER_S = 60.0


class PeerProcess:
    """`async with PeerProcess(python, job, task, log) as peer: ...`; it is gone at the end, also after errors.

    Args:
        python: of the peers' environment.
        job: module of `agents.bench.peers.jobs`.
        log: file that its output is appended to.
    """

    def __init__(self, python: Path, job: str, task: PeerTask, log: Path) -> None:
        self.task = task
        self.job = job
        self._python = python
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        folder, told = _tell(self.task)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("MARKETPRISM_", "PYTHON"))}
        # Kernels of ours that are compiled there are kept there: versions may differ.
        own |= {"PYTHONPATH": str(_SOURCE), "NUMBA_CACHE_DIR": str(self._python.parents[1] / "numba")}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(self._python), "-W", "ignore", "-m", f"agents.bench.peers.jobs.{self.job}", str(told),
                cwd=folder, env=own, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def recovery(self) -> Path:
        """Bytewax's folder of snapshots."""
        return Path(self.task.folder, "recovery")

    async def wait_durable(self, offsets: Mapping[int, int], admin: AIOKafkaAdminClient) -> None:
        """Until everything up to these offsets (partition -> offset) is durable, as the peer itself counts it.

        Raises:
            ServiceUnavailable: it ended.
            DeadlineExceeded: it makes no way.
        """
        end = time.monotonic() + _DONE_S
        while True:
            if self.job.startswith("quix"):
                next_ = await committed_offsets(admin, self.task.group, self.task.topic)
            else:
                next_ = await asyncio.to_thread(bytewax_offsets, self.recovery, self.task.topic)
            if all(next_.get(number, 0) > offset for number, offset in offsets.items()):
                return
            self._check_alive()
            if time.monotonic() > end:
                raise DeadlineExceeded(f"{self.job} reached {next_} of {dict(offsets)} within {_DONE_S:g} s")
            await asyncio.sleep(_POLL_S)

    async def result(self) -> PeerResult:
        """End it and take what it made. Raises: ServiceUnavailable, DeadlineExceeded: it gives no answer."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(b"\n")
        try:
            await asyncio.wait_for(self._process.wait(), _ANSWER_S)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"{self.job} gave no result within {_ANSWER_S:g} s") from exc
        if (told := _told(self.task)) is None:
            raise self._ended()
        return told

    def _check_alive(self) -> None:
        if self._process is not None and self._process.returncode is not None:
            raise self._ended()

    def _ended(self) -> ServiceUnavailable:
        lines = self._log.read_text(errors="replace").strip().splitlines() or ["no output"]
        return ServiceUnavailable(f"{self.job} ended: {lines[-1]} (all of it was in {self._log.name})")


def _tell(task: PeerTask) -> tuple[Path, Path]:
    """Its folder, made, and the file in it that tells the task."""
    folder = Path(task.folder)
    folder.mkdir(parents=True)
    told = folder / "task.json"
    told.write_bytes(msgspec.json.encode(task))
    return folder, told


def _told(task: PeerTask) -> PeerResult | None:
    path = Path(task.folder, "result.json")
    return msgspec.json.decode(path.read_bytes(), type=PeerResult) if path.exists() else None
