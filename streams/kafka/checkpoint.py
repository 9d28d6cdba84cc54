"""Checkpoints: copies of a partition's store by hard links, from which a worker without its folder begins.

The changelog offset in the store says what is replayed after it, so an old checkpoint is slower and never wrong.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import rocksdict

from streams import metrics
from streams.log import event

log = logging.getLogger(__name__)

KEPT = 2  # of each partition: the newest may turn out to be damaged
_MAKING, _RESTORING = ".making", ".restoring"


class Checkpoints:
    """Checkpoints of one changelog's partitions: `folder/<topic id>/<partition>/<changelog offset>`.

    A name appears only once the whole checkpoint is on disk, so a half-made one is never used. A changelog that was
    created anew has another id and sees none of the old ones.

    Args:
        folder: of this run; several workers may share it, also of other machines.
        interval_s: between two checkpoints of a partition.
        changelog_id: Kafka's id of the changelog; "" = not known yet, then none is made or found.
    """

    def __init__(self, folder: Path, interval_s: float, changelog_id: str = "") -> None:
        self.changelog_id = changelog_id
        self._folder = folder
        self._interval_s = interval_s
        self._made: dict[int, float] = {}

    def due(self, partition: int) -> bool:
        """Whether the partition's last checkpoint by this process is old enough; the first is due after an interval."""
        last = self._made.setdefault(partition, time.monotonic())
        return bool(self.changelog_id) and time.monotonic() - last >= self._interval_s

    def make(self, db: rocksdict.Rdict, partition: int, offset: int) -> None:
        """Make a checkpoint of an open store between two flushes, and drop old ones; blocks for a flush to disk.

        A failure is logged: the worker does not need checkpoints.
        """
        self._made[partition] = time.monotonic()
        final = self._of(partition) / f"{offset:020d}"
        making = final.with_name(final.name + f"{_MAKING}-{os.getpid()}")
        if final.exists():
            return
        began = time.monotonic()
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            rocksdict.Checkpoint(db).create_checkpoint(str(making))
            making.rename(final)
            for old in self.of(partition)[KEPT:]:
                self.drop(old)
        except Exception as exc:  # rocksdict raises nothing more exact
            shutil.rmtree(making, ignore_errors=True)
            event(log, "checkpoint_failed", level=logging.WARNING, folder=str(final), detail=str(exc))
            return
        metrics.CHECKPOINTS.inc()
        event(log, "checkpoint_made", folder=str(final), seconds=round(time.monotonic() - began, 3))

    def of(self, partition: int) -> list[Path]:
        """Whole checkpoints of a partition, the newest first."""
        if not self.changelog_id or not self._of(partition).is_dir():
            return []
        return sorted((path for path in self._of(partition).iterdir() if path.name.isdigit()), reverse=True)

    def restored(self, partition: int, folder: Path) -> Iterator[Path]:
        """Put the newest checkpoint at `folder`, which must not exist, then an older one each time that is asked for.

        Yields:
            the checkpoint that lies in `folder` now.
        """
        for checkpoint in self.of(partition):
            copying = folder.with_name(folder.name + _RESTORING)
            try:
                shutil.rmtree(copying, ignore_errors=True)
                shutil.copytree(checkpoint, copying, copy_function=_link_tables)
                copying.rename(folder)
            except OSError as exc:  # another worker may just have dropped it
                event(log, "checkpoint_unusable", level=logging.WARNING, folder=str(checkpoint), detail=str(exc))
                continue
            yield checkpoint

    def drop(self, checkpoint: Path) -> None:
        """Remove a checkpoint; its name goes first, so that nobody finds half of it."""
        going = checkpoint.with_name(checkpoint.name + f"{_MAKING}-{os.getpid()}")
        with contextlib.suppress(OSError):
            checkpoint.rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def _of(self, partition: int) -> Path:
        return self._folder / self.changelog_id / str(partition)


def _link_tables(source: str, target: str) -> None:
    """Tables never change once they are written; everything else is copied, because RocksDB appends to it."""
    if source.endswith(".sst"):
        with contextlib.suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copy2(source, target)
