"""The disk tier: a Faust table of pages whose changelog is fenced by owner tokens and written once a barrier."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import rocksdict
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from faust.tables.table import Table

from models.cache.version import version
from models.errors import CorruptPage, PublishFailed
from models.market import pages
from models.market.pages import Flush, Record
from streams.kafka.disk import REWRITE, UNFINISHED, keys_of, scan, store_errors
from streams.kafka.store import NEWEST_TOKEN, ROCKSDB, FencedStore

BATCH_BYTES = 1 << 20
WRITE_BATCH = 1000  # rocksdict holds the GIL while it writes a batch: 1000 keep every thread under 35 ms


class Sent(NamedTuple):
    """What one flush of one partition became in the changelog.

    Attributes:
        offsets: those of each batch, in order; a hole between them, or before the first, is somebody else's.
        records: with their tokens, as they have to be in RocksDB.
    """

    offsets: list[range]
    records: list[Record]

    @property
    def n_bytes(self) -> int:
        return sum(len(key) + len(value or b"") for key, value in self.records)


class PageTable(Table):  # type: ignore[misc]
    """State pages of all partitions: `pages()` after a recovery, `take`, then `send` and `store` at each barrier."""

    def _new_store(self) -> FencedStore:
        return FencedStore("rocksdb://", self.app, self, table_name=self.name, options=dict(ROCKSDB), loop=self.loop)

    def pages(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and bodies (without token) that recovery left on disk, keys rising.

        Raises:
            CorruptStore: the disk gave something else than was written.
        """
        for key, value in scan(self.data.db(partition)):
            if not key.startswith(b"__"):
                yield key, pages.split_token(value)[1]

    def page(self, partition: int, key: bytes) -> bytes | None:
        """Body of one page as the last barrier left it, None = there is none. Holds the GIL for some us.

        Raises:
            CorruptStore: it cannot be read.
        """
        with store_errors(self.data.folder(partition)):
            value = self.data.db(partition).get(key)
        return None if value is None else pages.split_token(value)[1]

    def keys_from(self, partition: int, start: bytes, n_keys: int) -> list[bytes]:
        """The next keys of pages on disk, rising; `start` itself is one of them if it is there.

        Raises:
            CorruptStore: a block cannot be read.
        """
        return list(islice(keys_of(self.data.db(partition), start), n_keys))

    def pages_from(self, partition: int, start: bytes, n_pages: int, max_bytes: int) -> list[tuple[bytes, bytes]]:
        """The next pages on disk, keys rising, `start` itself among them: so many, or the first that reach `max_bytes`.

        Raises:
            CorruptStore: a block cannot be read.
        """
        found, size = [], 0
        for key, value in scan(self.data.db(partition), start):
            if key.startswith(b"__"):  # ours and Faust's own notes, behind all pages
                break
            found.append((key, pages.split_token(value)[1]))
            size += len(value)
            if len(found) >= n_pages or size >= max_bytes:
                break
        return found

    async def take(
        self, producer: AIOKafkaProducer, partition: int, *, epoch: int, owner: str, deadline_s: float
    ) -> int:
        """Append an owner record: the new owner's token, higher than every earlier one.

        Raises:
            PublishFailed: the changelog did not acknowledge it.
        """
        record = pages.owner_record(epoch, owner)
        (offsets,) = await _acknowledged(producer, self.changelog_topic_name, partition, [[record]], deadline_s)
        return version(epoch, offsets[0])

    def own(self, partition: int, token: int) -> None:
        """The recovery is over: remember the token beside the pages, so that older owners' records are passed over."""
        writes = rocksdict.WriteBatch(raw_mode=True)
        writes.put(NEWEST_TOKEN, str(token).encode())
        writes.delete(UNFINISHED)
        with store_errors(self.data.folder(partition)):
            self.data.db(partition).write(writes)

    async def send(
        self, producer: AIOKafkaProducer, partition: int, token: int, flush: Flush, deadline_s: float
    ) -> Sent:
        """Send a flush to the changelog: its control page after all other pages are acknowledged.

        Records of one group go in one Kafka batch, which the broker appends whole or not at all.

        Raises:
            PublishFailed: not everything was acknowledged.
        """
        topic = self.changelog_topic_name
        groups = [[(key, _stamped(token, body)) for key, body in group] for group in flush.groups]
        control = (flush.control[0], _stamped(token, flush.control[1]))
        deletion = pages.deletion_headers(token)
        offsets = await _acknowledged(producer, topic, partition, groups, deadline_s, deletion) if groups else []
        offsets += await _acknowledged(producer, topic, partition, [[control]], deadline_s)
        return Sent(offsets, [record for group in groups for record in group] + [control])

    async def store(self, partition: int, sent: Sent, *, rewrite: bool) -> None:
        """Write what the changelog has acknowledged to RocksDB, its offset with the last batch.

        Args:
            rewrite: the next flush has to hold all pages, also if another process comes to write it.

        Raises:
            DiskFull, CorruptStore: it is not all there; a restart takes the rest from the changelog.
        """
        db = self.data.db(partition)
        for at in range(0, len(sent.records), WRITE_BATCH):
            writes = rocksdict.WriteBatch(raw_mode=True)
            for key, value in sent.records[at : at + WRITE_BATCH]:
                if value is None:
                    writes.delete(key)
                else:
                    writes.put(key, value)
            if at + WRITE_BATCH >= len(sent.records):
                writes.put(self.data.offset_key, str(sent.offsets[-1][-1]).encode())
                if rewrite:
                    writes.put(REWRITE, b"")
                else:
                    writes.delete(REWRITE)
            with store_errors(self.data.folder(partition)):
                db.write(writes)
            await asyncio.sleep(0)

    async def checkpoint(self, partition: int) -> None:
        """Make a checkpoint if one is due; call it between two flushes, when the store holds a whole one."""
        store = self.data
        if store.checkpoints and store.checkpoints.due(partition):
            db, offset = store.db(partition), store.offset(partition)
            await asyncio.to_thread(store.checkpoints.make, db, partition, offset)


def _stamped(token: int, body: bytes | None) -> bytes | None:
    return None if body is None else pages.with_token(token, body)


async def _acknowledged(
    producer: AIOKafkaProducer,
    topic: str,
    partition: int,
    groups: list[list[Record]],
    deadline_s: float,
    deletion: list[tuple[str, bytes]] | None = None,
) -> list[range]:
    """Send groups of records in order, none cut by the border of a batch; each batch's offsets once all are acked.

    Args:
        deletion: headers of the records that have no value.
    """
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
                    headers = deletion if value is None and deletion else []  # a list: aiokafka takes nothing else
                    if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                        raise CorruptPage(
                            f"{len(group)} pages of one group ({group_bytes} bytes) do not fit a batch of {BATCH_BYTES}"
                        )
                n_in_batch += len(group)
                size += group_bytes
            sent.append((await producer.send_batch(batch, topic, partition=partition), n_in_batch))
            firsts = [((await future).offset, n_records) for future, n_records in sent]
            return [range(first, first + n_records) for first, n_records in firsts]
    except (TimeoutError, KafkaError) as exc:
        raise PublishFailed(
            f"{topic} partition {partition} did not acknowledge state pages within {deadline_s} s "
            f"({type(exc).__name__}): nothing is committed; check the broker"
        ) from exc
