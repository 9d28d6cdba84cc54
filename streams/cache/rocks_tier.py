"""The worker's RocksDB as a tier of a reader on the same machine: a few microseconds a read, as of the last barrier."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import rocksdict

from models.cache.coherence import PartitionView
from models.cache.keys import Location, Space
from models.cache.mark import ABSENT
from models.cache.version import NOTHING
from models.errors import CorruptPage, CorruptStore, MarketPrismError, ServiceUnavailable
from models.market.facets import BOOK
from models.market.row_page import EMPTY_PAGE, decode_rows
from streams.cache.held import Held, held_book, held_value
from streams.cache.rocks import store_path
from streams.cache.secondary import Secondary
from streams.cache.tier import Answer, Asked
from streams.log import event
from streams.settings import Settings

log = logging.getLogger(__name__)

_REOPEN_TURNS = 10  # a store that is not there is looked for at each tenth turn


class RocksTier:
    """Log tier over the stores under `worker.data_dir`; it follows them every `reader.disk_follow_s`.

    It has nothing to say of a partition whose store is not on this machine, nor to a reader that has heard nothing of
    the partition yet: a store may have been left by a worker of last week.

    Args:
        settings: where the worker keeps its stores, how many partitions there are, how often to look.
    """

    name = "rocksdb"

    def __init__(self, settings: Settings) -> None:
        self._paths = {p: store_path(settings, p) for p in range(settings.kafka.partitions)}
        self._follow_s = settings.reader.disk_follow_s
        self._stores: dict[int, Secondary] = {}
        self._own_files: tempfile.TemporaryDirectory[str] | None = None
        self._opened = 0
        self._told: dict[int, str] = {}  # last failure to follow, by partition
        self._following: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"RocksTier({len(self._stores)}/{len(self._paths)} stores)"

    async def open(self) -> None:
        await asyncio.to_thread(decode_rows, EMPTY_PAGE)  # compiled, or loaded, before somebody waits for a row
        self._own_files = tempfile.TemporaryDirectory(prefix="marketprism-")
        for partition in self._paths:
            self.catch_up(partition, seek=True)
            await asyncio.sleep(0)
        self._following = asyncio.create_task(self._follow(), name="rocksdb tier")

    async def read(self, at: Location, view: PartitionView) -> Held | None:
        """See `Tier.read`. Raises: CorruptStore."""
        return self._look(at, view)

    async def read_many(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """See `Tier.read_many`."""
        answers: list[Answer] = []
        for at, view in asked:
            try:
                answers.append(self._look(at, view))
            except MarketPrismError as exc:
                answers.append(exc)
        return answers

    async def probe(self) -> None:
        """A look at the marks. Raises: ServiceUnavailable when no store is there."""
        if not any(store.frames is not ABSENT for store in self._stores.values()):
            raise ServiceUnavailable(f"no worker's store is whole under {next(iter(self._paths.values())).parent}")

    async def load_floors(self, partition: int, view: PartitionView) -> int:
        """See `LogTier.load_floors`. Raises: ServiceUnavailable when the partition's store is not here."""
        store = self._stores.get(partition)
        if store is None or (store.writes is ABSENT and not store.empty):
            raise ServiceUnavailable(f"there is no whole store at {self._paths[partition]}")
        _note_floors(store, view)
        return store.writes.version

    async def close(self) -> None:
        task, self._following = self._following, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for partition in list(self._stores):
            self._stores.pop(partition).close()
        if self._own_files is not None:
            self._own_files.cleanup()

    def _look(self, at: Location, view: PartitionView) -> Held | None:
        store = self._stores.get(at.partition)
        if store is None or not view.synced:
            return None
        try:
            if at.key.space is Space.GENERIC:
                if store.writes.floors > view.groups_version:
                    _note_floors(store, view)
                if store.writes is ABSENT:
                    return None
                return held_value(at, view, store.writes, store.entry(at.key.text))
            if (mark := store.frames) is ABSENT:
                return None
            slot = store.slot(at.key.subject)
            if at.key.facet == BOOK:
                return held_book(at, view, mark, {} if slot is None else store.book(slot))
            found = None if slot is None else store.row(at.key.facet, slot)
        except Exception as exc:
            failure = _corrupt(self._paths[at.partition], exc)
            self._stores.pop(at.partition).close()
            raise failure from exc
        if found is None:
            return Held(at, view, NOTHING, mark.version)
        return Held(at, view, found[0], mark.version, row=found[1])

    async def _follow(self) -> None:
        for turn in _turns():
            await asyncio.sleep(self._follow_s)
            for partition in self._paths:
                self.catch_up(partition, seek=turn % _REOPEN_TURNS == 0)
                await asyncio.sleep(0)  # one catch-up holds the interpreter for a few milliseconds

    def catch_up(self, partition: int, *, seek: bool = False) -> None:
        """Follow a store, unless another lies in its place; `seek`: also look for one that is not open yet."""
        store = self._stores.get(partition)
        try:
            if store is not None and store.moved():
                self._stores.pop(partition).close()
                store = None
            if store is None and seek and (self._paths[partition] / "CURRENT").exists():
                store = self._stores[partition] = self._secondary(partition)
            if store is not None:
                store.catch_up()
        except Exception as exc:  # a store that is being made, removed or repaired is tried again
            detail = str(_corrupt(self._paths[partition], exc))
            if self._told.get(partition) != detail:
                self._told[partition] = detail
                event(log, "store_not_followed", level=logging.WARNING, partition=partition, detail=detail)
            if (broken := self._stores.pop(partition, None)) is not None:
                broken.close()

    def _secondary(self, partition: int) -> Secondary:
        if self._own_files is None:
            raise ServiceUnavailable("the RocksDB tier is not open")
        self._opened += 1
        own_files = Path(self._own_files.name) / f"{partition}-{self._opened}"
        own_files.mkdir()
        return Secondary(self._paths[partition], own_files)


def _note_floors(store: Secondary, view: PartitionView) -> None:
    for field, version in store.floors.items():
        view.groups.note(field, version)
    view.groups_version = max(view.groups_version, store.writes.floors)


def _corrupt(path: Path, exc: Exception) -> MarketPrismError:
    """What rocksdict (bare exceptions), files and pages raise. Raises: `exc` itself if it is none of them."""
    if isinstance(exc, CorruptStore | ServiceUnavailable):
        return exc
    if type(exc) is Exception or isinstance(exc, OSError | CorruptPage | rocksdict.DbClosedError):
        return CorruptStore(f"{path} cannot be read ({exc})")
    raise exc


def _turns() -> Iterator[int]:
    turn = 0
    while True:
        yield turn
        turn += 1
