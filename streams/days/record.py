"""Recording: frames of the live topics, or of a run, become days on disk; offsets say what is still to come.

A recording at `days/live` makes the days `days/live`, `days/live.2`, `days/live.3` and so on. Frames go into a spool
beside them first (`.live.2.recording`), and a day is made of a spool when it is full, when the recorder ends, or at the
next start after a crash.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from models.errors import CorruptDay
from streams.days.day import Day
from streams.days.recorded import RecordedDays
from streams.days.spool import Spool, SpoolHead, header_of, read_head
from streams.days.spooled import make_day
from streams.days.verify import verify_day
from streams.kafka.admin import topic_ids
from streams.kafka.clients import no_such_topic, start_consumer, stop_client
from streams.kafka.instruments import InstrumentDirectory
from streams.log import event
from streams.settings import Settings
from streams.topics import FRAMES

log = logging.getLogger(__name__)

SYNC_S = 1.0
_POLL_MS = 200
_RECORDS_A_POLL = 2_000


@dataclass(frozen=True)
class Rotation:
    """When a day is full: bytes of frames as they came, or seconds of log time; None = no such bound."""

    max_bytes: int | None = None
    max_s: float | None = None

    def is_due(self, spool: Spool) -> bool:
        if self.max_bytes is not None and spool.n_bytes >= self.max_bytes:
            return True
        return self.max_s is not None and spool.last_ms - spool.first_ms >= self.max_s * 1000


@dataclass
class RecordReport:
    """What a recorder did.

    Attributes:
        days: made since this recorder began, oldest first, those that a crash had left among them.
        closed_after_crash: how many of them had been cut.
        deleted: days that `keep` had no room for.
        frames: records written since it began.
        corrupt: those of them that are no frames; no day has them.
        offsets: partition -> offset that comes next.
    """

    days: list[Day] = field(default_factory=list)
    closed_after_crash: int = 0
    deleted: list[Path] = field(default_factory=list)
    frames: int = 0
    corrupt: int = 0
    offsets: dict[int, int] = field(default_factory=dict)


class Recorder:
    """Records `md.frames.v1` of the topics that `settings` names.

    Args:
        out: the first day's folder; later ones are numbered.
        start: where to begin when nothing was recorded here yet.
        keep: how many days are kept, the oldest go; None = all.
        until_end: end once everything that is in the log at the start is on disk.
        made: hears of each day.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        *,
        start: Literal["latest", "earliest"] = "latest",
        rotation: Rotation | None = None,
        keep: int | None = None,
        until_end: bool = False,
        made: Callable[[Day], None] | None = None,
    ) -> None:
        self.report = RecordReport()
        self._settings, self._days = settings, RecordedDays(out)
        self._topic = settings.topics.prefix + FRAMES
        self._start, self._rotation, self._keep = start, rotation or Rotation(), keep
        self._until_end, self._made = until_end, made
        self._stopping = asyncio.Event()
        self._closing: asyncio.Task[bool] | None = None
        self._spool: Spool
        self._number = 0

    def stop(self) -> None:
        """End in order: the day is closed."""
        self._stopping.set()

    async def run(self) -> RecordReport:
        """Record until `stop`, or to the log's end.

        Raises:
            ServiceUnavailable: no broker, or no topic.
            CorruptDay: a spool or a day here cannot be read.
            FileExistsError: a day that no recorder made is at `out`.
        """
        await self._close_left()
        topic_id = (await topic_ids(self._settings, [self._topic]))[self._topic]
        if topic_id is None:
            raise no_such_topic(self._settings.kafka, self._topic)
        numbers = range(self._settings.kafka.partitions)
        consumer = await start_consumer(self._settings.kafka, self._topic, numbers)
        try:
            async with InstrumentDirectory(self._settings) as directory:
                await self._begin(consumer, topic_id)
                await self._follow(consumer, directory)
        finally:
            await stop_client(consumer)
            if self._closing is not None:
                await self._closing
        await self._close(self._spool, self._number)
        self.report.offsets = dict(sorted(self._spool.next_offsets.items()))
        return self.report

    async def _close_left(self) -> None:
        """Make days of what a crash left."""
        days = self._days.days()
        for number in self._days.spools():
            spool = await asyncio.to_thread(Spool.open, self._days.spool(number))
            if number in days:  # killed after the day was made, before its spool went
                proof = await asyncio.to_thread(verify_day, self._days.path(number))
                if not proof.ok:
                    where = self._days.path(number)
                    raise CorruptDay(f"{where}: {proof.problems[0]}; its frames are still in {spool.folder}")
                spool.close()
                shutil.rmtree(spool.folder)
            else:
                self.report.closed_after_crash += await self._close(spool, number)

    async def _begin(self, consumer: AIOKafkaConsumer, topic_id: str) -> None:
        """Find where to go on, and seek there."""
        parts = sorted(consumer.assignment())
        spools, after_last = self._days.spools(), self._days.last_head()
        if spools:
            self._number, head = spools[-1], read_head(self._days.spool(spools[-1]))
        elif after_last is not None:
            self._number, head = after_last
        else:
            self._number, head = 1, SpoolHead(self._topic, "", {})
        if head.topic_id != topic_id:
            anew = head.topic_id or self._start == "earliest"  # a topic made anew is recorded from its beginning
            offsets = await (consumer.beginning_offsets(parts) if anew else consumer.end_offsets(parts))
            head = SpoolHead(self._topic, topic_id, {tp.partition: offset for tp, offset in offsets.items()})
            for number in spools:
                shutil.rmtree(self._days.spool(number))
        folder = self._days.spool(self._number)
        self._spool = Spool.open(folder) if folder.exists() else Spool.create(folder, head)
        for tp in parts:
            consumer.seek(tp, self._spool.next_offsets.setdefault(tp.partition, 0))

    async def _follow(self, consumer: AIOKafkaConsumer, directory: InstrumentDirectory) -> None:
        parts = sorted(consumer.assignment())
        ends = await consumer.end_offsets(parts) if self._until_end else None
        synced = time.monotonic()
        while not self._stopping.is_set():
            if ends is not None and all(self._spool.next_offsets[tp.partition] >= ends[tp] for tp in parts):
                break
            polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_A_POLL)
            for tp, records in polled.items():
                await self._take(tp, records, directory)
            self._spool.flush()
            if time.monotonic() - synced > SYNC_S:
                await asyncio.to_thread(self._spool.sync)
                synced = time.monotonic()

    async def _take(self, tp: TopicPartition, records: list[ConsumerRecord], directory: InstrumentDirectory) -> None:
        for record in records:
            data = record.value or b""
            if self._rotation.is_due(self._spool):
                await self._rotate()
            if (header := header_of(data)) is None:
                self.report.corrupt += 1
            elif unknown := self._spool.unknown(data, header):
                await self._define(unknown, directory)
            missing = self._spool.n_missing
            self._spool.append(tp.partition, record.offset, record.timestamp, data)
            self.report.frames += 1
            if self._spool.n_missing > missing:
                event(
                    log, "log_lost_frames", level=logging.WARNING, partition=tp.partition, before_offset=record.offset,
                    offsets=self._spool.n_missing - missing,
                )  # fmt: skip

    async def _define(self, hashes: list[int], directory: InstrumentDirectory) -> None:
        known = directory.registry.by_hash
        if any(name not in known for name in hashes):
            await directory.catch_up()  # definitions are acknowledged before the frames that need them (rule 7)
        for name in hashes:
            if name in known:
                self._spool.define(directory.registry.instruments[known[name]])

    async def _rotate(self) -> None:
        """Go on in a new spool, and make a day of the full one meanwhile."""
        if self._closing is not None:
            await self._closing
        full, number = self._spool, self._number
        await asyncio.to_thread(full.sync)
        self._number += 1
        self._spool = Spool.create(self._days.spool(self._number), full.next_head())
        self._closing = asyncio.create_task(self._close(full, number))

    async def _close(self, spool: Spool, number: int) -> bool:
        """Make a day of a spool, then drop the spool; whether there was a row. An empty one stays, to go on in."""
        if not spool.n_frames:
            spool.close()
            return False
        await asyncio.to_thread(spool.sync)
        day = await asyncio.to_thread(make_day, spool, self._days.path(number))
        spool.close()
        shutil.rmtree(spool.folder)
        if day is None:  # control rows only: they need not be read again
            if number == self._days.newest() + 1:
                Spool.create(spool.folder, spool.next_head()).close()
            return False
        self.report.days.append(day)
        if self._made:
            self._made(day)
        self._delete_old()
        return True

    def _delete_old(self) -> None:
        for number in sorted(self._days.days())[: -self._keep] if self._keep else ():
            shutil.rmtree(self._days.path(number))
            self.report.deleted.append(self._days.path(number))
