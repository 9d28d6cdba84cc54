"""Follow `cache.invalidations.v1`: every partition, without a group, gaps reported, resumable with nothing missed.

    async with InvalidationConsumer(settings, save=Path("positions.json")) as consumer:
        async for event in consumer:
            match event:
                case Changed(): drop(changed_keys(event.record))
                case Gap(): drop_partition(event.partition)

An event counts as dealt with when the next one is asked for, or when the block is left without an exception. Only then
does it move what is saved and what `freshness_ns` proves; after a crash it comes again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.cache.continuity import Continuity, Verdict
from models.cache.invalidation import Invalidation, RecordType, Source, decode
from models.errors import CorruptFrame, ServiceUnavailable
from streams.client.events import Changed, Counts, Event, Gap, GapReason, Heartbeat
from streams.client.positions import PartitionPosition, Positions, PositionsFile
from streams.clock import Clock, now_ns
from streams.kafka.admin import describe_topics, unavailable
from streams.kafka.clients import no_such_topic, start_consumer, stop_client
from streams.log import event as log_event
from streams.settings import Settings
from streams.topics import INVALIDATIONS

log = logging.getLogger(__name__)

Start = Literal["latest", "earliest"] | Mapping[int, int]

_POLL_S = 0.2  # longest wait for Kafka before the caller's deadline and `stop` are looked at
_RECORDS_A_POLL = 100  # they are decoded one by one between events, so the loop is held for about 1 ms at most


@dataclass(frozen=True, slots=True)
class _Step:
    """An event for the caller, if any, and what holds once it is dealt with."""

    event: Event | None
    partition: int
    next_offset: int | None = None
    record: Invalidation | None = None


class InvalidationConsumer:
    """An async iterator over all partitions; it ends only by `stop`. One task iterates.

    Args:
        settings: broker, topic prefix, deadlines, `clock.max_skew_ms`.
        start: where to begin: `latest` (what comes from now on), `earliest`, or offsets by partition (partitions that
            are not named begin at the latest).
        save: file to resume from if it exists (then `start` is not used) and to keep positions in, each second.
        clock: UTC ns; what watermarks are held against.
    """

    def __init__(
        self, settings: Settings, *, start: Start = "latest", save: Path | None = None, clock: Clock = now_ns
    ) -> None:
        self.topic = settings.topics.prefix + INVALIDATIONS
        self.counts = Counts()
        self.continuity = Continuity(int(settings.clock.max_skew_ms * 1e6))
        self._kafka = settings.kafka
        self._settings = settings
        self._start, self._clock = start, clock
        self._file = PositionsFile(save) if save else None
        self._topic_id = ""
        self._consumer: AIOKafkaConsumer | None = None
        self._raw: deque[Any] = deque()  # aiokafka's ConsumerRecords, not yet looked at
        self._ready: deque[_Step] = deque()
        self._given: _Step | None = None  # the caller is dealing with it
        self._expected: dict[int, int] = {}  # next offset to come, by partition
        self._handled: dict[int, int] = {}  # next offset to resume at, by partition
        self._placed = False  # no gap that was met at the start waits for the caller: positions may be saved
        self._stopped = False

    def __repr__(self) -> str:
        return f"<InvalidationConsumer {self.topic} at {self._handled}: {self.counts}>"

    @property
    def positions(self) -> dict[int, int]:
        """Next offset of each partition, by what is dealt with: fit for `start`."""
        return dict(self._handled)

    def freshness_ns(self, partition: int, source: Source = Source.FRAMES) -> int | None:
        """UTC ns up to which everything in the source partition is dealt with (rule 11); None = nothing is proven.

        It is the broker's time: whoever makes an age of it adds `clock.max_skew_ms`.
        """
        return self.continuity.freshness_ns(partition, source)

    async def __aenter__(self) -> Self:
        """Raises: ServiceUnavailable (no broker, no topic); SettingsError (the saved file is of something else)."""
        state = (await describe_topics(self._settings, [self.topic])).get(self.topic)
        if state is None:
            raise no_such_topic(self._kafka, self.topic)
        self._topic_id = state.id
        partitions = range(state.n_partitions)
        saved = await self._file.read(self.topic) if self._file else None
        self._consumer = await start_consumer(self._kafka, self.topic, partitions)
        try:
            await self._place(self._consumer, [TopicPartition(self.topic, p) for p in partitions], saved)
        except BaseException:
            await stop_client(self._consumer)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self._settle()
        try:
            if self._file and self._placed:
                await self._file.finish(self._standing)
        finally:
            if self._consumer is not None:
                await stop_client(self._consumer)
                self._consumer = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    def stop(self) -> None:
        """End the iteration; a wait that is under way ends within 0.2 s. Safe in a signal handler of the loop."""
        self._stopped = True

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when `timeout_s` passed without one, or after `stop`.

        While the broker is away it waits on (and reconnects by itself): freshness ages, which is what a reader must
        look at anyway.

        Raises:
            ServiceUnavailable: Kafka refuses to go on, or the positions cannot be saved.
        """
        self._settle()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._stopped:
            if event := self._take():
                return event
            left = _POLL_S if end is None else min(_POLL_S, end - time.monotonic())
            if left <= 0:
                return None
            await self._poll(left)
        return None

    async def _place(
        self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition], saved: Positions | None
    ) -> None:
        try:
            async with asyncio.timeout(self._kafka.request_timeout_s):
                first, end = await asyncio.gather(
                    consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
                )
        except (KafkaError, TimeoutError) as exc:
            raise unavailable(self._kafka, exc) from exc
        recreated = saved is not None and saved.topic_id != self._topic_id
        for tp in partitions:
            p = tp.partition
            position = saved.partitions.get(p) if saved else None
            wanted = position.offset if position else self._wanted(p, first[tp], end[tp], resumed=saved is not None)
            at, reason = _entry(wanted, first[tp], end[tp], recreated=recreated and position is not None)
            if position and not recreated:
                self.continuity.restore(p, position.heard)
            if reason:
                self._ready.append(self._lost(p, wanted, at, reason))
            consumer.seek(tp, at)
            self._expected[p] = self._handled[p] = at
        self._placed = not self._ready

    def _wanted(self, partition: int, first: int, end: int, *, resumed: bool) -> int:
        if resumed or self._start == "earliest":  # a partition that a saved file does not know is new: all of it
            return first
        return end if self._start == "latest" else self._start.get(partition, end)

    async def _poll(self, wait_s: float) -> None:
        if self._consumer is None:
            raise ServiceUnavailable("the invalidation consumer is not open: use `async with`")
        try:
            batches = await self._consumer.getmany(timeout_ms=int(wait_s * 1000), max_records=_RECORDS_A_POLL)
        except KafkaError as exc:
            raise unavailable(self._kafka, exc) from exc
        for records in batches.values():
            self._raw.extend(records)
        if batches:
            await asyncio.sleep(0)  # getmany does not suspend while it has records: let others run
        self._placed = True
        if self._file:
            await self._file.offer(self._standing)

    def _take(self) -> Event | None:
        while True:
            if not self._ready:
                if not self._raw:
                    return None
                self._ready.extend(self._steps(self._raw.popleft()))
            step = self._given = self._ready.popleft()
            if step.event is not None:
                return step.event
            self._settle()

    def _settle(self) -> None:
        """What was given is dealt with."""
        step, self._given = self._given, None
        if step is None:
            return
        if step.record is not None:
            self.continuity.advance(step.partition, step.record, self._clock())
        if step.next_offset is not None:
            self._handled[step.partition] = step.next_offset

    def _steps(self, raw: Any) -> list[_Step]:
        p, offset, after = raw.partition, raw.offset, raw.offset + 1
        steps = []
        expected, self._expected[p] = self._expected[p], after
        self.counts.records += 1
        if offset != expected:  # the client went to the log's start by itself: the log is the only thing it can trust
            reason = GapReason.LOG_CUT if offset > expected else GapReason.RECREATED
            steps.append(self._lost(p, expected, offset, reason))
        try:
            record = decode(raw.value or b"")
        except CorruptFrame as exc:
            self.counts.corrupt += 1
            log_event(log, "invalidation_corrupt", level=logging.WARNING, partition=p, offset=offset, detail=str(exc))
            return [*steps, self._lost(p, offset, after, GapReason.CORRUPT)]
        verdict = self.continuity.judge(p, record)
        if verdict is Verdict.FENCED:
            self.counts.fenced += 1
            return [*steps, _Step(None, p, after)]
        if verdict is Verdict.GAP:
            self.counts.gaps += 1
            self.continuity.doubt(p)
            position = self.continuity.position(p, record.source) or 0
            gap = Gap(p, record.source, position, record.from_version, GapReason.VERSIONS)
            steps.append(_Step(gap, p))
        return [*steps, _Step(self._event(p, offset, record), p, after, record)]

    def _event(self, partition: int, offset: int, record: Invalidation) -> Event | None:
        if record.type is RecordType.CHANGES:
            self.counts.changes += 1
            self.counts.keys += len(record.changes) + len(record.keys)
            return Changed(partition, offset, record)
        if record.type is RecordType.HEARTBEAT:
            self.counts.heartbeats += 1
            return Heartbeat(partition, offset, record)
        return None  # a new owner only moves the token

    def _lost(self, partition: int, expected: int, got: int, reason: GapReason) -> _Step:
        self.counts.gaps += 1
        self.continuity.forget(partition)
        log_event(log, "invalidations_lost", partition=partition, expected=expected, got=got, reason=reason.value)
        return _Step(Gap(partition, None, expected, got, reason), partition, got)

    def _standing(self) -> Positions:
        partitions = {p: PartitionPosition(o, self.continuity.snapshot(p)) for p, o in self._handled.items()}
        return Positions(self.topic, self._topic_id, partitions)


def _entry(wanted: int, first: int, end: int, *, recreated: bool) -> tuple[int, GapReason | None]:
    """Offset to begin at in a log that holds `[first, end)`, and why it is not the wanted one."""
    if recreated or wanted > end:
        return first, GapReason.RECREATED
    return (first, GapReason.LOG_CUT) if wanted < first else (wanted, None)
