"""Owning partitions: recovered pages in, a token, Redis rewritten; then the barrier that makes state durable."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaProducer
from faust.types import TP

from models.cache.keys import Space
from models.cache.version import offset_of
from streams import metrics
from streams.cache.coherence import Coherence
from streams.kafka.admin import describe_topics, topic_offsets
from streams.kafka.owned import OwnedPartition
from streams.kafka.table import PageTable
from streams.log import event
from streams.settings import Settings
from streams.topics import FRAMES, WRITES

log = logging.getLogger(__name__)

SOURCE_TOPICS = {Space.MARKET: FRAMES, Space.GENERIC: WRITES}


class Ownership:
    """The partitions this worker owns, and the lock under which a round is applied and made visible.

    Attributes:
        partitions: by number; empty between revocation and recovery.
        lock: held for a whole round, so that a barrier copies pages only between rounds.
    """

    def __init__(
        self, settings: Settings, *, table: PageTable, producer: AIOKafkaProducer, coherence: Coherence
    ) -> None:
        self.partitions: dict[int, OwnedPartition] = {}
        self.lock = asyncio.Lock()
        self._settings = settings
        self._table = table
        self._producer = producer
        self._coherence = coherence
        self._owner = settings.worker.instance_id or socket.gethostname()

    async def assign(self, numbers: Iterable[int]) -> None:
        """Own partitions whose pages Faust has just recovered; returns when they are served.

        Raises:
            CorruptPage: pages cannot be read.
            OwnerFenced, PublishFailed, ServiceUnavailable: as the parts say.
        """
        began = time.monotonic()
        async with self.lock:
            names = {space: self._settings.topics.prefix + topic for space, topic in SOURCE_TOPICS.items()}
            states = await describe_topics(self._settings, names.values())
            ends = await topic_offsets(self._settings, states.values())
            for number in numbers:
                owned = OwnedPartition(number, self._settings.topics.prefix)
                records = list(self._table.pages(number))
                owned.load(records)
                beyond_end = any(
                    owned.applied(space) >= 0 and offset_of(owned.applied(space)) >= ends[name][number][1]
                    for space, name in names.items()
                )
                if owned.check_topics({name: states[name].id for name in names.values()}, beyond_end=beyond_end):
                    event(log, "epoch_raised", level=logging.WARNING, partition=number, epoch=owned.epoch)
                owned.token = await self._table.take(
                    self._producer, number, self._owner, self._settings.kafka.request_timeout_s
                )
                if number in self._table.data.ignored:
                    owned.rewrite_pages(records)
                await self._coherence.take_over(owned)
                self.partitions[number] = owned
        event(
            log, "partitions_owned", partitions=sorted(self.partitions), seconds=round(time.monotonic() - began, 3),
            instruments=sum(len(o.market.slots) for o in self.partitions.values()),
        )  # fmt: skip

    def revoke(self) -> None:
        """Forget everything: Faust hands out all partitions anew in every rebalance."""
        self.partitions.clear()

    async def barrier(self, commit_offsets: Mapping[TP, int]) -> None:
        """Make the pages of these source partitions durable before Faust commits their offsets.

        Order: no round is in flight -> copy changed pages and positions in one step -> changelog acknowledged, control
        page last -> RocksDB -> the caller commits.

        Raises:
            PublishFailed: nothing may be committed.
        """
        numbers = {tp.partition for tp in commit_offsets} & self.partitions.keys()
        if not numbers:
            return
        began = time.perf_counter()
        flushes = []
        for owned in [self.partitions[number] for number in sorted(numbers)]:
            async with self.lock:  # a turn each: rounds go on between them
                flushes.append((owned, owned.flush()))
        sent = await asyncio.gather(
            *(
                self._table.write(self._producer, o.number, o.token, flush, self._settings.kafka.request_timeout_s)
                for o, flush in flushes
            )
        )
        for owned, _ in flushes:
            owned.market.books.release_dropped()
        metrics.BARRIERS.inc()
        metrics.CHANGELOG_RECORDS.inc(sum(records for records, _ in sent))
        metrics.CHANGELOG_BYTES.inc(sum(size for _, size in sent))
        metrics.BARRIER_SECONDS.observe(time.perf_counter() - began)
