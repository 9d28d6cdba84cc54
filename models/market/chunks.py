"""The chunk pool's arrays and their owner: growth by doubling, free chunk ids, chunks put back in their place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptPage
from models.market import levels
from models.market.levels import CHUNK, CHUNK_LEVELS, DROPPED, FREE, NEVER, USED, LevelPool

_KEPT_EVENTS = 1024  # diffs the kernel lists before it lets Python copy them
_FIRST_CHUNKS = 64
_FIRST_DIRECTORY = 256


def _grown(array: NDArray[Any], n: int, n_used: int | None = None) -> NDArray[Any]:
    """A copy of length n; rows from n_used on stay untouched zero pages."""
    longer = np.zeros((n, *array.shape[1:]), array.dtype)
    longer[: len(array) if n_used is None else n_used] = array[:n_used]
    return longer


class Chunks:
    """Owner of the arrays; `pool` is replaced when they grow, so read it anew after each call.

    A chunk is free, used by one line, or dropped: not used but not to be handed out before `release`.
    """

    def __init__(self, n_slots: int) -> None:
        self._free_is_stale = False  # putting chunks back takes their ids out of the middle of the free ones
        self.pool = LevelPool(
            books=np.full(n_slots, NEVER),
            dirty=np.zeros(n_slots, np.uint8),
            lines=np.zeros((2 * n_slots, 3), np.int64),
            ids=np.zeros(_FIRST_DIRECTORY, np.int32),
            firsts=np.zeros(_FIRST_DIRECTORY, np.int64),
            levels=np.zeros((_FIRST_CHUNKS, CHUNK_LEVELS, 2), np.int64),
            chunks=np.zeros(_FIRST_CHUNKS, CHUNK),
            free=np.zeros(_FIRST_CHUNKS, np.int32),
            dropped=np.zeros(_FIRST_CHUNKS, np.int32),
            touched=np.zeros(n_slots, np.int32),
            kept=np.zeros((_KEPT_EVENTS, 3), np.int64),
            counts=np.zeros(7, np.int64),
        )

    def grow_slots(self, n: int) -> None:
        p = self.pool
        books = np.full(n, NEVER)
        books[: len(p.books)] = p.books
        lines = _grown(p.lines, 2 * n)
        self.pool = p._replace(books=books, dirty=_grown(p.dirty, n), lines=lines, touched=_grown(p.touched, n))

    def grow(self) -> None:
        """Double what the kernel ran out of: chunks if none is left, else the directory."""
        counts = self.pool.counts
        if self._free_is_stale:
            self._find_free()
        elif counts[levels.N_FREE] == 0 and counts[levels.N_CHUNKS] == len(self.pool.chunks):
            self._grow_chunks(2 * len(self.pool.chunks))
        else:
            self._grow_directory(2 * len(self.pool.ids))

    def ids(self, line: int) -> NDArray[np.int32]:
        """Chunk ids of one line, best first; a view."""
        start, length, _ = self.pool.lines[line].tolist()
        return self.pool.ids[start : start + length]

    def levels_of(self, chunk: int) -> NDArray[np.int64]:
        """Price and size of a chunk's levels; a view."""
        return self.pool.levels[chunk, : self.pool.chunks["count"][chunk]]

    def dump(self, ids: Sequence[int]) -> list[bytes]:
        """The levels of each chunk as bytes."""
        at = np.asarray(ids, np.intp)
        block, width = self.pool.levels[at].tobytes(), 16 * CHUNK_LEVELS
        counts = self.pool.chunks["count"][at].tolist()
        return [block[width * k : width * k + 16 * count] for k, count in enumerate(counts)]

    def side(self, line: int) -> NDArray[np.int64]:
        """All levels of one line, best first; a copy."""
        return np.concatenate([np.empty((0, 2), np.int64), *(self.levels_of(chunk) for chunk in self.ids(line))])

    def clear(self, slot: int) -> None:
        for line in (2 * slot, 2 * slot + 1):
            levels.clear_line(self.pool, line)

    def take_dropped(self) -> Iterable[tuple[int, int]]:
        """Slot and id of each chunk that was dropped since this was last called."""
        n = int(self.pool.counts[levels.N_DROPPED])
        if not n:
            return ()
        self.pool.counts[levels.N_DROPPED] = 0
        dropped = self.pool.dropped[:n]
        return zip(self.pool.chunks["slot"][dropped].tolist(), dropped.tolist(), strict=True)

    def release(self, ids: Sequence[int]) -> None:
        """Dropped chunks become free."""
        p, n_free = self.pool, int(self.pool.counts[levels.N_FREE])
        p.chunks["state"][ids] = FREE
        if self._free_is_stale or not ids:
            return
        p.free[n_free : n_free + len(ids)] = ids
        p.counts[levels.N_FREE] += len(ids)

    def changed(self, slots: NDArray[np.intp], bit: int) -> list[list[int]]:
        """For each of the rising slots the ids of its chunks that carry the bit."""
        p = self.pool
        beyond = len(p.books)
        pairs = np.full((int((p.lines[2 * slots, 1] + p.lines[2 * slots + 1, 1]).sum()), 2), beyond)
        levels.changed_chunks(p, slots, int(bit), pairs)
        borders = np.searchsorted(pairs[:, 0], np.append(slots, beyond)).tolist()
        ids = pairs[:, 1].tolist()
        return [ids[start:end] for start, end in pairwise(borders)]

    def mark(self, slots: NDArray[np.intp], bit: int, *, dirty: bool) -> None:
        levels.mark_chunks(self.pool, slots, int(bit), dirty)

    def without_used(self, slot: int, ids: Iterable[int]) -> list[int]:
        """Those of the ids that this slot does not use (again)."""
        entries = self.pool.chunks
        return [c for c in ids if not (entries[c]["state"] == USED and entries[c]["slot"] == slot)]

    def place(
        self,
        slot: int,
        bids: Sequence[int],
        bid_levels: Sequence[NDArray[np.int64]],
        asks: Sequence[int],
        ask_levels: Sequence[NDArray[np.int64]],
    ) -> None:
        """Put chunks back under the ids they had.

        Raises:
            CorruptPage: another book uses one of the ids, or it awaits its release; nothing was changed.
        """
        highest = max((*bids, *asks), default=-1)
        if highest >= len(self.pool.chunks):
            self._grow_chunks(1 << highest.bit_length())
        for chunk in (*bids, *asks):
            if self.pool.chunks[chunk]["state"] in (USED, DROPPED):
                raise CorruptPage(f"book chunk {chunk} belongs to two books")
        self.pool.counts[levels.N_CHUNKS] = max(int(self.pool.counts[levels.N_CHUNKS]), highest + 1)
        self.pool.counts[levels.N_FREE] = 0
        self._free_is_stale = True
        self._place_line(2 * slot, bids, bid_levels, flip=-1)
        self._place_line(2 * slot + 1, asks, ask_levels, flip=0)

    def _place_line(self, line: int, ids: Sequence[int], sides: Sequence[NDArray[np.int64]], *, flip: int) -> None:
        if not ids:
            return
        start, capacity = int(self.pool.counts[levels.DIRECTORY_TOP]), 1 << (len(ids) + 1).bit_length()
        while start + capacity > len(self.pool.ids):
            self._grow_directory(2 * len(self.pool.ids))
        p = self.pool
        p.counts[levels.DIRECTORY_TOP] = start + capacity
        p.lines[line] = start, len(ids), capacity
        for k, (chunk, rows) in enumerate(zip(ids, sides, strict=True)):
            p.ids[start + k] = chunk
            p.firsts[start + k] = rows[0, 0] ^ flip
            p.levels[chunk, : len(rows)] = rows
            p.chunks[chunk] = (line >> 1, len(rows), 0, USED)

    def _find_free(self) -> None:
        p, n = self.pool, int(self.pool.counts[levels.N_CHUNKS])
        free = np.flatnonzero(p.chunks["state"][:n] == FREE)
        p.free[: len(free)] = free[::-1]
        p.counts[levels.N_FREE] = len(free)
        self._free_is_stale = False

    def _grow_chunks(self, n: int) -> None:
        p, n_used = self.pool, int(self.pool.counts[levels.N_CHUNKS])
        self.pool = p._replace(
            levels=_grown(p.levels, n, n_used),
            chunks=_grown(p.chunks, n, n_used),
            free=_grown(p.free, n),
            dropped=_grown(p.dropped, n),
        )

    def _grow_directory(self, n: int) -> None:
        p, n_used = self.pool, int(self.pool.counts[levels.DIRECTORY_TOP])
        self.pool = p._replace(ids=_grown(p.ids, n, n_used), firsts=_grown(p.firsts, n, n_used))
