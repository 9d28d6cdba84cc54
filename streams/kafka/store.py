"""The RocksDB store of state pages: fenced by owner tokens, checked when it is opened, rebuilt when it is damaged."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import rocksdict
from faust.stores.rocksdb import RocksDBOptions, Store
from faust.types import TP

from models.errors import CorruptStore
from models.market import pages
from streams.kafka.checkpoint import Checkpoints
from streams.kafka.disk import REWRITE, UNFINISHED, close, open_checked, set_aside, store_errors
from streams.log import event

log = logging.getLogger(__name__)

NEWEST_TOKEN = b"__marketprism\0token__"
ROCKSDB = {
    "driver": "rocksdict",
    "block_cache_size": 32 << 20,
    "write_buffer_size": 8 << 20,
}  # a partition; Faust: 2 GiB


class _Options(RocksDBOptions):  # type: ignore[misc]
    """Faust's, without compression: what a barrier writes the next ones replace, and rows are packed already.

    Of 22 MB of pages, all of a barrier of 100,000 instruments, lz4 would save 7 and cost each compaction twice.
    """

    def as_options(self) -> rocksdict.Options:
        options: rocksdict.Options = super().as_options()
        options.set_compression_type(rocksdict.DBCompressionType.none())
        return options


class FencedStore(Store):  # type: ignore[misc]
    """RocksDB of one table; recovery passes over records of owners that had lost the partition (protocol rule 1).

    Attributes:
        checkpoints: where a partition whose folder is lost or damaged begins, if there are any.
        replayed: changelog records that recoveries applied since the process started.
        on_failure: told what a recovery met; Faust itself logs a warning and waits without end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rocksdb_options = _Options(**self.options, use_rocksdict=True)
        self.replayed = 0
        self.checkpoints: Checkpoints | None = None
        self.on_failure: Callable[[BaseException], None] = lambda exc: None

    def db(self, partition: int) -> rocksdict.Rdict:
        return self._db_for_partition(partition)

    def folder(self, partition: int) -> Path:
        return Path(self.partition_path(partition))

    def newest_token(self, partition: int) -> int:
        return int(self.db(partition).get(NEWEST_TOKEN) or -1)

    def must_rewrite(self, partition: int) -> bool:
        """Recovery had to pass over a record: compaction would keep the zombie's instead of the good one before it."""
        return self.db(partition).get(REWRITE) is not None

    def offset(self, partition: int) -> int:
        """Changelog offset up to which everything is in the store; -1 = nothing."""
        return int(self.db(partition).get(self.offset_key) or -1)

    def apply_changelog_batch(
        self, batch: Iterable[Any], to_key: Callable[..., Any], to_value: Callable[..., Any]
    ) -> None:
        by_partition: dict[int, list[Any]] = {}
        for changed in batch:
            by_partition.setdefault(changed.message.partition, []).append(changed.message)
        try:
            for partition, messages in by_partition.items():
                self.apply(partition, messages)
        except Exception as exc:
            self.on_failure(exc)
            raise

    def apply(self, partition: int, records: Sequence[Any]) -> None:
        """Apply changelog records (`key`, `value`, `offset`, `headers`) of one partition, offsets rising.

        Raises:
            CorruptStore, DiskFull: they are not in the store.
        """
        newest = self.newest_token(partition)
        writes = rocksdict.WriteBatch(raw_mode=True)
        for record in records:
            if record.key == pages.OWNER:
                newest = max(newest, pages.owner_token(record.value, record.offset))
            elif (token := pages.writer_token(record.value, record.headers)) is not None and token < newest:
                writes.put(REWRITE, b"")
            elif record.value is None:
                writes.delete(record.key)
            else:
                writes.put(record.key, record.value)
        writes.put(UNFINISHED, b"")
        writes.put(NEWEST_TOKEN, str(newest).encode())
        writes.put(self.offset_key, str(records[-1].offset).encode())
        with store_errors(self.folder(partition)):
            self.db(partition).write(writes)
        self.replayed += len(records)

    def rebuild(self, partition: int, reason: object) -> None:
        """Set the partition's folder aside and begin with an empty one; the changelog has everything.

        No checkpoint: it may hold the very page that cannot be read.
        """
        self._close(partition)
        set_aside(self.folder(partition), reason)
        self._dbs[partition] = open_checked(self.folder(partition), self.rocksdb_options.open)

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                self._close(tp.partition)

    async def stop(self) -> None:
        for partition in list(self._dbs):
            self._close(partition)

    def _open_for_partition(self, partition: int) -> rocksdict.Rdict:
        """Open what is there; if it is damaged or lost, the newest sound checkpoint; if there is none, an empty store.

        Raises:
            DiskFull: no room; a locked folder is for Faust to try again.
        """
        folder = self.folder(partition)
        if folder.exists():
            try:
                return open_checked(folder, self.rocksdb_options.open)
            except CorruptStore as exc:
                set_aside(folder, exc)
        for checkpoint in self.checkpoints.restored(partition, folder) if self.checkpoints else ():
            try:
                db = open_checked(folder, self.rocksdb_options.open)
            except CorruptStore as exc:
                set_aside(folder, exc)
            else:
                event(log, "checkpoint_restored", partition=partition, checkpoint=str(checkpoint))
                return db
        return open_checked(folder, self.rocksdb_options.open)

    def _close(self, partition: int) -> None:
        # Faust only drops its reference, which leaves the lock on the folder until some later collection.
        if (db := self._dbs.pop(partition, None)) is not None:
            close(db)
            del db
            gc.collect()
