"""Stores as a worker leaves them on its disk, without a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import rocksdict

from models.market import pages
from models.market.pages import ControlPage
from streams.cache.rocks import store_path
from streams.settings import Settings


class WorkerStore:
    """The store of one partition; generic entries only."""

    def __init__(self, settings: Settings, partition: int) -> None:
        path = store_path(settings, partition)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.db = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
        self._closed = False
        self.barrier(0)

    def close(self) -> None:
        """Repeating it is fine."""
        if not self._closed:
            self._closed = True
            self.db.close()

    def barrier(
        self,
        version: int,
        entries: Mapping[str, bytes | None] | None = None,
        *,
        floors: Mapping[str, int] | None = None,
    ) -> None:
        """What a worker writes, in its order: entries (None deletes), then the control page."""
        writes = rocksdict.WriteBatch(raw_mode=True)
        for text, data in (entries or {}).items():
            key = pages.ENTRY + text.encode()
            if data is None:
                writes.delete(key)
            else:
                writes.put(key, pages.with_token(1, data))
        control = ControlPage(version, version, {}, dict(floors or {}))
        writes.put(pages.CONTROL, pages.with_token(1, pages.encode_control(control)))
        self.db.write(writes)


@contextmanager
def worker_stores(settings: Settings) -> Iterator[dict[int, WorkerStore]]:
    """One a partition, at version 0."""
    with ExitStack() as stack:
        stores = {}
        for partition in range(settings.kafka.partitions):
            stores[partition] = store = WorkerStore(settings, partition)
            stack.callback(store.close)
        yield stores
