"""Room on the worker's disk: a barrier waits for it before it writes anything."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from models.errors import DiskFull
from streams import metrics
from streams.log import event

log = logging.getLogger(__name__)

_POLL_S = 0.2


class Room:
    """Whether the disk of a folder has a reserve left; RocksDB that runs into the end has to be closed and reopened.

    Args:
        folder: it exists.
        reserve_bytes: less than this counts as full; 0 = never.

    Attributes:
        full: a barrier waits for room.
    """

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self.full = False
        self._folder = folder
        self._reserve = reserve_bytes

    def check(self) -> None:
        """Raises: DiskFull."""
        if (free := self._free()) < self._reserve:
            raise DiskFull(
                f"the disk of {self._folder} has {free >> 20} MiB left, and worker.disk_reserve_mb = "
                f"{self._reserve >> 20} are needed: free space; nothing was committed and nothing is lost"
            )

    async def wait(self, give_up: Callable[[], bool]) -> None:
        """Return once there is room. No deadline: meanwhile rounds go on, and the log has all that is not committed.

        Args:
            give_up: asked now and then; who has to leave does not wait.

        Raises:
            DiskFull: it gave up.
        """
        try:
            while self._free() < self._reserve:
                if not self.full:
                    self.full = True
                    metrics.DISK_FULL.set(1)
                    event(log, "disk_full", level=logging.ERROR, folder=str(self._folder), free_bytes=self._free(),
                          reserve_bytes=self._reserve, then="nothing is committed until there is room")  # fmt: skip
                if give_up():
                    self.check()
                await asyncio.sleep(_POLL_S)
            if self.full:
                event(log, "disk_has_room", folder=str(self._folder), free_bytes=self._free())
        finally:
            self.full = False
            metrics.DISK_FULL.set(0)

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free
