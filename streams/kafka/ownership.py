"""Owning partitions: recovered pages in, a token, Redis rewritten; then the barrier that makes state durable."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from aiokafka import AIOKafkaProducer
from faust.types import TP

from models.cache.invalidation import decode
from models.cache.keys import Space
from models.cache.version import epoch_of, offset_of
from models.errors import ChangelogLost, CorruptFrame, CorruptPage, CorruptStore, OwnerFenced, ServiceUnavailable
from models.market import pages
from models.market.pages import Flush
from streams import metrics
from streams.cache.coherence import Coherence
from streams.kafka.admin import describe_topics, topic_offsets
from streams.kafka.changelog import last_record, read_changelog
from streams.kafka.owned import OwnedPartition
from streams.kafka.sweep import find_over
from streams.kafka.table import PageTable
from streams.log import event
from streams.settings import Settings
from streams.topics import FRAMES, INVALIDATIONS, WRITES

log = logging.getLogger(__name__)

SOURCE_TOPICS = {Space.MARKET: FRAMES, Space.GENERIC: WRITES}


class Ownership:
    """The partitions this worker owns, and the lock under which a round is applied and made visible.

    Attributes:
        partitions: by number; empty between revocation and recovery.
        lock: held for a whole round, so that a barrier copies pages only between rounds.
        before_flush: awaited under the lock before pages of a partition are copied: what they hold was announced
            (rule 15).
    """

    def __init__(
        self, settings: Settings, *, table: PageTable, producer: AIOKafkaProducer, coherence: Coherence
    ) -> None:
        self.partitions: dict[int, OwnedPartition] = {}
        self.lock = asyncio.Lock()
        self.before_flush: Callable[[OwnedPartition], Awaitable[None]] | None = None
        self._flushing = asyncio.Lock()
        self._settings = settings
        self._table = table
        self._producer = producer
        self._coherence = coherence
        self._changelog_end: dict[int, int] = {}  # the offset that our next record gets while nobody else writes
        self._owner = settings.worker.instance_id or socket.gethostname()

    async def assign(self, numbers: Iterable[int]) -> None:
        """Own partitions whose pages Faust has just recovered; returns when they are served.

        Raises:
            CorruptPage, CorruptStore: pages cannot be read, neither from disk nor from the changelog.
            ChangelogLost: the changelog was emptied and the disk does not have what it held.
            OwnerFenced, PublishFailed, ServiceUnavailable: as the parts say.
        """
        began = time.monotonic()
        async with self.lock:
            names = {space: self._settings.topics.prefix + topic for space, topic in SOURCE_TOPICS.items()}
            changelog = self._table.changelog_topic_name
            states = await describe_topics(self._settings, [*names.values(), changelog])
            ends = await topic_offsets(self._settings, states.values())
            for number in numbers:
                self._check_changelog(number, first=ends[changelog][number][0])
                owned = await self._own(number)
                if beyond_end := _beyond_end(owned, names, ends):
                    # A former owner may have applied what came after the first look, and its pages came after it too.
                    again = await topic_offsets(self._settings, states.values())
                    beyond_end = _beyond_end(owned, names, again)
                topics = {space: (name, states[name].id) for space, name in names.items()}
                if owned.check_topics(topics, beyond_end=beyond_end):
                    event(log, "epoch_raised", level=logging.WARNING, partition=number, epoch=owned.epoch)
                await self._coherence.take_over(owned)
                self.partitions[number] = owned
        event(
            log, "partitions_owned", partitions=sorted(self.partitions), seconds=round(time.monotonic() - began, 3),
            instruments=sum(len(o.market.slots) for o in self.partitions.values()),
        )  # fmt: skip

    def needed(self) -> dict[TP, int]:
        """The next record of each source topic that the pages need; a later one must not be fetched first.

        Of a topic that they know nothing of as it is now (a new epoch, rule 6) that is the first: another owner may
        have raised the same epoch meanwhile and committed what it applied of it.
        """
        prefix = self._settings.topics.prefix
        return {
            TP(prefix + topic, owned.number): owned.next_offset(space)
            for owned in self.partitions.values()
            for space, topic in SOURCE_TOPICS.items()
        }

    def revoke(self) -> None:
        """Forget everything: Faust hands out all partitions anew in every rebalance."""
        self.partitions.clear()

    async def barrier(self, commit_offsets: Mapping[TP, int]) -> None:
        """Make the pages of these source partitions durable before Faust commits their offsets.

        Order: no round is in flight -> readers and Redis have what was applied -> copy changed pages and positions in
        one step -> changelog acknowledged, control page last -> nobody else took the partition meanwhile -> RocksDB ->
        the caller commits.

        Raises:
            PublishFailed, OwnerFenced, DiskFull, CorruptStore: nothing may be committed.
        """
        numbers = {tp.partition for tp in commit_offsets} & self.partitions.keys()
        if not numbers:
            return
        began = time.perf_counter()
        async with self._flushing:
            await self._flush(numbers)
        metrics.BARRIERS.inc()
        metrics.BARRIER_SECONDS.observe(time.perf_counter() - began)

    async def patrol(self) -> None:
        """Look whether somebody else wrote a changelog while this owner had nothing to write, then act as a barrier.

        An idle owner would not notice a zombie's late pages before compaction has taken its own, which lie below.

        Raises: as `barrier`; that Kafka does not say where its logs end is only logged.
        """
        name = self._table.changelog_topic_name
        async with self._flushing:
            mine = dict(self._changelog_end)
            try:
                states = await describe_topics(self._settings, [name])
                ends = (await topic_offsets(self._settings, states.values()))[name]
            except ServiceUnavailable as exc:
                event(log, "patrol_missed", level=logging.WARNING, detail=str(exc))
                return
            await self._flush(number for number, end in mine.items() if ends[number][1] > end)

    async def _flush(self, numbers: Iterable[int]) -> None:
        """One partition after the other: its copies lie in the memory that those of the one before have left.

        Copies of all at once were 200 MB of zeroed pages a barrier with 100,000 instruments.
        """
        for number in sorted(numbers):
            if (owned := self.partitions.get(number)) is not None:
                await self._flush_one(owned)

    async def _flush_one(self, owned: OwnedPartition) -> None:
        over = await find_over(self._table, owned, lambda: self.partitions.get(owned.number) is owned)
        async with self.lock:  # rounds go on before and after
            if self.partitions.get(owned.number) is not owned:
                return
            if self.before_flush is not None:
                await self.before_flush(owned)
            await self._coherence.settle([owned])
            owned.entries.bury(over)
            flush = owned.flush()
        await self._make_durable(owned, flush)
        owned.market.books.release_dropped()
        owned.entries.saved()

    async def _own(self, number: int) -> OwnedPartition:
        """A token, everything that the changelog holds before it, and the state that this makes."""
        deadline_s = self._settings.kafka.request_timeout_s
        owned = OwnedPartition(number, self._settings.topics.prefix)
        epoch = await self._token_epoch(number)
        owned.token = await self._table.take(
            self._producer, number, epoch=epoch, owner=self._owner, deadline_s=deadline_s
        )
        self._changelog_end[number] = offset_of(owned.token) + 1
        await self._catch_up(number, offset_of(owned.token))
        try:
            records = list(self._table.pages(number))
            owned.load(records)
        except (CorruptPage, CorruptStore) as exc:
            self._table.data.rebuild(number, exc)
            await self._catch_up(number, offset_of(owned.token))
            owned = OwnedPartition(number, self._settings.topics.prefix, token=owned.token)
            records = list(self._table.pages(number))
            owned.load(records)
        self._table.own(number, owned.token)
        if self._table.data.must_rewrite(number):
            owned.rewrite_pages(records)
        return owned

    def _check_changelog(self, number: int, *, first: int) -> None:
        """Compaction leaves a log's first offset at 0; only deletion moves it. Faust would serve an empty state."""
        if first > (held := self._table.data.offset(number) + 1):
            raise ChangelogLost(
                f"partition {number} of {self._table.changelog_topic_name} was emptied: it begins at offset {first}, "
                f"and the disk holds only what was before {held}; bring back a newer folder or checkpoint, or delete "
                "the topic to read the sources from their first record"
            )

    async def _token_epoch(self, number: int) -> int:
        """That of the changelog's owners; a changelog without any is new, and rises above all that was ever heard.

        Copies outlive a changelog that was deleted, and would refuse tokens that begin at 0 again.
        """
        if (newest := self._table.data.newest_token(number)) >= 0:
            return epoch_of(newest)
        newest = await self._coherence.newest_token(number)
        name = self._settings.topics.prefix + INVALIDATIONS
        if (record := await last_record(self._settings.kafka, name, number)) is not None:
            with contextlib.suppress(CorruptFrame):
                newest = max(newest, decode(record.value or b"").token)
        return epoch_of(newest) + 1 if newest >= 0 else 0

    async def _catch_up(self, number: int, end: int) -> None:
        """Apply what the former owner wrote after Faust had looked where the changelog ends, and before our record."""
        store = self._table.data
        if (start := store.offset(number) + 1) < end:
            changelog = self._table.changelog_topic_name
            async for records in read_changelog(self._settings.kafka, changelog, number, start=start, end=end):
                store.apply(number, records)

    async def _make_durable(self, owned: OwnedPartition, flush: Flush) -> None:
        number = owned.number
        while True:
            sent = await self._table.send(
                self._producer, number, owned.token, flush, self._settings.kafka.request_timeout_s
            )
            alone = await self._wrote_alone(owned, sent.offsets)
            await self._table.store(number, sent, rewrite=not alone)
            metrics.CHANGELOG_RECORDS.inc(len(sent.records))
            metrics.CHANGELOG_BYTES.inc(sent.n_bytes)
            if alone:
                return await self._table.checkpoint(number)
            # A former owner's pages lie above ours: compaction would keep those, and recovery pass over them (rule 1).
            event(log, "pages_written_again", level=logging.WARNING, partition=number, token=owned.token)
            async with self.lock:
                owned.rewrite_pages(list(self._table.pages(number)))
                flush = owned.flush()

    async def _wrote_alone(self, owned: OwnedPartition, offsets: Sequence[range]) -> bool:
        """Whether no record of anybody else lies before or between ours.

        Raises:
            OwnerFenced: one of those records is a newer owner's: our disk must not say that it holds what is below.
        """
        start = end = self._changelog_end[owned.number]
        alone = True
        for batch in offsets:
            alone, end = alone and batch.start == end, batch.stop
        self._changelog_end[owned.number] = end
        if alone:
            return True
        changelog = self._table.changelog_topic_name
        async for records in read_changelog(self._settings.kafka, changelog, owned.number, start=start):
            for record in records:
                if record.key != pages.OWNER:
                    continue
                if (newer := pages.owner_token(record.value, record.offset)) > owned.token:
                    raise OwnerFenced(
                        f"changelog partition {owned.number}: owner {owned.token} was followed by {newer}; "
                        "this worker stops and leaves its disk as it was"
                    )
        return False


def _beyond_end(
    owned: OwnedPartition, names: Mapping[Space, str], ends: Mapping[str, Sequence[tuple[int, int]]]
) -> set[Space]:
    """Of which topics something was applied that lies beyond their end: the log lost it (rule 6)."""
    return {space for space, name in names.items() if owned.next_offset(space) > ends[name][owned.number][1]}
