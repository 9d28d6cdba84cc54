"""Reading a live worker's RocksDB from another process on its machine: a secondary instance, as of the last barrier."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rocksdict

from models.errors import ServiceUnavailable
from models.market import pages
from streams.kafka.disk import scan
from streams.kafka.owned import OwnedPartition
from streams.settings import Settings


def store_path(settings: Settings, partition: int) -> Path:
    """Folder of one partition's RocksDB under `worker.data_dir`."""
    run = settings.topics.prefix.rstrip(".") or "live"
    return Path(settings.worker.data_dir) / run / "v1" / "tables" / f"pages-{partition}.db"


def read_partition(settings: Settings, partition: int) -> OwnedPartition:
    """The state of one partition as the last barrier left it; a copy, the worker is not disturbed.

    Raises:
        ServiceUnavailable: there is no such store.
        CorruptPage, CorruptStore: pages cannot be read.
    """
    owned = OwnedPartition(partition, settings.topics.prefix)
    with _secondary(store_path(settings, partition)) as db:
        owned.load([(key, pages.split_token(value)[1]) for key, value in _records(db)])
    return owned


def applied_on_disk(settings: Settings, partition: int) -> int:
    """Version of the newest frame that the last barrier made durable; -1 = none, or no store yet."""
    try:
        with _secondary(store_path(settings, partition)) as db:
            control = db.get(pages.CONTROL)
    except ServiceUnavailable:
        return -1
    return -1 if control is None else pages.decode_control(pages.split_token(control)[1]).frames_version


def _records(db: rocksdict.Rdict) -> Iterator[tuple[bytes, bytes]]:
    for key, value in scan(db):
        if not key.startswith(b"__"):
            yield key, value


@contextmanager
def _secondary(path: Path) -> Iterator[rocksdict.Rdict]:
    if not path.exists():
        raise ServiceUnavailable(f"there is no store at {path}: did a worker with this worker.data_dir run?")
    with tempfile.TemporaryDirectory(prefix="marketprism-") as own_logs:
        options = rocksdict.Options(raw_mode=True)
        db = rocksdict.Rdict(str(path), options, access_type=rocksdict.AccessType.secondary(own_logs))
        try:
            db.try_catch_up_with_primary()
            yield db
        finally:
            db.close()
