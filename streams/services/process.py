"""One local server as an ordinary process: recorded in a folder, found again, stopped for certain and nobody else's."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from models.errors import ServiceSetupError, ServiceUnavailable

_POLL_S = 0.05
_SAME_START_S = 1.0  # a process's start is derived from ticks since boot and may differ a little between two readings


class ProcessRecord(msgspec.Struct, frozen=True):
    """What the folder remembers. A pid alone would one day name somebody else's process; pid and start do not."""

    pid: int
    started_s: float
    port: int


@dataclass(frozen=True)
class LocalProcess:
    """A server that lives in `folder` (record, log and data).

    Attributes:
        name: what people call it, such as `Kafka`.
        folder: its own folder; made when it starts.
    """

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def _record(self) -> Path:
        return self.folder / "process.json"

    def find(self) -> ProcessRecord | None:
        """The record of the running process that this folder started, or None."""
        try:
            record = msgspec.json.decode(self._record.read_bytes(), type=ProcessRecord)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return record if _process(record) else None

    def start(self, command: Sequence[str | Path], *, port: int) -> ProcessRecord:
        """Start `command` in a session of its own (Ctrl-C in a terminal does not reach it), its output in `log`.

        Raises:
            ServiceSetupError: the program cannot be run or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.log.open("wb") as log:
                popen = subprocess.Popen(
                    [str(part) for part in command],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            record = ProcessRecord(popen.pid, psutil.Process(popen.pid).create_time(), port)
            self._record.write_bytes(msgspec.json.encode(record))
        except OSError as exc:
            raise ServiceSetupError(f"{self.name} cannot be started in {self.folder}: {exc}") from exc
        _children[popen.pid] = popen
        return record

    def wait_until_it_answers(self, answers: Callable[[], bool], deadline_s: float) -> None:
        """Return once `answers()` is true.

        Raises:
            ServiceSetupError: the process ended instead; the message carries the end of its log.
            ServiceUnavailable: it did not answer within `deadline_s`.
        """
        end = time.monotonic() + deadline_s
        while not answers():
            if self.find() is None:
                raise ServiceSetupError(
                    f"{self.name} stopped while starting: {self.last_words()} (whole log: {self.log})"
                )
            if time.monotonic() > end:
                raise ServiceUnavailable(f"{self.name} did not answer within {deadline_s:g} s; its log is {self.log}")
            time.sleep(_POLL_S)

    def last_words(self) -> str:
        """The most telling line of the log: the first that names an error, else the last one."""
        try:
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        telling = (line for line in lines if any(word in line for word in ("Exception", "Error", "FATAL", "Fatal")))
        return next(telling, lines[-1] if lines else "it said nothing")

    def stop(self, *, grace_s: float = 30.0) -> bool:
        """Ask the process to end, kill it after `grace_s` (0: at once), and wait until it is gone.

        Returns:
            Whether a process of this folder was running.
        """
        record = self.find()
        process = _process(record) if record else None
        if process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                if grace_s > 0:
                    process.terminate()
                    with contextlib.suppress(psutil.TimeoutExpired):
                        process.wait(grace_s)
                if process.is_running():
                    process.kill()
                    process.wait(10)
            if popen := _children.pop(process.pid, None):
                popen.wait(10)
        self._record.unlink(missing_ok=True)
        return process is not None


# A child's handle is kept until it is stopped here: dropping it would leave a zombie and a ResourceWarning.
_children: dict[int, subprocess.Popen[bytes]] = {}


def _process(record: ProcessRecord) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.started_s) < _SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
