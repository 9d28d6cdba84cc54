"""Making changes visible: Redis and `cache.invalidations.v1` acknowledged, then counted as processed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from aiokafka import AIOKafkaProducer

from models.cache.invalidation import Invalidation, RecordType, Source, encode
from models.cache.keys import Space
from models.errors import OwnerFenced, ServiceUnavailable
from models.market import pages
from streams import metrics
from streams.cache.batch import Answer
from streams.cache.redis import PartitionWriter
from streams.cache.steps import Step, entry_batch, entry_rewrite, market_batch, market_rewrite
from streams.clock import now_ns
from streams.kafka.clients import Outgoing, send_acknowledged
from streams.kafka.owned import OwnedPartition
from streams.kafka.table import PageTable
from streams.log import event
from streams.topics import INVALIDATIONS

log = logging.getLogger(__name__)

SPOKEN_S = 0.09  # a heartbeat comes each 100 ms
RETRY_S = 1.0  # each try at a dead Redis may hold the next round for its whole timeout

_ANNOUNCED = {space: metrics.INVALIDATIONS.labels(space.value) for space in Space}
SOURCES = {Space.MARKET: Source.FRAMES, Space.GENERIC: Source.WRITES}


class Coherence:
    """Keeps Redis and every reader in step with the pages of owned partitions.

    Redis may be down: the worker goes on, readers see a mark that stands still, and the partition is rewritten from its
    pages when Redis answers again (rule 4).

    Args:
        writer: fenced writes to Redis.
        producer: idempotent; sends invalidations.
        table: where the entries of a rewrite come from.
        prefix: of topics and keys.
        deadline_s: for acknowledgements of Kafka.

    Attributes:
        unsettled: Redis lacks what readers were told.
    """

    def __init__(
        self, *, writer: PartitionWriter, producer: AIOKafkaProducer, table: PageTable, prefix: str, deadline_s: float
    ) -> None:
        self._writer = writer
        self._producer = producer
        self._table = table
        self._topic = prefix + INVALIDATIONS
        self._deadline_s = deadline_s
        self._retry_at = 0.0
        self.unsettled = asyncio.Event()

    async def publish(self, steps: Sequence[Step], *, beside: Sequence[Outgoing] = ()) -> None:
        """Tell readers of steps of different partitions; returns once Kafka has acknowledged.

        Redis has all of it before, unless every step stands alone: then it gets it with the next `settle`. Readers that
        hold none of the rows are not misled: they take Redis' answer only with a mark that covers what they heard
        (rule 9). All others would only wait for that mark.

        Args:
            beside: other records that are to be acknowledged with them.

        Raises:
            OwnerFenced: a newer owner has one of the partitions; this worker must stop.
            PublishFailed: Kafka did not acknowledge.
        """
        if all(step.stands_alone for step in steps):
            self.unsettled.set()
        else:
            await self._write([(step.owned, step.space) for step in steps])
        await self._announce([(step.owned, step.space, _changes(step)) for step in steps], beside)
        now = time.monotonic()
        for step in steps:
            step.owned.announced[step.space], step.owned.told_at[step.space] = step.version, now
        for space, counter in _ANNOUNCED.items():
            if n := sum(len(step.changes) + len(step.keys) for step in steps if step.space is space):
                counter.inc(n)

    async def send(self, records: Sequence[Outgoing]) -> None:
        """Send records and wait for Kafka. Raises: PublishFailed."""
        await send_acknowledged(self._producer, records, deadline_s=self._deadline_s)

    async def settle(self, partitions: Iterable[OwnedPartition]) -> None:
        """Give Redis what readers were told already; call it between rounds.

        Raises: OwnerFenced.
        """
        await self._write([(o, Space.MARKET) for o in partitions if o.tier[Space.MARKET] < o.market.applied])

    async def take_over(self, owned: OwnedPartition) -> None:
        """A new owner's first acts: fence older ones in Redis, rewrite the partition, say so to readers."""
        for space in Space:
            await self._rewrite(owned, space)
        await self._announce([(owned, space, _mark(owned, space, RecordType.OWNER, 0)) for space in Space])

    async def newest_token(self, partition: int) -> int:
        """The highest token that Redis knows of a partition, -1 = none, or no Redis."""
        try:
            return max([await self._writer.newest_token(space, partition) for space in Space])
        except ServiceUnavailable:
            return -1

    async def heartbeat(self, owned: Iterable[OwnedPartition], watermarks: Mapping[tuple[Space, int], int]) -> None:
        """Tell readers and Redis how far each partition is, and by when that was proven (rule 11).

        Who announced changes within `SPOKEN_S` has said so with them, and is passed over unless Redis is behind; so is
        who has applied what is about to be announced.

        Args:
            watermarks: UTC ns at which the partition's log held nothing beyond what is applied, by space and number.
        """
        spoken = time.monotonic() - SPOKEN_S
        spaces = [
            (o, s) for o in owned for s in Space
            if s in o.redis_behind or (o.told_at[s] < spoken and o.tier[s] == o.announced[s] == o.applied(s))
        ]  # fmt: skip
        beats = [
            (space, o.number, o.token, o.applied(space), watermarks.get((space, o.number), o.append_ns[space]))
            for o, space in spaces
            if space not in o.redis_behind
        ]
        try:
            outcomes = await self._writer.heartbeat(beats)
        except ServiceUnavailable as exc:
            self._lost([o for o, _ in spaces], exc)
        else:
            alive = [(o, space) for o, space in spaces if space not in o.redis_behind]
            for (o, space), outcome in zip(alive, outcomes, strict=True):
                if outcome.answer is Answer.FENCED:
                    raise _fenced(o, space, outcome.token)
                if outcome.answer is not Answer.OK:
                    o.redis_behind.add(space)
        for o, space in spaces:
            if space in o.redis_behind and time.monotonic() >= self._retry_at:
                await self._rewrite(o, space)
        metrics.REDIS_UP.set(not any(o.redis_behind for o, _ in spaces))
        marks = [
            (o, space, _mark(o, space, RecordType.HEARTBEAT, watermarks.get((space, o.number), o.append_ns[space])))
            for o, space in spaces
            if o.announced[space] == o.applied(space)  # else the watermark would vouch for what nobody was told
        ]
        await self._announce(marks)

    async def _write(self, spaces: Sequence[tuple[OwnedPartition, Space]]) -> None:
        current = [(owned, space) for owned, space in spaces if space not in owned.redis_behind]
        if not current:
            return
        batches = [market_batch(o) if space is Space.MARKET else entry_batch(o) for o, space in current]
        try:
            outcomes = await self._writer.apply(*batches)
        except ServiceUnavailable as exc:
            self._lost([owned for owned, _ in current], exc)
            return
        for (owned, space), batch, outcome in zip(current, batches, outcomes, strict=True):
            if outcome.answer is Answer.FENCED:
                raise _fenced(owned, space, outcome.token)
            if outcome.answer is Answer.GAP:
                await self._rewrite(owned, space)
            else:
                owned.tier[space] = batch.to_version

    async def _rewrite(self, owned: OwnedPartition, space: Space) -> None:
        """Write everything from the pages and delete what they lack; the mark becomes what is applied."""
        owned.redis_behind.add(space)
        if space is Space.MARKET:
            batch, known = market_rewrite(owned)
        else:
            batch, known = entry_rewrite(owned, self._stored_entries(owned))
        try:
            await self._writer.take(space, owned.number, owned.token)
            await self._writer.delete_unknown(
                space, owned.number, token=owned.token, version=batch.to_version,
                watermark_ns=batch.watermark_ns, known=known,
            )  # fmt: skip
            (outcome,) = await self._writer.apply(batch)
        except ServiceUnavailable as exc:
            self._lost([owned], exc)
            return
        if outcome.answer is Answer.FENCED:
            raise _fenced(owned, space, outcome.token)
        metrics.REWRITES.labels(space.value).inc()
        owned.tier[space] = batch.to_version
        owned.redis_behind.discard(space)
        event(log, "redis_rewritten", space=space.value, partition=owned.number, keys=len(known))

    def _stored_entries(self, owned: OwnedPartition) -> Iterable[tuple[str, bytes]]:
        stored = {
            key[1:].decode(): body for key, body in self._table.pages(owned.number) if key.startswith(pages.ENTRY)
        }
        stored.update(owned.entries.unsaved)  # also what a barrier is about to make durable
        return stored.items()

    def _lost(self, partitions: Iterable[OwnedPartition], exc: ServiceUnavailable) -> None:
        for owned in partitions:
            if len(owned.redis_behind) < len(Space):
                event(log, "redis_lost", level=logging.WARNING, partition=owned.number, detail=str(exc))
            owned.redis_behind.update(Space)
        self._retry_at = time.monotonic() + RETRY_S

    async def _announce(
        self, records: Sequence[tuple[OwnedPartition, Space, Invalidation]], beside: Sequence[Outgoing] = ()
    ) -> None:
        outgoing = [Outgoing(self._topic, owned.number, encode(record)) for owned, _, record in records]
        await self.send([*outgoing, *beside])


def _changes(step: Step) -> Invalidation:
    return Invalidation(
        RecordType.CHANGES,
        SOURCES[step.space],
        step.owned.token,
        step.owned.announced[step.space],
        step.version,
        step.watermark_ns,
        now_ns(),
        step.changes,
        step.stamps,
        step.keys,
        step.rows,
    )


def _mark(owned: OwnedPartition, space: Space, kind: RecordType, watermark_ns: int) -> Invalidation:
    applied = owned.announced[space]
    return Invalidation(kind, SOURCES[space], owned.token, applied, applied, watermark_ns, now_ns())


def _fenced(owned: OwnedPartition, space: Space, newer: int) -> OwnerFenced:
    return OwnerFenced(
        f"{space.value} partition {owned.number}: owner {owned.token} was followed by {newer}; this worker stops"
    )
