"""The Faust app and its table, with the settings that were measured to work."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import faust
from faust.tables.manager import TableManager

from streams.kafka.room import Room
from streams.kafka.table import PageTable
from streams.log import event
from streams.settings import Settings
from streams.topics import MAX_RECORD_BYTES

log = logging.getLogger(__name__)

COMMIT_EVERY = 10**9  # records: only time decides when a barrier comes


class Tables(TableManager):  # type: ignore[misc]
    """Faust's, which sleeps a second first so that late tables are added; here all are before the app starts."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


def worker_app(settings: Settings) -> faust.App:
    """A Faust app of this worker's group; `worker.id` with the run's prefix is the group's name.

    Raises:
        DiskFull: there is no room for its tables.
    """
    worker, kafka = settings.worker, settings.kafka
    data_dir = Path(worker.data_dir) / run_folder(settings)
    data_dir.mkdir(parents=True, exist_ok=True)
    Room(data_dir, worker.disk_reserve_mb << 20).check()
    return faust.App(
        settings.topics.prefix + worker.id,
        broker=";".join(f"kafka://{address}" for address in kafka.bootstrap.split(",")),
        store="rocksdb://",
        TableManager=Tables,
        datadir=str(data_dir),
        web_enabled=False,
        topic_disable_leader=True,
        topic_partitions=kafka.partitions,
        topic_replication_factor=kafka.replication,
        table_standby_replicas=0,
        cython_optimizations=True,
        stream_buffer_maxsize=128,
        consumer_max_fetch_size=MAX_RECORD_BYTES,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=worker.instance_id or None,
        broker_commit_interval=worker.commit_interval_s,
        broker_commit_every=COMMIT_EVERY,
        broker_session_timeout=worker.session_timeout_s,
        broker_heartbeat_interval=worker.session_timeout_s / 4,
        broker_request_timeout=90.0,
        producer_max_request_size=MAX_RECORD_BYTES,
    )


def discard_foreign_store(app: faust.App, changelog_id: str | None) -> None:
    """Remove RocksDB folders that another changelog filled: their offsets mean nothing here (rule 6).

    The folder's file `changelog` says whose it is. A folder without one is removed too: recovery from the changelog is
    always right.
    """
    tables, owner = Path(app.conf.tabledir), _owner_file(app)
    if any(tables.glob("*.db")) and (not owner.exists() or owner.read_text() != changelog_id):
        event(
            log, "store_discarded", level=logging.WARNING, folder=str(tables), reason="it belongs to another changelog"
        )
        shutil.rmtree(tables)


def disown_store(app: faust.App) -> None:
    """The next start discards the folders, because the changelog ends before what they hold."""
    _owner_file(app).unlink(missing_ok=True)


def claim_store(app: faust.App, changelog_id: str) -> None:
    """Say whose the folder is; once recovery has opened it and before anything is committed."""
    owner = _owner_file(app)
    if not owner.exists() or owner.read_text() != changelog_id:  # a full disk would leave it empty
        owner.write_text(changelog_id)


def _owner_file(app: faust.App) -> Path:
    return Path(app.conf.tabledir) / "changelog"


def run_folder(settings: Settings) -> str:
    """Name of this run's folder in the worker's folders."""
    return settings.topics.prefix.rstrip(".") or "live"


def page_table(app: faust.App, settings: Settings) -> PageTable:
    """The table of state pages; its changelog has P partitions and is compacted."""
    table = PageTable(
        app, name="pages", partitions=settings.kafka.partitions, key_type=bytes, value_type=bytes,
        # rule 1: what recovery must prefer over a zombie's newer record has to be there still
        extra_topic_configs={"min.compaction.lag.ms": "600000", "max.message.bytes": str(MAX_RECORD_BYTES)},
    )  # fmt: skip
    app.tables.add(table)
    return table
