"""The disk tier: a Faust table of pages whose changelog is fenced by owner tokens and written once a barrier."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import rocksdict
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from faust.stores.rocksdb import Store
from faust.tables.table import Table
from faust.types import TP

from models.errors import CorruptPage, PublishFailed
from models.market import pages
from models.market.pages import Flush, Record

BATCH_BYTES = 1 << 20
WRITE_BATCH = 1000  # rocksdict holds the GIL while it writes a batch: 1000 keep every thread under 35 ms
NEWEST_TOKEN = b"__marketprism\0token__"
ROCKSDB = {
    "driver": "rocksdict",
    "block_cache_size": 32 << 20,
    "write_buffer_size": 8 << 20,
}  # a partition; Faust: 2 GiB


class FencedStore(Store):  # type: ignore[misc]
    """RocksDB of one table; recovery passes over records of owners that had lost the partition (protocol rule 1).

    Attributes:
        ignored: partitions in which recovery had to pass over a record: their pages must be written again, because
            compaction would keep the zombie's record instead of the good one before it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ignored: set[int] = set()

    def db(self, partition: int) -> rocksdict.Rdict:
        return self._db_for_partition(partition)

    def newest_token(self, partition: int) -> int:
        return int(self.db(partition).get(NEWEST_TOKEN) or -1)

    def apply_changelog_batch(
        self, batch: Iterable[Any], to_key: Callable[..., Any], to_value: Callable[..., Any]
    ) -> None:
        by_partition: dict[int, list[Any]] = {}
        for event in batch:
            by_partition.setdefault(event.message.partition, []).append(event.message)
        for partition, messages in by_partition.items():
            newest = self.newest_token(partition)
            writes = rocksdict.WriteBatch(raw_mode=True)
            for message in messages:
                if message.key == pages.OWNER:
                    newest = max(newest, message.offset)
                elif message.value is None:
                    writes.delete(message.key)
                elif pages.split_token(message.value)[0] < newest:
                    self.ignored.add(partition)
                else:
                    writes.put(message.key, message.value)
            writes.put(NEWEST_TOKEN, str(newest).encode())
            writes.put(self.offset_key, str(messages[-1].offset).encode())
            self.db(partition).write(writes)

    def revoke_partitions(self, table: Any, tps: set[TP]) -> None:
        for tp in tps:
            if tp.topic in table.changelog_topic.topics:
                self._close(tp.partition)

    async def stop(self) -> None:
        for partition in list(self._dbs):
            self._close(partition)

    def _close(self, partition: int) -> None:
        # Faust only drops its reference, which leaves the lock on the folder until some later collection.
        if (db := self._dbs.pop(partition, None)) is not None:
            db.close()
            del db
            gc.collect()


class PageTable(Table):  # type: ignore[misc]
    """State pages of all partitions: `pages()` after a recovery, `take()` on assignment, `write()` at a barrier."""

    def _new_store(self) -> FencedStore:
        return FencedStore("rocksdb://", self.app, self, table_name=self.name, options=dict(ROCKSDB), loop=self.loop)

    def pages(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and bodies (without token) that recovery left on disk, keys rising."""
        for key, value in self.data.db(partition).items():
            if not key.startswith((b"__",)):
                yield key, pages.split_token(value)[1]

    async def take(self, producer: AIOKafkaProducer, partition: int, owner: str, deadline_s: float) -> int:
        """Append an owner record; its offset is the new owner's token, higher than every earlier one.

        Raises:
            PublishFailed: the changelog did not acknowledge it.
        """
        offset = await _acknowledged(
            producer, self.changelog_topic_name, partition, [[(pages.OWNER, owner.encode())]], deadline_s
        )
        store = self.data
        store.db(partition).put(NEWEST_TOKEN, str(offset).encode())
        return offset

    async def write(
        self, producer: AIOKafkaProducer, partition: int, token: int, flush: Flush, deadline_s: float
    ) -> tuple[int, int]:
        """Make a flush durable: changelog first, its control page after all other pages, then RocksDB.

        Records of one group go in one Kafka batch, which the broker appends whole or not at all.

        Returns:
            Records and bytes sent to the changelog.

        Raises:
            PublishFailed: not everything was acknowledged; nothing was written to RocksDB.
        """
        topic = self.changelog_topic_name
        groups = [[(key, _stamped(token, body)) for key, body in group] for group in flush.groups]
        control = (flush.control[0], _stamped(token, flush.control[1]))
        if groups:
            await _acknowledged(producer, topic, partition, groups, deadline_s)
        last_offset = await _acknowledged(producer, topic, partition, [[control]], deadline_s)
        records = [record for group in groups for record in group] + [control]
        db = self.data.db(partition)
        for at in range(0, len(records), WRITE_BATCH):
            writes = rocksdict.WriteBatch(raw_mode=True)
            for key, value in records[at : at + WRITE_BATCH]:
                if value is None:
                    writes.delete(key)
                else:
                    writes.put(key, value)
            if at + WRITE_BATCH >= len(records):
                writes.put(self.data.offset_key, str(last_offset).encode())
            db.write(writes)
            await asyncio.sleep(0)
        return len(records), sum(len(key) + len(value or b"") for key, value in records)


def _stamped(token: int, body: bytes | None) -> bytes | None:
    return None if body is None else pages.with_token(token, body)


async def _acknowledged(
    producer: AIOKafkaProducer, topic: str, partition: int, groups: list[list[Record]], deadline_s: float
) -> int:
    """Send groups of records in order, none cut by the border of a batch; the offset of the last once all are acked."""
    try:
        async with asyncio.timeout(deadline_s):
            sent = []
            batch, n_in_batch, size = producer.create_batch(), 0, 0
            for group in groups:
                group_bytes = sum(len(key) + len(value or b"") + 64 for key, value in group)
                if n_in_batch and size + group_bytes > BATCH_BYTES // 2:
                    sent.append((await producer.send_batch(batch, topic, partition=partition), n_in_batch))
                    batch, n_in_batch, size = producer.create_batch(), 0, 0
                for key, value in group:
                    if batch.append(key=key, value=value, timestamp=None) is None:
                        raise CorruptPage(
                            f"{len(group)} pages of one group ({group_bytes} bytes) do not fit a batch of {BATCH_BYTES}"
                        )
                n_in_batch += len(group)
                size += group_bytes
            sent.append((await producer.send_batch(batch, topic, partition=partition), n_in_batch))
            last = -1
            for future, n_records in sent:
                last = (await future).offset + n_records - 1
            return last
    except (TimeoutError, KafkaError) as exc:
        raise PublishFailed(
            f"{topic} partition {partition} did not acknowledge state pages within {deadline_s} s "
            f"({type(exc).__name__}): nothing is committed; check the broker"
        ) from exc
