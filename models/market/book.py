"""The order books of one Kafka partition: events in, best prices and levels out, pages for two consumers of changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.market import book_page, levels
from models.market.book_page import BookHeader
from models.market.chunks import Chunks
from models.market.levels import AWAITS_SNAPSHOT, NEVER
from models.market.pending import PendingDiffs
from models.market.tick import TickArray

MAX_PENDING_ROWS = 65_536
_PENDING_SHIFT = 2  # a consumer's bit for pending rows stands two above its bit for levels
_N_FIELDS = 7  # with which both a header and a row of BOOK begin

Levels = NDArray[np.int64]  # [n, 2] price and size mantissas, best first


class Consumer(IntEnum):
    """Who wants to know what changed; each has its own bit."""

    BARRIER = 1
    PUBLISHER = 2


class Applied(NamedTuple):
    touched: NDArray[np.int32]  # slots with a row that counted, in order of their first
    gaps: NDArray[np.int32]  # those that began to await a snapshot in this call and still do


class BookChange(NamedTuple):
    slot: int
    chunks: list[int]  # chunk ids with changed levels
    dropped: list[int]  # chunk ids the book no longer has
    pending: bool  # whether the waiting diffs changed


class BookPool:
    """Books of `n_slots` instruments; a slot is an instrument's dense index in its partition.

    Chunk ids (u32) are unique in the pool; an id that a book dropped is handed out again only after
    `mark_clean(..., Consumer.BARRIER)` and then `release_dropped()`: otherwise a crash between two batches could show
    one book another book's levels. A level update costs O(log levels).

    Attributes:
        n_lost_events: diffs that were dropped because more than `max_pending_rows` rows of a book waited.
    """

    def __init__(self, n_slots: int = 64, *, max_pending_rows: int = MAX_PENDING_ROWS) -> None:
        self.n_lost_events = 0
        self._max_pending_rows = max_pending_rows
        self._chunks = Chunks(n_slots)
        self._pending: dict[int, PendingDiffs] = {}
        self._dropped: dict[Consumer, dict[int, list[int]]] = {consumer: {} for consumer in Consumer}
        self._flushed: list[int] = []  # dropped chunks the barrier has written about, not known durable

    def __repr__(self) -> str:
        _, live, awaiting = np.bincount(self._chunks.pool.books["state"], minlength=3).tolist()
        return f"<BookPool live={live} awaiting={awaiting} chunks={self.n_chunks} pending={len(self._pending)}>"

    @property
    def n_slots(self) -> int:
        return len(self._chunks.pool.books)

    @property
    def n_chunks(self) -> int:
        """Chunks in use."""
        return int(self._chunks.pool.lines[:, 1].sum())

    def ensure(self, n_slots: int) -> None:
        """Make room for slots `0 .. n_slots - 1`; grows by doubling."""
        if n_slots > self.n_slots:
            self._chunks.grow_slots(max(n_slots, 2 * self.n_slots))

    def apply(self, ticks: TickArray, slots: NDArray[np.int32], versions: NDArray[np.int64] | int) -> Applied:
        """Apply the book rows (kind 3) of frames in log order; rows of other kinds and of slot -1 are passed over.

        Rows of a version at or below the one their book had before this call are skipped, so a replay after a crash
        counts nothing twice; all rows of one version must therefore come in one call.

        Args:
            ticks: TICK[n], C-contiguous.
            slots: [n] slot of each row.
            versions: [n] rising, or one for all rows.

        Raises:
            IndexError: a slot is beyond `n_slots`; nothing was applied.
            ValueError: the arrays' lengths differ; nothing was applied.
        """
        at = np.atleast_1d(np.asarray(versions, np.int64))
        if len(slots) != len(ticks) or len(at) not in (1, len(ticks)):
            raise ValueError(f"{len(ticks)} ticks came with {len(slots)} slots and {len(at)} versions")
        if len(slots) and int(slots.max()) >= self.n_slots:
            raise IndexError(f"slot {slots.max()} is beyond the pool's {self.n_slots}; call ensure first")
        counts = self._chunks.pool.counts
        counts[levels.N_TOUCHED] = 0
        counts[levels.CALL] += 1
        self._run(ticks, np.ascontiguousarray(slots, np.int32), at, fresh=True)
        pool = self._chunks.pool
        touched = pool.touched[: counts[levels.N_TOUCHED]].copy()
        began = pool.books["gap"][touched] == 1
        pool.books["gap"][touched] = 0
        return Applied(touched, touched[began])

    def forget(self, slot: int, version: int) -> None:
        """Empty a book as of a version (a run starts anew)."""
        self._chunks.clear(slot)
        self._note_dropped()
        had_pending = self._pending.pop(slot, None) is not None
        pool = self._chunks.pool
        pool.books[slot] = NEVER
        pool.books[slot]["version"] = version
        pool.dirty[slot] |= levels.CHANGED | (levels.PENDING_CHANGED if had_pending else 0)

    def best(self, slot: int) -> tuple[int, int, int, int] | None:
        """Bid price, bid size, ask price, ask size; None while a side is empty."""
        bids, asks = self._chunks.ids(2 * slot), self._chunks.ids(2 * slot + 1)
        if not (len(bids) and len(asks)):
            return None
        return (*self._chunks.pool.levels[bids[0], 0].tolist(), *self._chunks.pool.levels[asks[0], 0].tolist())

    def levels(self, slot: int) -> tuple[Levels, Levels]:
        """Copies of all bids and all asks."""
        return self._chunks.side(2 * slot), self._chunks.side(2 * slot + 1)

    def version(self, slot: int) -> int:
        """Newest version whose rows a book has, or as of which it was emptied; -1 = none."""
        return int(self._chunks.pool.books["version"][slot])

    def header(self, slot: int) -> BookHeader:
        pool = self._chunks.pool
        bids, asks = self._chunks.ids(2 * slot), self._chunks.ids(2 * slot + 1)
        n_bid_levels, n_ask_levels = (int(pool.chunks["count"][ids].sum()) for ids in (bids, asks))
        fields = pool.books[slot].item()[:_N_FIELDS]
        return BookHeader._make((*fields, n_bid_levels, n_ask_levels, bids.astype("<u4"), asks.astype("<u4")))

    def header_bytes(self, slot: int) -> bytes:
        return book_page.encode_header(self.header(slot))

    def chunk_bytes(self, chunk: int) -> bytes:
        """Levels of a chunk, price i64 and size i64, best first: the same at rest and in Redis."""
        return self._chunks.levels_of(chunk).tobytes()

    def chunks_bytes(self, chunks: Sequence[int]) -> list[bytes]:
        """As `chunk_bytes` of each; many at once cost a fifth."""
        return self._chunks.dump(chunks)

    def pending_bytes(self, slot: int) -> bytes:
        """TICK rows of the diffs that wait for a snapshot."""
        return self._pending[slot].to_bytes() if slot in self._pending else b""

    def awaited(self, slot: int) -> tuple[int, int] | None:
        """What a snapshot request names: the book's last update id and the first id of the diffs that wait.

        The first id is 0 when none wait; the answer is None when the book awaits no snapshot.
        """
        book = self._chunks.pool.books[slot]
        if book["state"] != AWAITS_SNAPSHOT:
            return None
        first = self._pending[slot].first() if slot in self._pending else None
        return int(book["last_update_id"]), 0 if first is None else int(first["ref_id"]) + 1

    def dirty(self, consumer: Consumer) -> list[BookChange]:
        """What changed since each book's last `mark_clean` by this consumer, slots rising."""
        pool, dropped = self._chunks.pool, self._dropped[consumer]
        pending_bit = consumer << _PENDING_SHIFT
        slots = np.flatnonzero(pool.dirty & (consumer | pending_bit))
        if not len(slots):  # a fifth of a small round's cost otherwise
            return []
        changed = self._chunks.changed(slots, consumer)
        pending = (pool.dirty[slots] & pending_bit != 0).tolist()
        return [
            BookChange(slot, changed[k], self._chunks.without_used(slot, dropped.get(slot, ())), pending[k])
            for k, slot in enumerate(slots.tolist())
        ]

    def mark_clean(self, slots: int | Sequence[int], consumer: Consumer) -> None:
        """The consumer has the bytes of these books as they are now; call it before anything else is applied."""
        at = np.atleast_1d(np.asarray(slots, np.intp))
        self._chunks.mark(at, consumer, dirty=False)
        self._chunks.pool.dirty[at] &= 0xFF & ~(consumer | consumer << _PENDING_SHIFT)
        for slot in at.tolist():
            gone = self._dropped[consumer].pop(slot, ())
            if consumer is Consumer.BARRIER:
                self._flushed.extend(gone)

    def mark_dirty(self, consumer: Consumer) -> None:
        """Everything of every book that ever had a row is to be written for this consumer again."""
        pool = self._chunks.pool
        at = np.flatnonzero(pool.books["version"] != NEVER["version"])
        self._chunks.mark(at, consumer, dirty=True)
        pool.dirty[at] |= consumer | consumer << _PENDING_SHIFT

    def release_dropped(self) -> None:
        """All that `mark_clean(..., Consumer.BARRIER)` was called for is durable: ids dropped by then may be reused."""
        self._chunks.release(self._flushed)
        self._flushed = []

    def load(self, slot: int, header: bytes, chunks: Mapping[int, bytes], pending: bytes) -> None:
        """Restore an untouched slot from its pages, clean for both consumers.

        Args:
            chunks: bytes by chunk id; may hold other books' chunks too.

        Raises:
            CorruptPage: a page is missing or malformed, or pages do not fit each other; the slot stays untouched.
            ValueError: the slot already holds a book.
        """
        if self._chunks.pool.books[slot] != NEVER:
            raise ValueError(f"slot {slot} already holds a book")
        page = book_page.decode_header(header)
        bids = book_page.decode_side(page.bids, chunks, page.n_bid_levels, bid=True)
        asks = book_page.decode_side(page.asks, chunks, page.n_ask_levels, bid=False)
        rows = book_page.decode_pending(pending, page.n_pending)
        self._chunks.place(slot, page.bids.tolist(), bids, page.asks.tolist(), asks)
        self._chunks.pool.books[slot] = (*page[:_N_FIELDS], *NEVER.item()[_N_FIELDS:])
        if len(rows):
            self._pending[slot] = PendingDiffs(self._max_pending_rows)
            self._pending[slot].extend(rows)

    def _run(self, ticks: TickArray, slots: NDArray[np.int32], versions: NDArray[np.int64], *, fresh: bool) -> int:
        """Drive the kernel to its end and see to what it asks for on the way; returns the row where it ended."""
        rows = np.ascontiguousarray(ticks).view()
        rows.flags.writeable = False  # frames come read-only: one kind of array means one compilation
        cursor = np.zeros(4, np.int64)
        while True:
            why = levels.apply_rows(self._chunks.pool, rows, slots, versions, cursor, fresh)
            self._note_dropped()
            self._take_kept(rows)
            if why == levels.WANTS_ROOM:
                self._chunks.grow()
            elif why == levels.WANTS_PENDING:
                self._apply_pending(int(cursor[levels.SLOT]))
            elif why != levels.WANTS_KEPT_TAKEN:
                return int(cursor[levels.ROW])

    def _apply_pending(self, slot: int) -> None:
        """After a snapshot: apply the diffs that waited, up to a new gap."""
        waiting = self._pending[slot]
        rows = waiting.rows()
        n_done = self._run(rows, np.full(len(rows), slot, np.int32), np.zeros(1, np.int64), fresh=False)
        waiting.discard(n_done)
        if not waiting:
            del self._pending[slot]
        self._chunks.pool.books[slot]["n_pending"] = waiting.n_rows
        self._chunks.pool.dirty[slot] |= levels.PENDING_CHANGED

    def _take_kept(self, ticks: TickArray) -> None:
        pool = self._chunks.pool
        n = int(pool.counts[levels.N_KEPT])
        for slot, start, end in pool.kept[:n].tolist():
            if slot not in self._pending:
                self._pending[slot] = PendingDiffs(self._max_pending_rows)
            self.n_lost_events += self._pending[slot].append(ticks[start:end])
            pool.books[slot]["n_pending"] = self._pending[slot].n_rows
        pool.counts[levels.N_KEPT] = 0

    def _note_dropped(self) -> None:
        for slot, chunk in self._chunks.take_dropped():
            for dropped in self._dropped.values():
                dropped.setdefault(slot, []).append(chunk)
