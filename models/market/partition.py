"""The market state of one Kafka partition: frames in, changed rows and books out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptFrame, TickRefused
from models.market import facets
from models.market.conflate import BookRows
from models.market.frame import HEADER, FrameHeader, decode_header, decode_words
from models.market.listing import unpack_listing
from models.market.pages import SourcePosition
from models.market.partition_state import PartitionState
from models.market.tick import TICK, Action, Kind, TickArray
from models.windows.frame import MAX_WINDOWS, encode_windows
from models.windows.tumbling import AHEAD_NS
from models.windows.window import END, NO_WATERMARK


class IncomingFrame(NamedTuple):
    """A record of `md.frames.v1` whose header is read; its rows are still packed."""

    version: int
    append_ms: int
    header: FrameHeader
    data: bytes


class PositionGap(NamedTuple):
    """A dense source jumped: rows between the two positions never reached this partition."""

    source: int
    last: int
    claimed: int


class Applied(NamedTuple):
    n_rows: int
    gaps: list[PositionGap]
    bad_books: list[int]  # slots that began to await a snapshot
    refused: list[tuple[IncomingFrame, TickRefused]]
    late: list[tuple[IncomingFrame, TickArray]]  # trades that no window took, by frame
    n_frames: int
    n_repeated: int  # rows dropped, because their source's position had come already (rule 2)
    n_closed: int  # windows


def open_frame(version: int, append_ms: int, data: bytes) -> IncomingFrame:
    """Raises: CorruptFrame when the bytes are no frame."""
    return IncomingFrame(version, append_ms, decode_header(data), data)


def refs_of(*frames: IncomingFrame) -> NDArray[np.void]:
    """The instruments that frames list (INSTRUMENT_REF), one frame behind the other."""
    return np.concatenate([unpack_listing(f.data, HEADER.size, f.header.n_instruments) for f in frames])


class Listed(NamedTuple):
    """The instruments that some frames list, one frame behind the other.

    Attributes:
        frames: those frames.
        slots: shape (n,), -1 = it has no slot yet.
        n_missing: how many have no slot.
        n_differing: of how many the frame's exponents are not those of the definition.
    """

    frames: Sequence[IncomingFrame]
    slots: NDArray[np.int32]
    n_missing: int
    n_differing: int

    def missing(self) -> list[int]:
        """Hashes of those without a slot, rising."""
        return np.unique(refs_of(*self.frames)["hash"][self.slots < 0]).tolist() if self.n_missing else []


class MarketPartition(PartitionState):
    """One partition of `md.frames.v1`: its state, and how frames change it."""

    def __init__(self) -> None:
        super().__init__()
        self._book_rows = BookRows()
        self._bad_books: set[int] = set()
        self._n_repeated = 0
        self._words = np.empty((8192, 8), np.int64)  # the ticks of one frame
        self._n_bars = 0  # windows closed in this round that are rows already

    def listed(self, frames: Sequence[IncomingFrame]) -> Listed:
        """The instruments of frames, with their slots as they are now."""
        lists = [frame.data[HEADER.size : frame.header.columns_at] for frame in frames]
        counts = [frame.header.n_instruments for frame in frames]
        return Listed(frames, *self.slots.resolve(b"".join(lists), counts))  # array operations a round, not a frame

    def apply(self, frames: Sequence[IncomingFrame], listed: Listed | None = None, *, live: bool = False) -> Applied:
        """Apply frames of rising versions in one pass; a frame that cannot be applied whole is refused whole.

        Args:
            listed: what `listed` says of these frames, if it is known already.
            live: rows that claim to be received after they were appended do not move the watermark (rule 15).
        """
        self._bad_books.clear()
        self.windows.begin()
        self._n_bars = 0
        self._n_repeated = 0
        n_rows = 0
        late: list[tuple[IncomingFrame, TickArray]] = []
        gaps: list[PositionGap] = []
        refused: list[tuple[IncomingFrame, TickRefused]] = []
        listed = listed or self.listed(frames)
        slots, end = listed.slots, 0
        usable = self._usable(listed) if listed.n_missing or listed.n_differing else None
        for frame in frames:
            start, end = end, end + frame.header.n_instruments
            if frame.version <= max(self.held, self.applied):
                continue
            try:
                if usable is not None and not usable[start:end].all():
                    raise self._why_unusable(slots[start:end], usable[start:end])
                n_rows += self._apply_frame(frame, slots[start:end], gaps, late, live=live)
            except TickRefused as exc:
                refused.append((frame, exc))
            except CorruptFrame as exc:
                refused.append((frame, TickRefused("bad_frame", str(exc))))
            self.applied = frame.version
        self._apply_books()
        self._close_windows(self.applied)
        return Applied(
            n_rows, gaps, sorted(self._bad_books), refused, late, len(frames), self._n_repeated, self._n_bars
        )

    def _close_windows(self, version: int) -> None:
        """Close what the watermark has passed; what closed since the last call becomes rows."""
        self.windows.close(version)
        closed = self.windows.closed()
        self.rows.put_bars(closed[self._n_bars :], version)
        self._n_bars = len(closed)

    def closed_windows(self) -> list[bytes]:
        """Records of the windows that the last `apply` closed."""
        closed = self.windows.closed()
        return [
            encode_windows(
                closed[at : at + MAX_WINDOWS], self.slots.refs,
                version=self.applied, watermark_ns=self.windows.watermark_ns,
            )
            for at in range(0, len(closed), MAX_WINDOWS)
        ]  # fmt: skip

    def _apply_books(self) -> None:
        """Give the books the rows that were set aside for them."""
        if n := self._book_rows.n:
            ticks = self._book_rows.words[:n].view(TICK).reshape(n)
            done = self.books.apply(ticks, self._book_rows.slots[:n], self._book_rows.versions[:n])
            self._bad_books.update(done.gaps.tolist())
            self._book_rows.n = 0

    def _usable(self, listed: Listed) -> NDArray[np.bool_]:
        """Whether each has a slot, and the frame's exponents are its."""
        refs, slots = refs_of(*listed.frames), listed.slots
        same_price = self.slots.price_exp[slots] == refs["price_exp"]
        usable: NDArray[np.bool_] = (slots >= 0) & same_price & (self.slots.size_exp[slots] == refs["size_exp"])
        return usable

    def _why_unusable(self, slots: NDArray[np.int32], usable: NDArray[np.bool_]) -> TickRefused:
        if slots.min() < 0:
            return TickRefused("unknown_instrument", "nobody defined one of its instruments in md.instruments.v1")
        text = self.slots.instruments[slots[~usable][0]].text
        return TickRefused("bad_frame", f"its exponents of {text} differ from the definition's")

    def _apply_frame(
        self,
        frame: IncomingFrame,
        slot_of: NDArray[np.int32],
        gaps: list[PositionGap],
        late: list[tuple[IncomingFrame, TickArray]],
        *,
        live: bool,
    ) -> int:
        header = frame.header
        source = self.sources.get(header.source)
        last = source.position if source else 0
        if header.last_position <= last:
            self._n_repeated += header.n_ticks
            return 0
        if len(self._words) < header.n_ticks:
            self._words = np.empty((2 * header.n_ticks, 8), np.int64)
        words = self._words[: header.n_ticks]
        decode_words(frame.data, header, words)
        if int(words[0, 7]) & 0xFFFFFFFF == 0xFFFFFFFF:
            self._control(words.view(TICK).reshape(-1), slot_of, frame.version)
        if header.first_position <= last:
            self._n_repeated += int(np.searchsorted(words[:, 2].view(np.uint64), np.uint64(last), "right"))
        if header.dense and header.prev_position > last:
            gaps.append(PositionGap(header.source, last, header.prev_position))
        counted = self.rows.apply(words, slot_of, version=frame.version, after=last, books=self._book_rows)
        untaken = self.windows.apply(
            words, slot_of, version=frame.version, after=last,
            latest_ns=frame.append_ms * 1_000_000 + AHEAD_NS if live else END,
        )  # fmt: skip
        if len(untaken):
            late.append((frame, words[untaken].view(TICK).reshape(-1)))
        self.sources[header.source] = SourcePosition(header.last_position, frame.append_ms)
        return counted

    def _control(self, ticks: NDArray[np.void], slot_of: NDArray[np.int32], version: int) -> None:
        """A run starts: forget what earlier runs left of the instruments that the frame lists (rule 16)."""
        if ticks[0]["kind"] != Kind.CONTROL or ticks[0]["action"] != Action.CLEAR:
            return
        if len(ticks) > 1:
            raise TickRefused("bad_frame", "the row that starts a run does not travel alone")
        self._apply_books()  # rows of frames before this one are forgotten too
        self._close_windows(version)  # while they are still those of the run before
        self.windows.watermark_ns = NO_WATERMARK
        for slot in slot_of.tolist():
            self.rows.clear_slot(slot, version)
            self.windows.clear_slot(slot, version)
            # None to forget at -1; at or above this version its page was written after this frame and holds newer rows.
            if -1 < self.books.version(slot) < version:
                self.rows.touch(slot, facets.BOOK)
                self.books.forget(slot, version)

    def advance(self, version: int) -> None:
        """Count a record as applied that held nothing applicable."""
        self.applied = max(self.applied, version)
