"""Replay: days into Kafka as they came, at any speed, as a run of its own or on the live topics.

A run is one source, `day/<names>/<run id>`. In round r (0, 1, ...) of a stream of N rows, position r * (N + 2) + 1 in
every partition is the control row that starts the round, row `seq` of the stream has position r * (N + 2) + seq + 1,
and position (r + 1) * (N + 2) ends the round. The rows of a whole day have the day's own `seq`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.days.plan import FaultPlan
from models.days.received import Arrivals
from models.market.instruments import instrument_hash
from models.market.tick import Action
from streams.clock import Clock, now_ns
from streams.days.ahead import read_ahead
from streams.days.day import Day
from streams.days.feed import EVERYTHING, DayFeed, Selection
from streams.days.held import Held, held_positions
from streams.days.outlet import RunOutlet
from streams.days.pacing import Pace, RatePace, SpeedPace, check_pace, groups
from streams.days.pauses import OnPause, Pauses, Stopped
from streams.days.progress import Meter, Progress
from streams.days.report import LATENESS_BOUND_MS, Pause, ReplayReport
from streams.days.run_record import RunRecord
from streams.days.stream import RunStream, end_of, sliced
from streams.days.waiting import doze
from streams.kafka.admin import ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.frame_sender import FrameSender
from streams.kafka.instruments import InstrumentDirectory
from streams.kafka.offsets import last_offsets
from streams.settings import Settings

__all__ = ["Pause", "Progress", "Replay", "ReplayReport", "replay_day"]

UNPACED_BATCH = 32_768  # larger arrays are given back to the system and cost a page fault each 64 ticks
PACED_BATCH = 8192  # cut on the event loop, which it holds for a millisecond
_MS = 1_000_000
_LONGEST_SLEEP_S = 0.1  # then it is looked whether somebody wants to pause or to stop


class Replay:
    """One run.

    Args:
        days: one or more; those that overlap in time are merged.
        settings: broker, `publisher.frame_ticks`, `publisher.frame_ms`, `publisher.buffer_ticks`.
        selection: the part of the days that is sent.
        speed: 1 = as it came, 10 = ten times as fast, None = as fast as Kafka takes it.
        rate: rows a second instead, evenly.
        rounds: how often the stream is sent; None = until `stop`.
        faults: what goes wrong, by plan.
        run_id: letters, digits, `.`, `_`, `-`; a new one by default.
        live: send to the topics of `settings` instead of the run's own, `run.<id>.*`.
        pause_at: rows after which `on_pause` is awaited, as soon as they are acknowledged (at the end of their event).
        on_pause: returns when the run is to go on.
        progress: hears how far it is, ten times a second.
        with_digest: compute the stream's digest after sending, in a thread.
        lateness_bound_ms: what the 99th percentile may be in a valid run.
        record: file that says what this run is and what came of it.
        resume: a run's record: go on where its log ends. Days and options must be the same.
        clock: UTC ns.

    Raises:
        NothingSelected, InstrumentConflict: as `DayFeed`.
        InvalidFaultPlan: the plan names what the days do not have.
    """

    def __init__(
        self,
        days: Sequence[Day],
        settings: Settings,
        *,
        selection: Selection = EVERYTHING,
        speed: float | None = None,
        rate: float | None = None,
        rounds: int | None = 1,
        faults: FaultPlan | None = None,
        run_id: str | None = None,
        live: bool = False,
        pause_at: Sequence[int] = (),
        on_pause: OnPause | None = None,
        progress: Callable[[Progress], None] | None = None,
        with_digest: bool = True,
        lateness_bound_ms: float = LATENESS_BOUND_MS,
        record: Path | None = None,
        resume: RunRecord | None = None,
        clock: Clock = now_ns,
    ) -> None:
        check_pace(speed, rate)
        self.run_id = run_id or uuid.uuid4().hex[:8]
        self.feed = DayFeed(days, selection)
        prefix = settings.topics.prefix + ("" if live else f"run.{self.run_id}.")
        self.settings = replace(settings, topics=replace(settings.topics, prefix=prefix))
        self._days, self._live, self._speed, self._rate, self._rounds = days, live, speed, rate, rounds
        self._plan = faults
        asked = {seq for seq in pause_at if 0 < seq < (self.feed.rows or 2**62)}
        self._pauses = Pauses(asked, on_pause, clock=clock, timeout_s=settings.publisher.delivery_timeout_s)
        self._with_digest, self._clock = with_digest, clock
        self._bound_ms, self._record_at, self._resume = lateness_bound_ms, record, resume
        self._meter = Meter(self.feed, speed=speed, rate=rate, tell=progress)
        self._stream = RunStream(self.feed, faults)
        self._batch = UNPACED_BATCH if speed is None and rate is None else PACED_BATCH
        self._length = 0  # rows of a round, once one has been sent
        self._rounds_done = 0
        self._stopped = False
        self._outlet: RunOutlet

    @property
    def source(self) -> str:
        return f"day/{self.feed.name}/{self.run_id}"

    def __repr__(self) -> str:
        pace = f"rate={self._rate}" if self._rate else f"speed={self._speed or 'max'}"
        return f"<Replay {self.source} to {self.settings.topics.prefix}* {pace}>"

    def pause(self) -> None:
        """Pause as soon as what is due now has been sent."""
        self._pauses.pause()

    def stop(self) -> None:
        """End as soon as what is due now has been sent, without a control row that ends the run."""
        self._pauses.stop()

    async def run(self) -> ReplayReport:
        """Send everything.

        Raises:
            CorruptDay: a day cannot be read to its end; the run has no end row then.
            ServiceUnavailable, PublishFailed: Kafka is away, or refuses.
            InstrumentConflict: an instrument is known with other exponents.
        """
        kafka = self.settings.kafka
        if not self._live and self._resume is None:
            await ensure_topics(self.settings)
        record = await self._write_record()
        source = instrument_hash(self.source)
        held: dict[int, Held] = {}
        if self._resume is not None:
            starts, repeats = record.starts if self._live else None, self._plan is not None
            held = await held_positions(self.settings, source, starts, repeats=repeats)
        producer = await start_producer(kafka)
        try:
            async with InstrumentDirectory(self.settings, producer=producer) as directory:
                self._outlet = RunOutlet(
                    self.settings,
                    FrameSender(self.settings, producer),
                    directory.registry,
                    feed=self.feed,
                    ids=np.array(await directory.define(self.feed.instruments), np.int32),
                    source=source,
                    held=held,
                    faulty=self._stream.faulty,
                )
                seconds = await self._send_all()
        finally:
            await stop_client(producer)
        report = await self._report(seconds)
        if self._record_at is not None:
            record.ended(report).write(self._record_at)
        return report

    async def _write_record(self) -> RunRecord:
        if self._resume is not None:
            return self._resume
        starts: dict[int, int] = {}
        if self._live and self._record_at is not None:
            starts = {partition: last + 1 for partition, last in (await last_offsets(self.settings)).items()}
        record = RunRecord.of(
            self._days,
            self.feed.selection,
            run_id=self.run_id,
            prefix=self.settings.topics.prefix,
            live=self._live,
            starts=starts,
            speed=self._speed,
            rate=self._rate,
            rounds=self._rounds,
            plan=self._plan,
        )
        if self._record_at is not None:
            await asyncio.to_thread(record.write, self._record_at)
        return record

    async def _send_all(self) -> float:
        begun_ns, length = time.monotonic_ns(), self._stream.length
        if length is not None:  # rounds that the log has whole are not read again
            self._length, self._rounds_done = length, self._outlet.held_everywhere // (length + 2)
        first = self._rounds_done
        try:
            for number in itertools.count(first) if self._rounds is None else range(first, self._rounds):
                await self._send_round(number * (self._length + 2))
                self._rounds_done += 1
        except Stopped:
            self._stopped = True
        await self._outlet.sender.drain(self.settings.publisher.delivery_timeout_s)
        return (time.monotonic_ns() - begun_ns - self._pauses.spent_ns) / 1e9

    async def _send_round(self, base: int) -> None:
        """Control row, rows, control row, at positions from `base` + 1 on."""
        await self._outlet.control(Action.CLEAR, base + 1, self.feed.first_ns)
        pace: Pace | None = None
        sent = after = min(max(self._outlet.held_everywhere - base - 1, 0), self._stream.length or 0)
        newest_ns = self.feed.last_ns
        async with aclosing(read_ahead(self._stream.positioned(self._batch, base, after=after))) as batches:
            async for rows in batches:
                sent, newest_ns = int(rows.ticks["seq"][-1]) - base - 1, max(newest_ns, int(rows.arrival_ns[-1]))
                unsent = self._outlet.unsent(rows)
                if not unsent.any():
                    continue
                pace = pace or self._pace(rows, int(np.argmax(unsent)), base)
                await self._send(rows, pace, base)
        self._length = sent
        await self._outlet.control(Action.DELETE, base + sent + 2, newest_ns)
        self._meter.told(sent, newest_ns)

    def _pace(self, rows: Arrivals, first: int, base: int) -> Pace | None:
        """The clock of a round that begins with row `first` of these."""
        now, seq = self._clock(), int(rows.ticks["seq"][first])
        if self._rate:
            return RatePace(now, seq, self._rate)
        if self._speed:
            begins_here = seq == base + 2
            return SpeedPace(now, self.feed.first_ns if begins_here else int(rows.arrival_ns[first]), self._speed)
        return None

    async def _send(self, rows: Arrivals, pace: Pace | None, base: int) -> None:
        """Send a batch, with the pauses that fall into it."""
        while len(rows.ticks):
            await self._pauses.look(int(rows.ticks["seq"][0]) - base - 2, pace, self._outlet.sender)
            part, at = rows, self._pauses.next_at
            if due_pause := at is not None and at < int(rows.ticks["seq"][-1]) - base - 1:
                part = sliced(rows, slice(0, end_of(rows, at + base + 1)))
            n = await (self._send_now(part, base) if pace is None else self._send_paced(part, pace, base))
            if due_pause and n == len(part.ticks):
                await self._pauses.rest(int(part.ticks["seq"][-1]) - base - 1, pace, self._outlet.sender)
            rows = sliced(rows, slice(n, None))

    async def _send_now(self, rows: Arrivals, base: int) -> int:
        await self._outlet.send_batch(rows, self._clock())
        self._meter.told(int(rows.ticks["seq"][-1]) - base - 1, int(rows.arrival_ns[-1]))
        return len(rows.ticks)

    async def _send_paced(self, rows: Arrivals, pace: Pace, base: int) -> int:
        """Send rows as they are due; how many it was when somebody wanted to pause or to stop, or all."""
        window_ns = int(self.settings.publisher.frame_ms * _MS)
        due_ns = pace.due(rows.arrival_ns, rows.ticks["seq"])
        begin = int(rows.ticks["seq"][0]) - base - 2
        done, between = 0, True  # rows of windows that are out; whether nothing of the next one is
        for group in groups(rows, self._outlet.partitions(rows), due_ns, window_ns):
            while (left_ns := int(group.due_ns[-1]) - self._clock()) > 0:
                await doze(left_ns, _LONGEST_SLEEP_S)
                self._meter.waited(left_ns)
                if between and self._pauses.wanted:
                    return done
            late_ns = await self._outlet.send_group(group, self._clock)
            if between := group.n_done > 0:
                done = group.n_done
                self._meter.told(begin + done, int(rows.arrival_ns[done - 1]), late_ns)
                if self._pauses.wanted:
                    return done
        return done

    def _digest(self) -> str:
        if not self._stream.faulty:
            return self.feed.digest()
        return self.feed.digest_of(self._stream.delivered(), self._outlet.partition_by_id)

    async def _report(self, seconds: float) -> ReplayReport:
        digest = await asyncio.to_thread(self._digest) if self._with_digest and not self._stopped else None
        return ReplayReport.of(
            self._outlet.sent,
            run_id=self.run_id,
            prefix=self.settings.topics.prefix,
            seconds=seconds,
            digest=digest,
            offsets=self._outlet.sender.offsets,
            lateness_bound_ms=self._bound_ms,
            state="stopped" if self._stopped else "done",
            rounds=self._rounds_done,
            faults=self._stream.faults_done(),
        )


async def replay_day(days: Day | Sequence[Day], settings: Settings, **options: Any) -> ReplayReport:
    """Replay one day or several; `options` are those of `Replay`. Raises: as `Replay.run`."""
    return await Replay([days] if isinstance(days, Day) else days, settings, **options).run()
