"""The end of a replay that leads to Kafka: rows become frames of their partitions, lost, repeated or sent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.days.received import Arrivals, Fate
from models.market.instruments import partition_of
from models.market.registry import InstrumentRegistry
from models.market.tick import RAW, TICK, Action, Flag, Kind, TickArray
from streams.clock import Clock
from streams.days.feed import DayFeed
from streams.days.held import Held
from streams.days.pacing import Group
from streams.days.report import Sent
from streams.kafka.frame_sender import FrameSender
from streams.kafka.frames import FramePacker, PackedFrame
from streams.settings import Settings


class RunOutlet:
    """Packs and sends a run's rows.

    Args:
        settings: of the run.
        sender: to the run's topic.
        registry: of instruments on the wire.
        ids: by the feed's instrument id, the registry's.
        source: hash of the run's source.
        held: partition -> what the log has of the run already, which is not sent again.
        faulty: control rows may be among the rows.

    Attributes:
        partition_by_id: int16, by the feed's instrument id.
    """

    def __init__(
        self,
        settings: Settings,
        sender: FrameSender,
        registry: InstrumentRegistry,
        *,
        feed: DayFeed,
        ids: NDArray[np.int32],
        source: int,
        held: Mapping[int, Held],
        faulty: bool,
    ) -> None:
        kafka = settings.kafka
        self.sent = Sent()
        self.sender = sender
        self._faulty = faulty
        self._packer = FramePacker(
            registry,
            source=source,
            n_partitions=kafka.partitions,
            frame_ticks=settings.publisher.frame_ticks,
            dense=True,
        )
        self._ids = np.append(ids, np.int32(-1))
        self._own = ids
        self.partition_by_id = np.array([partition_of(i.text, kafka.partitions) for i in feed.instruments], np.int16)
        self._n_partitions = kafka.partitions
        self._held = np.zeros(kafka.partitions, np.uint64)
        self._repeated = np.zeros(kafka.partitions, np.uint64)
        self._gap = [False] * kafka.partitions  # rows were lost and nothing was packed since
        for partition, (position, repeated) in held.items():
            self._held[partition], self._repeated[partition] = position, repeated
            self._packer.pass_over(partition, position)
        self._resumed = bool(self._held.any())

    def unsent(self, rows: Arrivals) -> NDArray[np.bool_]:
        """Which rows the log does not have yet, or not as often as they are to come, shape (n,)."""
        if not self._resumed:
            return np.ones(len(rows.ticks), np.bool_)
        where = self.partitions(rows)
        missing: NDArray[np.bool_] = rows.ticks["seq"] > self._held[where]
        if rows.fate is not None:
            missing |= (rows.fate == Fate.TWICE) & (rows.ticks["seq"] > self._repeated[where])
        return missing

    @property
    def held_everywhere(self) -> int:
        """Position up to which every partition had the run when it went on; 0 = it begins here."""
        return int(self._held.min())

    def partitions(self, rows: Arrivals) -> NDArray[np.int16]:
        """Of each row, shape (n,)."""
        found: NDArray[np.int16] = self.partition_by_id[rows.owner]
        return found

    async def control(self, action: Action, position: int, ts_recv: int) -> None:
        """One control frame a partition; one that starts a run lists the partition's instruments (rule 16)."""
        row = np.zeros(1, TICK)
        row["kind"], row["action"], row["flags"], row["instrument_id"] = Kind.CONTROL, action, Flag.LAST, -1
        row["ts_event"] = row["ts_recv"] = ts_recv
        row["seq"] = position
        for partition in range(self._n_partitions):
            if position > self._held[partition]:
                named = self._own[self.partition_by_id == partition] if action == Action.CLEAR else self._own[:0]
                self._note_gap(partition)
                await self.sender.send([self._packer.pack_control(partition, row, named)])

    async def send_batch(self, rows: Arrivals, now_ns: int) -> None:
        """Send rows that are due now, whatever their partition.

        Raises:
            PublishFailed: Kafka does not take them.
        """
        # in a thread: the kernels let go of the GIL, and packing a batch takes longer than the loop may be held
        for frame in await asyncio.to_thread(self._pack_batch, rows, now_ns):
            await self.sender.wait_for_room(frame.n_ticks)
            await self.sender.send([frame])

    async def send_group(self, group: Group, clock: Clock) -> int:
        """Send rows of one partition, due or late; how late they were handed to Kafka, ns. Raises: as `send_batch`."""
        await self.sender.wait_for_room(len(group.ticks))
        now_ns = clock()
        ticks = group.ticks.copy()
        ticks["instrument_id"] = self._ids[ticks["instrument_id"]]
        frames = self._pack(group.partition, ticks, group.fate, group.due_ns, now_ns)
        await self.sender.send(frames)
        late_ns = now_ns - int(group.due_ns[-1])
        if frames:
            self.sent.lateness_ns.append(late_ns)
        return late_ns

    def _pack_batch(self, rows: Arrivals, now_ns: int) -> list[PackedFrame]:
        where = self.partitions(rows)
        # int16 keys: NumPy's stable sort of them is a radix sort, linear
        order = np.argsort(where, kind="stable")
        ticks = np.ascontiguousarray(rows.ticks).view(RAW)[order].view(TICK)
        ticks["instrument_id"] = self._ids[ticks["instrument_id"]]
        fate = None if rows.fate is None else rows.fate[order]
        ends = np.cumsum(np.bincount(where, minlength=self._n_partitions)).tolist()
        frames: list[PackedFrame] = []
        for partition, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if begin < end:
                of = None if fate is None else fate[begin:end]
                frames += self._pack(partition, ticks[begin:end], of, now_ns, now_ns)
        return frames

    def _pack(
        self,
        partition: int,
        ticks: TickArray,
        fate: NDArray[np.uint8] | None,
        due_ns: NDArray[np.int64] | int,
        sent_ns: int,
    ) -> list[PackedFrame]:
        """Frames of a partition's rows, which may be overwritten."""
        frames: list[PackedFrame] = []
        if self._resumed and (at := int(np.searchsorted(ticks["seq"], self._held[partition], "right"))):
            if fate is not None:
                frames += self._pack_missed(partition, ticks[:at], fate[:at], due_ns, sent_ns)
            ticks, fate = ticks[at:], None if fate is None else fate[at:]
            due_ns = due_ns if isinstance(due_ns, int) else due_ns[at:]
        if not len(ticks):
            return frames
        if fate is None or not fate.any():
            return frames + self._pack_sent(partition, ticks, due_ns, sent_ns)
        borders = [0, *(np.flatnonzero(np.diff(fate)) + 1).tolist(), len(ticks)]
        for begin, end in pairwise(borders):
            part = ticks[begin:end]
            if fate[begin] == Fate.LOST:
                self._packer.pass_over(partition, int(part["seq"][-1]))
                self._gap[partition] = True
                self.sent.rows_lost += end - begin
                continue
            due = due_ns if isinstance(due_ns, int) else due_ns[begin:end]
            again = part.copy() if fate[begin] == Fate.TWICE else None
            frames += self._pack_sent(partition, part, due, sent_ns)
            if again is not None:
                last = due if isinstance(due, int) else int(due[-1])
                frames.append(self._pack_again(partition, again, last, sent_ns))
        return frames

    def _pack_missed(
        self,
        partition: int,
        ticks: TickArray,
        fate: NDArray[np.uint8],
        due_ns: NDArray[np.int64] | int,
        sent_ns: int,
    ) -> list[PackedFrame]:
        """Repetitions of rows that are in the log, but whose repetition a crash cut."""
        missed = np.flatnonzero((fate == Fate.TWICE) & (ticks["seq"] > self._repeated[partition]))
        if not len(missed):
            return []
        due = due_ns if isinstance(due_ns, int) else int(due_ns[missed[-1]])
        return [self._pack_again(partition, ticks[missed], due, sent_ns)]

    def _pack_again(self, partition: int, ticks: TickArray, due_ns: int, sent_ns: int) -> PackedFrame:
        self.sent.rows_repeated += len(ticks)
        self.sent.frames += 1
        return self._packer.pack_again(partition, ticks, due_ns=due_ns, sent_ns=sent_ns)

    def _pack_sent(
        self, partition: int, ticks: TickArray, due_ns: NDArray[np.int64] | int, sent_ns: int
    ) -> list[PackedFrame]:
        self._note_gap(partition)
        self.sent.rows += len(ticks) - (int((ticks["kind"] == Kind.CONTROL).sum()) if self._faulty else 0)
        frames = self._packer.pack_in_place(partition, ticks, due_ns, sent_ns)
        self.sent.frames += len(frames)
        return frames

    def _note_gap(self, partition: int) -> None:
        self.sent.gaps += self._gap[partition]
        self._gap[partition] = False
