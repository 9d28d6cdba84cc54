"""Packing ticks into frames: split by partition, cut at the ends of events, encode; a producer sends what comes out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.market.frame import encode
from models.market.instruments import partition_of
from models.market.registry import InstrumentRegistry
from models.market.tick import RAW, TICK, Action, Flag, Kind, TickArray

FRAME_TICKS = 4096


class PackedFrame(NamedTuple):
    """One record of `md.frames.v1`, its partition and how many ticks it holds."""

    partition: int
    data: bytes
    n_ticks: int


def frame_borders(flags: NDArray[np.uint8], limit: int) -> list[int]:
    """Where frames end (exclusive indices, rising; the last is `len(flags)`).

    A frame ends with an event and holds at most `limit` rows; an event longer than that is a frame of its own.

    Raises:
        ValueError: the last row does not end an event.
    """
    n = len(flags)
    if n and not flags[-1] & Flag.LAST:
        raise ValueError("the rows end inside an event: the last row of an event carries flag LAST")
    if n <= limit:
        return [n] if n else []
    ends = np.flatnonzero(flags & np.uint8(Flag.LAST)) + 1
    borders: list[int] = []
    start = 0
    while start < n:
        fits = int(np.searchsorted(ends, start + limit, side="right")) - 1
        next_event = int(np.searchsorted(ends, start, side="right"))
        start = int(ends[max(fits, next_event)])
        borders.append(start)
    return borders


class FramePacker:
    """Turns the rows of one source into frames.

    A publisher numbers rows densely and chains its frames (`dense`: each names the source's last row before it in the
    same partition); a gateway brings positions of another log, which have holes. About 100 ns a tick.

    Args:
        registry: what the rows' instrument ids mean; it may grow between calls.
        source: hash of the source's text (docs/wire.md).
        n_partitions: P of `md.frames.v1`.
        frame_ticks: most rows of a frame.
        dense: positions are 1..N without holes, so that a consumer can tell a lost frame.
    """

    def __init__(
        self,
        registry: InstrumentRegistry,
        *,
        source: int,
        n_partitions: int,
        frame_ticks: int = FRAME_TICKS,
        dense: bool = False,
    ) -> None:
        self.registry = registry
        self.source = source
        self.n_partitions = n_partitions
        self.frame_ticks = frame_ticks
        self.dense = dense
        self._last_position = [0] * n_partitions
        self._partitions = np.empty(0, np.int16)  # by instrument id
        self._local = np.empty(0, np.int32)  # scratch: instrument id -> index into one frame's list

    def pack(self, ticks: TickArray, *, due_ns: NDArray[np.int64] | None = None, sent_ns: int = 0) -> list[PackedFrame]:
        """Frames of whole events, in the order in which they have to be sent.

        Args:
            ticks: TICK, shape (n,), `seq` strictly rising, `instrument_id` an id of the registry.
            due_ns: shape (n,), when each row was due; a frame carries its last row's.
            sent_ns: when the frames are handed to Kafka, 0 = not known.

        Raises:
            ValueError: the rows end inside an event, or a row has no instrument (see `pack_partition`).
        """
        if not len(ticks):
            return []
        ids = ticks["instrument_id"]
        if int(ids.min()) < 0:
            raise ValueError("rows without an instrument have no partition of their own: use pack_partition")
        where = self._partitions_by_id()[ids]
        counts = np.bincount(where, minlength=self.n_partitions)
        # int16 keys: NumPy's stable sort of them is a radix sort, linear
        order = np.argsort(where, kind="stable")
        rows = np.ascontiguousarray(ticks).view(RAW)[order].view(TICK)
        due_ns = None if due_ns is None else due_ns[order]
        frames: list[PackedFrame] = []
        end = 0
        for partition in np.flatnonzero(counts).tolist():
            begin, end = end, end + int(counts[partition])
            due = None if due_ns is None else due_ns[begin:end]
            frames += self.pack_in_place(partition, rows[begin:end], due, sent_ns)
        return frames

    def pack_partition(
        self, partition: int, ticks: TickArray, *, due_ns: NDArray[np.int64] | None = None, sent_ns: int = 0
    ) -> list[PackedFrame]:
        """Like `pack`, for rows that all belong to `partition`; control rows (instrument_id -1) may be among them."""
        rows = np.ascontiguousarray(ticks).view(RAW).copy().view(TICK)
        return self.pack_in_place(partition, rows, due_ns, sent_ns)

    def pack_control(self, partition: int, row: TickArray, instrument_ids: NDArray[np.int32]) -> PackedFrame:
        """A control row (TICK, shape (1,)) as a frame that lists instruments (registry ids) which no row names."""
        data = encode(
            row,
            self.registry.refs[instrument_ids],
            source=self.source,
            prev_position=self._last_position[partition] if self.dense else 0,
            dense=self.dense,
        )
        self._last_position[partition] = int(row["seq"][-1])
        return PackedFrame(partition, data, 1)

    def pack_watermark(self, partition: int, position: int, watermark_ns: int) -> PackedFrame:
        """A control row that moves a quiet partition's watermark (rule 15); it counts as no tick."""
        row = np.zeros(1, TICK)
        row["kind"], row["action"], row["flags"], row["instrument_id"] = Kind.CONTROL, Action.UPDATE, Flag.LAST, -1
        row["seq"], row["ts_event"], row["ts_recv"] = position, watermark_ns, watermark_ns
        return self.pack_control(partition, row, np.empty(0, np.int32))._replace(n_ticks=0)

    def pack_again(self, partition: int, ticks: TickArray, *, due_ns: int = 0, sent_ns: int = 0) -> PackedFrame:
        """Rows that `pack_partition` packed already, as a frame that repeats them; nothing follows from it."""
        rows = np.ascontiguousarray(ticks).view(RAW).copy().view(TICK)
        data = encode(
            rows,
            self._localise(rows["instrument_id"]),
            source=self.source,
            prev_position=int(rows["seq"][0]) - 1 if self.dense else 0,
            dense=self.dense,
            due_ns=due_ns,
            sent_ns=sent_ns,
        )
        return PackedFrame(partition, data, len(rows))

    def pass_over(self, partition: int, position: int) -> None:
        """The next frame of the partition follows `position`, which this packer did not pack: rows that are lost, or
        that are in the log already."""
        self._last_position[partition] = position

    def pack_in_place(
        self, partition: int, rows: TickArray, due_ns: NDArray[np.int64] | int | None, sent_ns: int
    ) -> list[PackedFrame]:
        """As `pack_partition`, but the rows' instrument ids are overwritten; `due_ns` may be one for all rows."""
        frames: list[PackedFrame] = []
        begin = 0
        for end in frame_borders(rows["flags"], self.frame_ticks):
            frame = rows[begin:end]
            data = encode(
                frame,
                self._localise(frame["instrument_id"]),
                source=self.source,
                prev_position=self._last_position[partition] if self.dense else 0,
                dense=self.dense,
                due_ns=int(due_ns[end - 1]) if isinstance(due_ns, np.ndarray) else due_ns or 0,
                sent_ns=sent_ns,
            )
            self._last_position[partition] = int(frame["seq"][-1])
            frames.append(PackedFrame(partition, data, end - begin))
            begin = end
        return frames

    def _localise(self, ids: NDArray[np.int32]) -> NDArray[np.void]:
        """The frame's own list of instruments; `ids` index it afterwards instead of the registry."""
        refs = self.registry.refs
        if len(self._local) < len(refs):
            self._local = np.empty(2 * len(refs), np.int32)
        named = ids if int(ids.min()) >= 0 else ids[ids >= 0]
        # Whichever row of an instrument is written last stands for it: unique ids without a sort.
        place = np.arange(len(named), dtype=np.int32)
        self._local[named] = place
        used = named[self._local[named] == place]
        self._local[used] = np.arange(len(used), dtype=np.int32)
        ids[:] = self._local[ids] if named is ids else np.where(ids >= 0, self._local[ids], -1)
        mine: NDArray[np.void] = refs[used]
        return mine

    def _partitions_by_id(self) -> NDArray[np.int16]:
        known = len(self._partitions)
        texts = self.registry.texts
        if known < len(texts):
            new = [partition_of(text, self.n_partitions) for text in texts[known:]]
            self._partitions = np.concatenate([self._partitions, np.array(new, np.int16)])
        return self._partitions
