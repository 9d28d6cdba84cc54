"""Replay: days into Kafka as they came, at any speed, as a run of its own or on the live topics.

A run is one source, `day/<names>/<run id>`. Position 1 in every partition is the control row that starts the run, the
day's row `seq` has position `seq + 1`, and position N + 2 ends the run.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.market.instruments import instrument_hash, partition_of
from models.market.tick import TICK, Action, Flag, Kind, TickArray
from streams.clock import Clock, now_ns
from streams.days.day import BATCH, Day
from streams.days.feed import DayFeed
from streams.days.pacing import Group, Pace, groups
from streams.kafka.admin import ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.frame_sender import FrameSender
from streams.kafka.frames import FramePacker
from streams.kafka.instruments import InstrumentDirectory
from streams.settings import Settings

PACED_BATCH = 8192  # cut on the event loop, which it holds for a millisecond
_MS = 1_000_000
_SHORTEST_SLEEP_S = 0.001  # uvloop's timers count in ms; asking for less would spin
_REPORT_S = 0.1

T = TypeVar("T")


@dataclass(frozen=True)
class Pause:
    """Everything up to row `seq` is acknowledged; `offsets` has the newest offset of each partition."""

    seq: int
    offsets: dict[int, int]


@dataclass(frozen=True)
class ReplayReport:
    """What was sent.

    Attributes:
        rows: rows of the days; the two control rows of each partition are not counted, nor their frames.
        seconds: from the first row to the last acknowledgement, pauses left out.
        lateness_p50_ms, lateness_p99_ms, lateness_max_ms: over frames, from when a frame's last row was due to when it
            was handed to Kafka; 0 at maximum speed, where nothing has a due time.
        digest: what the days end in (models.market.digest); None if it was not asked for.
        offsets: partition -> offset of its last frame, the one that ends the run.
        prefix: of the run's topics and keys.
    """

    run_id: str
    prefix: str
    rows: int
    frames: int
    seconds: float
    rows_per_s: float
    lateness_p50_ms: float
    lateness_p99_ms: float
    lateness_max_ms: float
    digest: str | None
    offsets: dict[int, int]


class Replay:
    """One run.

    Args:
        days: one or more; those that overlap in time are merged.
        settings: broker, `publisher.frame_ticks`, `publisher.frame_ms`, `publisher.buffer_ticks`.
        speed: 1 = as it came, 10 = ten times as fast, None = as fast as Kafka takes it.
        run_id: letters, digits, `.`, `_`, `-`; a new one by default.
        live: send to the topics of `settings` instead of the run's own, `run.<id>.*`.
        pause_at: rows after which `on_pause` is awaited, as soon as they are acknowledged (at the end of their event).
        progress: hears rows sent and rows in all, ten times a second.
        with_digest: compute the days' digest after sending, in a thread.
        clock: UTC ns.
    """

    def __init__(
        self,
        days: Sequence[Day],
        settings: Settings,
        *,
        speed: float | None = None,
        run_id: str | None = None,
        live: bool = False,
        pause_at: Sequence[int] = (),
        on_pause: Callable[[Pause], Awaitable[None]] | None = None,
        progress: Callable[[int, int], None] | None = None,
        with_digest: bool = True,
        clock: Clock = now_ns,
    ) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise ValueError(f"speed {speed} is not above 0")
        self.run_id = run_id or uuid.uuid4().hex[:8]
        self.feed = DayFeed(days)
        prefix = settings.topics.prefix + ("" if live else f"run.{self.run_id}.")
        self.settings = replace(settings, topics=replace(settings.topics, prefix=prefix))
        self._own_topics = not live
        self._speed = speed
        self._pauses = sorted({seq for seq in pause_at if 0 < seq < self.feed.rows}, reverse=True)
        self._on_pause, self._progress, self._with_digest, self._clock = on_pause, progress, with_digest, clock
        self._lateness: list[int] = []
        self._reported_at = 0.0
        self._sender: FrameSender
        self._packer: FramePacker
        self._ids: NDArray[np.int32]  # feed's instrument id -> registry's
        self._partitions: NDArray[np.int64]  # by the feed's instrument id

    @property
    def source(self) -> str:
        return f"day/{self.feed.name}/{self.run_id}"

    def __repr__(self) -> str:
        return f"<Replay {self.source} to {self.settings.topics.prefix}* speed={self._speed or 'max'}>"

    async def run(self) -> ReplayReport:
        """Send everything.

        Raises:
            CorruptDay: a day cannot be read to its end; the run has no end row then.
            ServiceUnavailable, PublishFailed: Kafka is away, or refuses.
            InstrumentConflict: an instrument is known with other exponents.
        """
        kafka = self.settings.kafka
        if self._own_topics:
            await ensure_topics(self.settings)
        producer = await start_producer(kafka)
        try:
            self._sender = FrameSender(self.settings, producer)
            async with InstrumentDirectory(self.settings, producer=producer) as directory:
                self._ids = np.array(await directory.define(self.feed.instruments), np.int32)
                self._partitions = np.array(
                    [partition_of(i.text, kafka.partitions) for i in self.feed.instruments], np.int64
                )
                self._packer = FramePacker(
                    directory.registry,
                    source=instrument_hash(self.source),
                    n_partitions=kafka.partitions,
                    frame_ticks=self.settings.publisher.frame_ticks,
                    dense=True,
                )
                seconds = await self._send_all()
        finally:
            await stop_client(producer)
        return await self._report(seconds)

    async def _send_all(self) -> float:
        await self._control(Action.CLEAR, 1, self.feed.first_ns)
        begun = time.monotonic()
        paused_s = 0.0
        pace = Pace(self._clock(), self.feed.first_ns, self._speed) if self._speed else None
        async with aclosing(_read_ahead(self._pieces())) as pieces:
            async for ticks, pause in pieces:
                await (self._send_now(ticks) if pace is None else self._send_paced(ticks, pace))
                if pause:
                    stopped, stopped_ns = time.monotonic(), self._clock()
                    await self._pause(int(ticks["seq"][-1]) - 1)
                    paused_s += time.monotonic() - stopped
                    if pace:
                        pace.shift(self._clock() - stopped_ns)
        await self._control(Action.DELETE, self.feed.rows + 2, self.feed.last_ns)
        await self._sender.drain(self.settings.publisher.delivery_timeout_s)
        return time.monotonic() - begun - paused_s

    async def _control(self, action: Action, position: int, ts_recv: int) -> None:
        """One control frame a partition; the first lists the partition's instruments, which start anew (rule 16)."""
        row = np.zeros(1, TICK)
        row["kind"], row["action"], row["flags"], row["instrument_id"] = Kind.CONTROL, action, Flag.LAST, -1
        row["ts_event"] = row["ts_recv"] = ts_recv
        row["seq"] = position
        for partition in range(self.settings.kafka.partitions):
            named = self._ids[self._partitions == partition] if action == Action.CLEAR else self._ids[:0]
            await self._sender.send([self._packer.pack_control(partition, row, named)])

    def _pieces(self) -> Iterator[tuple[TickArray, bool]]:
        """Whole events with the run's positions, cut at pauses; True where one is due after them."""
        for batch in self.feed.batches(BATCH if self._speed is None else PACED_BATCH):
            ticks = batch.copy()
            ticks["seq"] += np.uint64(1)
            while self._pauses and self._pauses[-1] < int(ticks["seq"][-1]):
                ends = np.flatnonzero(ticks["flags"] & np.uint8(Flag.LAST))
                cut = int(ends[np.searchsorted(ticks["seq"][ends], self._pauses[-1] + 1)]) + 1
                piece, ticks = ticks[:cut], ticks[cut:]
                while self._pauses and self._pauses[-1] < int(piece["seq"][-1]):
                    self._pauses.pop()
                yield piece, True
                if not len(ticks):
                    break
            if len(ticks):
                yield ticks, False

    async def _send_now(self, ticks: TickArray) -> None:
        ticks["instrument_id"] = self._ids[ticks["instrument_id"]]
        now = self._clock()
        # in a thread: the kernels let go of the GIL, and packing a batch takes longer than the loop may be held
        due = np.full(len(ticks), now)
        frames = await asyncio.to_thread(self._packer.pack, ticks, due_ns=due, sent_ns=now)
        for frame in frames:
            await self._sender.wait_for_room(frame.n_ticks)
            await self._sender.send([frame])
        self._tell(int(ticks["seq"][-1]) - 1)

    async def _send_paced(self, ticks: TickArray, pace: Pace) -> None:
        partitions = self._partitions[ticks["instrument_id"]]
        ticks["instrument_id"] = self._ids[ticks["instrument_id"]]
        window_ns = int(self.settings.publisher.frame_ms * _MS)
        sent = int(ticks["seq"][0]) - 2
        for group in groups(ticks, partitions, pace.due(ticks["ts_recv"]), window_ns):
            await self._send_group(group)
            sent += len(group.ticks)
            self._tell(sent)

    async def _send_group(self, group: Group) -> None:
        due = int(group.due_ns[-1])
        while (left_s := (due - self._clock()) / 1e9) > 0:  # noqa: ASYNC110  it is time that is waited for
            await asyncio.sleep(min(max(left_s, _SHORTEST_SLEEP_S), _REPORT_S))
        await self._sender.wait_for_room(len(group.ticks))
        now = self._clock()
        frames = self._packer.pack_partition(group.partition, group.ticks, due_ns=group.due_ns, sent_ns=now)
        await self._sender.send(frames)
        self._lateness.append(now - due)

    async def _pause(self, seq: int) -> None:
        await self._sender.drain(self.settings.publisher.delivery_timeout_s)
        if self._on_pause:
            await self._on_pause(Pause(seq, dict(self._sender.offsets)))

    def _tell(self, sent: int) -> None:
        now = time.monotonic()
        if self._progress and (now - self._reported_at > _REPORT_S or sent == self.feed.rows):
            self._reported_at = now
            self._progress(sent, self.feed.rows)

    async def _report(self, seconds: float) -> ReplayReport:
        stats, controls = self._sender.stats, 2 * self.settings.kafka.partitions
        rows = stats.ticks - controls
        p50, p99, highest = np.percentile(self._lateness, (50, 99, 100)).tolist() if self._lateness else (0, 0, 0)
        return ReplayReport(
            run_id=self.run_id,
            prefix=self.settings.topics.prefix,
            rows=rows,
            frames=stats.frames - controls,
            seconds=round(seconds, 6),
            rows_per_s=round(rows / seconds, 1),
            lateness_p50_ms=round(p50 / _MS, 3),
            lateness_p99_ms=round(p99 / _MS, 3),
            lateness_max_ms=round(highest / _MS, 3),
            digest=await asyncio.to_thread(self.feed.digest) if self._with_digest else None,
            offsets=dict(sorted(self._sender.offsets.items())),
        )


async def _read_ahead(pieces: Iterator[T]) -> AsyncGenerator[T, None]:
    """Iterate in a thread, one piece ahead of the caller."""
    ahead = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
    try:
        while (piece := await ahead) is not None:
            ahead = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
            yield piece
    finally:
        await asyncio.gather(ahead, return_exceptions=True)


async def replay_day(days: Day | Sequence[Day], settings: Settings, **options: Any) -> ReplayReport:
    """Replay one day or several; `options` are those of `Replay`. Raises: as `Replay.run`."""
    return await Replay([days] if isinstance(days, Day) else days, settings, **options).run()
