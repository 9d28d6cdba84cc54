"""Where a reader of invalidations stands, in a file that is whole at every moment."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from models.cache.continuity import Heard
from models.cache.invalidation import Source
from models.errors import ServiceUnavailable, SettingsError


class PartitionPosition(msgspec.Struct, frozen=True):
    """Attributes:
    offset: the next one to read.
    heard: what was heard of each source topic, by name of the source.
    """

    offset: int
    heard: dict[str, Heard] = {}


class Positions(msgspec.Struct, frozen=True):
    """Attributes:
    topic: full name of the topic of invalidations.
    topic_id: Kafka's id of it: a topic created anew under the name is another log.
    partitions: by partition.
    """

    topic: str
    topic_id: str
    partitions: dict[int, PartitionPosition]


class PositionsFile:
    """The file of one reader. It writes in a thread, at most one write at a time, and only what has changed.

    Args:
        path: in a folder that exists.
        every_s: how often `offer` writes, s.
    """

    def __init__(self, path: Path, every_s: float = 1.0) -> None:
        self._path, self._every_s = path, every_s
        self._due = 0.0
        self._written = b""
        self._writing: asyncio.Task[None] | None = None

    async def read(self, topic: str) -> Positions | None:
        """Positions saved for `topic`; None if there is no such file.

        Raises:
            SettingsError: the file holds something else, or positions in another topic.
        """
        return await asyncio.to_thread(_read, self._path, topic)

    async def offer(self, positions: Callable[[], Positions]) -> None:
        """Begin to write what stands now, if a write is due.

        Raises:
            ServiceUnavailable: the write before failed.
        """
        if time.monotonic() < self._due:
            return
        await self._finish_write()
        self._due = time.monotonic() + self._every_s
        data = msgspec.json.encode(positions())
        if data != self._written:
            self._written = data
            self._writing = asyncio.create_task(asyncio.to_thread(_write, self._path, data))

    async def finish(self, positions: Callable[[], Positions]) -> None:
        """Write what stands now and wait for it. Raises: ServiceUnavailable when that fails."""
        self._due = 0.0
        await self.offer(positions)
        await self._finish_write()

    async def _finish_write(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            await writing
        except OSError as exc:
            raise ServiceUnavailable(f"positions cannot be saved to {self._path}: {exc}") from exc


def _read(path: Path, topic: str) -> Positions | None:
    try:
        positions = msgspec.json.decode(path.read_bytes(), type=Positions)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} holds no saved positions ({exc}): name another file, or delete it") from exc
    if positions.topic != topic:
        raise SettingsError(f"{path} holds positions in {positions.topic}, not in {topic}: name another file")
    unknown = {name for p in positions.partitions.values() for name in p.heard} - set(Source.__members__)
    if unknown:
        raise SettingsError(f"{path} names unknown sources {', '.join(sorted(unknown))}: delete it")
    return positions


def _write(path: Path, data: bytes) -> None:
    """Replace the file in one step; the new one is on disk before the old one goes."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
