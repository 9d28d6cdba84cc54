"""A command in a terminal of its own: what it draws can be read, and keys can be pressed."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

_ROWS, _COLUMNS = 40, 160


class Terminal:
    """A process whose controlling terminal this is.

    Attributes:
        text: all that the terminal has shown so far, control sequences included.
    """

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process, self.text = process, ""
        self._master = master
        asyncio.get_running_loop().add_reader(master, self._read)

    def press(self, keys: str) -> None:
        """Type something; "\\x03" is Ctrl-C."""
        os.write(self._master, keys.encode())

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65_536)
        except OSError as exc:  # Linux says EIO when nobody holds the other side any more
            if exc.errno != errno.EIO:
                raise
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.text += data.decode("utf-8", "replace")


@asynccontextmanager
async def in_terminal(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> AsyncIterator[Terminal]:
    """Run a command in a new terminal and session; it is killed at the end if it is still there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=slave, stdout=slave, stderr=slave, env=dict(environment), cwd=folder,
            preexec_fn=own_terminal,
        )  # fmt: skip
        os.close(slave)
        terminal = Terminal(process, master)
        try:
            yield terminal
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            asyncio.get_running_loop().remove_reader(master)
    finally:
        os.close(master)
