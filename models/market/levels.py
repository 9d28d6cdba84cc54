"""Compiled kernels of the order books: levels in chunks of 64, a directory of chunks per side, events by update id.

A book side is a B-tree of two storeys: an ordered directory (chunk id and price of the chunk's first level) over chunks
of at most 64 levels `(price, size)`, best first. One level update costs two binary searches and a short move. Kernels
never allocate: where room is short they return with a cursor, the owner doubles the arrays and calls again.

All kernels stand in this one file because numba's cache on disk looks only at the file of the function that is called:
a callee in another file could change unseen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

CHUNK_LEVELS = 64
_HALF = CHUNK_LEVELS // 2
_SPARSE = CHUNK_LEVELS // 4  # a chunk this thin is joined with a neighbour when both fit into half a chunk
_FIRST_BLOCK = 4  # chunk ids a side's first directory block holds

EMPTY, LIVE, AWAITS_SNAPSHOT = 0, 1, 2  # states of a book
FREE, USED, DROPPED = 0, 1, 2  # states of a chunk; a dropped one is not handed out before its owner says so
CHANGED, PENDING_CHANGED = 0b0011, 0b1100  # dirty bits of a slot, one for each of two consumers

BOOK = np.dtype(  # the first seven fields are those of a header page, in its order
    [
        ("version", "<i8"),
        ("ts_event", "<i8"),
        ("ts_recv", "<i8"),
        ("last_update_id", "<i8"),
        ("n_rows", "<i8"),
        ("state", "<i8"),
        ("n_pending", "<i8"),  # rows that wait for a snapshot
        ("gap", "<i8"),  # 1 when the book began to await a snapshot during this call
        ("covered", "<i8"),  # version before the call that is numbered `call`
        ("call", "<i8"),
    ]
)
NEVER = np.zeros((), BOOK)  # a book that never had a row: version 0 is a real one, the log's first offset
NEVER["version"] = -1
CHUNK = np.dtype([("slot", "<i4"), ("count", "<i4"), ("dirty", "<i4"), ("state", "<i4")])


class LevelPool(NamedTuple):
    """Flat arrays of all books of a partition; a line is `2 * slot + side - 1` (bids even, asks odd)."""

    books: NDArray[np.void]  # BOOK[slots]
    dirty: NDArray[np.uint8]  # [slots] bits CHANGED and PENDING_CHANGED
    lines: NDArray[np.int64]  # [2 * slots, 3] start, length, capacity of a side's block in the directory
    ids: NDArray[np.int32]  # directory: chunk id
    firsts: NDArray[np.int64]  # directory: sort key of the chunk's first level
    levels: NDArray[np.int64]  # [chunks, 64, 2] price, size: the bytes of a chunk as they rest and travel
    chunks: NDArray[np.void]  # CHUNK[chunks]
    free: NDArray[np.int32]  # stack of free chunk ids
    dropped: NDArray[np.int32]  # chunks dropped since the owner last looked
    touched: NDArray[np.int32]  # slots touched in this call
    kept: NDArray[np.int64]  # [m, 3] slot, first row, end row of diffs to keep as pending
    counts: NDArray[np.int64]  # see below


# Positions in `counts`.
N_CHUNKS, N_FREE, N_DROPPED, DIRECTORY_TOP, N_TOUCHED, N_KEPT, CALL = range(7)
# Positions in a cursor: where to go on, in which mode, where the open event began, which slot wants its pending rows.
ROW, MODE, START, SLOT = range(4)
# Modes of an event.
_NONE, _SKIP, _STALE, _KEEP, _DIFF, _SNAPSHOT = range(6)
# What a kernel came back for.
DONE, WANTS_ROOM, WANTS_KEPT_TAKEN, WANTS_PENDING, FOUND_GAP = range(5)

_KIND_BOOK, _ACTION_DELETE, _ACTION_CLEAR, _FLAG_LAST = 3, 3, 4, 128  # of models.market.tick, for the same reason

# No reference counts (`_nrt`): counting a dozen arrays at each inner call doubled the cost of a level update, and a
# kernel that would allocate does not compile. What every row passes through is inlined: one third of the rest.
_kernel = njit(cache=True, nogil=True, _nrt=False)
_inlined = njit(cache=True, nogil=True, _nrt=False, inline="always")


@_kernel
def _has_room(pool: LevelPool, line: int) -> bool:
    """Whether one more chunk can be had and named in this line's directory."""
    counts, capacity = pool.counts, pool.lines[line, 2]
    if counts[N_FREE] == 0 and counts[N_CHUNKS] == len(pool.chunks):
        return False
    if pool.lines[line, 1] < capacity:
        return True
    return bool(counts[DIRECTORY_TOP] + max(_FIRST_BLOCK, 2 * capacity) <= len(pool.ids))


@_kernel
def _add_chunk(pool: LevelPool, line: int, place: int) -> int:
    """A free chunk, named at `place` of the directory (its first key is for the caller to set)."""
    counts, ids, firsts = pool.counts, pool.ids, pool.firsts
    if counts[N_FREE]:
        counts[N_FREE] -= 1
        chunk = int(pool.free[counts[N_FREE]])
    else:
        chunk = int(counts[N_CHUNKS])
        counts[N_CHUNKS] += 1
    start, length, capacity = pool.lines[line]
    if length == capacity:  # blocks left behind are never reused: together they are smaller than the live ones
        fresh = counts[DIRECTORY_TOP]
        capacity = max(_FIRST_BLOCK, 2 * capacity)
        counts[DIRECTORY_TOP] += capacity
        for k in range(length):
            ids[fresh + k] = ids[start + k]
            firsts[fresh + k] = firsts[start + k]
        start = fresh
        pool.lines[line, 0] = start
        pool.lines[line, 2] = capacity
    for k in range(start + length, start + place, -1):
        ids[k] = ids[k - 1]
        firsts[k] = firsts[k - 1]
    ids[start + place] = chunk
    pool.lines[line, 1] = length + 1
    entry = pool.chunks[chunk]
    entry.slot = line >> 1
    entry.count = 0
    entry.dirty = CHANGED
    entry.state = USED
    return chunk


@_kernel
def _drop_chunk(pool: LevelPool, line: int, place: int) -> None:
    start, length = pool.lines[line, 0], pool.lines[line, 1]
    chunk = pool.ids[start + place]
    pool.chunks[chunk].state = DROPPED
    pool.dropped[pool.counts[N_DROPPED]] = chunk
    pool.counts[N_DROPPED] += 1
    for k in range(start + place, start + length - 1):
        pool.ids[k] = pool.ids[k + 1]
        pool.firsts[k] = pool.firsts[k + 1]
    pool.lines[line, 1] = length - 1


@_kernel
def clear_line(pool: LevelPool, line: int) -> None:
    """Drop every chunk of one side."""
    for place in range(pool.lines[line, 1] - 1, -1, -1):
        _drop_chunk(pool, line, place)


@_kernel
def _split(pool: LevelPool, line: int, place: int, flip: int) -> None:
    """Move the worse half of a full chunk into a new one behind it; the caller has checked the room."""
    left = pool.ids[pool.lines[line, 0] + place]
    right = _add_chunk(pool, line, place + 1)
    for k in range(_HALF):
        pool.levels[right, k, 0] = pool.levels[left, _HALF + k, 0]
        pool.levels[right, k, 1] = pool.levels[left, _HALF + k, 1]
    pool.firsts[pool.lines[line, 0] + place + 1] = pool.levels[right, 0, 0] ^ flip
    pool.chunks[right].count = _HALF
    pool.chunks[left].count = _HALF
    pool.chunks[left].dirty = CHANGED


@_kernel
def _join(pool: LevelPool, line: int, place: int) -> bool:
    """Move the chunk behind `place` into it if both fit into half a chunk; True when it did."""
    start, length = pool.lines[line, 0], pool.lines[line, 1]
    if place < 0 or place + 1 >= length:
        return False
    left, right = pool.ids[start + place], pool.ids[start + place + 1]
    n_left, n_right = pool.chunks[left].count, pool.chunks[right].count
    if n_left + n_right > _HALF:
        return False
    for k in range(n_right):
        pool.levels[left, n_left + k, 0] = pool.levels[right, k, 0]
        pool.levels[left, n_left + k, 1] = pool.levels[right, k, 1]
    pool.chunks[left].count = n_left + n_right
    pool.chunks[left].dirty = CHANGED
    _drop_chunk(pool, line, place + 1)
    return True


@_inlined
def _delete(pool: LevelPool, line: int, place: int, seat: int, flip: int) -> None:
    start = pool.lines[line, 0]
    chunk = pool.ids[start + place]
    count = pool.chunks[chunk].count - 1
    if count == 0:
        _drop_chunk(pool, line, place)
        return
    for k in range(seat, count):
        pool.levels[chunk, k, 0] = pool.levels[chunk, k + 1, 0]
        pool.levels[chunk, k, 1] = pool.levels[chunk, k + 1, 1]
    pool.chunks[chunk].count = count
    pool.chunks[chunk].dirty = CHANGED
    if seat == 0:
        pool.firsts[start + place] = pool.levels[chunk, 0, 0] ^ flip
    if count <= _SPARSE and not _join(pool, line, place - 1):
        _join(pool, line, place)


@_inlined
def _insert(pool: LevelPool, line: int, place: int, seat: int, flip: int, price: int, size: int) -> None:
    start = pool.lines[line, 0]
    chunk = pool.ids[start + place]
    count = pool.chunks[chunk].count
    for k in range(count, seat, -1):
        pool.levels[chunk, k, 0] = pool.levels[chunk, k - 1, 0]
        pool.levels[chunk, k, 1] = pool.levels[chunk, k - 1, 1]
    pool.levels[chunk, seat, 0] = price
    pool.levels[chunk, seat, 1] = size
    pool.chunks[chunk].count = count + 1
    pool.chunks[chunk].dirty = CHANGED
    if seat == 0:
        pool.firsts[start + place] = price ^ flip


@_inlined
def _set_level(pool: LevelPool, line: int, price: int, size: int) -> bool:
    """Insert, overwrite or (size 0) delete one level; False, with nothing changed, when room is short.

    Prices of bids are compared as `~price`: it turns their order around and, unlike a minus, never overflows.
    """
    flip = (line & 1) - 1
    key = price ^ flip
    start, length = pool.lines[line, 0], pool.lines[line, 1]
    if length == 0:
        if size == 0:
            return True
        if not _has_room(pool, line):
            return False
        _add_chunk(pool, line, 0)
        _insert(pool, line, 0, 0, flip, price, size)
        return True
    low, high = 0, length
    while low < high:  # last chunk whose first level is not behind the price
        middle = (low + high) >> 1
        if pool.firsts[start + middle] <= key:
            low = middle + 1
        else:
            high = middle
    place = max(low - 1, 0)
    chunk = pool.ids[start + place]
    count = pool.chunks[chunk].count
    seat, high = 0, count
    while seat < high:  # first level that is not better than the price
        middle = (seat + high) >> 1
        if pool.levels[chunk, middle, 0] ^ flip < key:
            seat = middle + 1
        else:
            high = middle
    if seat < count and pool.levels[chunk, seat, 0] == price:
        if size == 0:
            _delete(pool, line, place, seat, flip)
        elif pool.levels[chunk, seat, 1] != size:
            pool.levels[chunk, seat, 1] = size
            pool.chunks[chunk].dirty = CHANGED
        return True
    if size == 0:
        return True
    if count == CHUNK_LEVELS:
        if not _has_room(pool, line):
            return False
        _split(pool, line, place, flip)
        if seat > _HALF:
            place, seat = place + 1, seat - _HALF
    _insert(pool, line, place, seat, flip, price, size)
    return True


@_inlined
def _judge(book: Any, row: Any) -> int:
    """Mode of the event that this row begins, by the update ids (docs/wire.md)."""
    if row.action == _ACTION_CLEAR:
        return _SNAPSHOT
    if book.state == AWAITS_SNAPSHOT:
        return _KEEP
    if row.venue_seq == 0:
        return _DIFF
    if book.state == EMPTY:
        return _KEEP
    if row.venue_seq <= book.last_update_id:
        return _STALE
    return _KEEP if row.ref_id > book.last_update_id else _DIFF


@_inlined
def _put(pool: LevelPool, slot: int, row: Any) -> bool:
    if row.action == _ACTION_CLEAR:
        clear_line(pool, 2 * slot)
        clear_line(pool, 2 * slot + 1)
        return True
    if row.side not in (1, 2):
        return True
    return bool(_set_level(pool, 2 * slot + row.side - 1, row.price, 0 if row.action == _ACTION_DELETE else row.size))


@_kernel
def apply_rows(
    pool: LevelPool,
    ticks: NDArray[np.void],
    slots: NDArray[np.int32],
    versions: NDArray[np.int64],
    cursor: NDArray[np.int64],
    fresh: bool,
) -> int:
    """Apply rows from `cursor[ROW]` on until done or until the owner must act; the answer says for what.

    Args:
        versions: one per row, or a single one for all.
        fresh: rows that just arrived are counted and move the version; pending rows that are applied after a snapshot
            (False) were counted before, and a gap among them ends the call at its first row.
    """
    n, step, counts = len(ticks), 0 if len(versions) == 1 else 1, pool.counts
    i, mode, start = cursor[ROW], cursor[MODE], cursor[START]
    while i < n:
        row, slot = ticks[i], slots[i]
        if row.kind != _KIND_BOOK or slot < 0:
            i += 1
            continue
        book, version = pool.books[slot], versions[i * step]
        if mode == _NONE:
            start, mode = i, _judge(book, row)
            if fresh:
                first = book.call != counts[CALL]
                if version <= (book.version if first else book.covered):
                    mode = _SKIP
                elif first:
                    book.call = counts[CALL]
                    book.covered = book.version
                    pool.touched[counts[N_TOUCHED]] = slot
                    counts[N_TOUCHED] += 1
                    pool.dirty[slot] |= CHANGED
            elif mode == _KEEP:
                book.state, book.gap = AWAITS_SNAPSHOT, 1
                cursor[ROW] = i
                return FOUND_GAP
            if mode == _KEEP and counts[N_KEPT] == len(pool.kept):
                cursor[ROW], cursor[MODE] = i, _NONE
                return WANTS_KEPT_TAKEN
        if mode >= _DIFF and not _put(pool, slot, row):
            cursor[ROW], cursor[MODE], cursor[START] = i, mode, start
            return WANTS_ROOM
        if fresh and mode != _SKIP:
            book.n_rows += 1
            book.version = version
        i += 1
        more = row.flags & _FLAG_LAST == 0 and i < n and ticks[i].kind == _KIND_BOOK
        if more and slots[i] == slot and versions[i * step] == version:  # a frame's end ends an event too
            continue
        if mode == _KEEP:
            if book.state != AWAITS_SNAPSHOT:
                book.state, book.gap = AWAITS_SNAPSHOT, 1
            kept = pool.kept[counts[N_KEPT]]
            kept[0], kept[1], kept[2] = slot, start, i
            counts[N_KEPT] += 1
            book.n_pending += i - start
            pool.dirty[slot] |= PENDING_CHANGED
        elif mode >= _DIFF:
            book.state = LIVE
            book.ts_event, book.ts_recv = row.ts_event, row.ts_recv
            if mode == _SNAPSHOT or row.venue_seq != 0:
                book.last_update_id = row.venue_seq
            if mode == _SNAPSHOT:
                book.gap = 0
                if book.n_pending:
                    cursor[ROW], cursor[MODE], cursor[SLOT] = i, _NONE, slot
                    return WANTS_PENDING
        mode = _NONE
    cursor[ROW] = i
    return DONE


@_kernel
def changed_chunks(pool: LevelPool, slots: NDArray[np.intp], bit: int, out: NDArray[np.int64]) -> None:
    """Write `(slot, chunk)` of every chunk that carries the bit into `out`, whose unused rest keeps its values."""
    n = 0
    for slot in slots:
        for line in range(2 * slot, 2 * slot + 2):
            start = pool.lines[line, 0]
            for k in range(start, start + pool.lines[line, 1]):
                if pool.chunks[pool.ids[k]].dirty & bit:
                    out[n, 0], out[n, 1] = slot, pool.ids[k]
                    n += 1


@_kernel
def mark_chunks(pool: LevelPool, slots: NDArray[np.intp], bit: int, dirty: bool) -> None:
    """Set or clear the bit of every chunk of these books."""
    for slot in slots:
        for line in range(2 * slot, 2 * slot + 2):
            start = pool.lines[line, 0]
            for k in range(start, start + pool.lines[line, 1]):
                entry = pool.chunks[pool.ids[k]]
                entry.dirty = entry.dirty | bit if dirty else entry.dirty & ~bit
