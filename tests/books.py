"""Book events as rows, a changelog made of dirty pages only, and a deep check of a pool's structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.market import levels
from models.market.book import BookPool, Consumer
from models.market.levels import CHUNK_LEVELS, DROPPED, FREE, USED
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

Sides = tuple[Mapping[int, int], Mapping[int, int]]  # bids and asks: size by price


def _event(changes: Sequence[tuple[int, int, int, int]], **fields: int) -> TickArray:
    rows = np.zeros(len(changes), TICK)
    rows["action"], rows["side"], rows["price"], rows["size"] = np.array(changes, np.int64).T
    rows["kind"], rows["flags"] = Kind.BOOK, Flag.MBP
    for name, value in fields.items():
        rows[name] = value
    rows["flags"][-1] |= Flag.LAST
    return rows


def snapshot(update_id: int, bids: Mapping[int, int], asks: Mapping[int, int], ts: int = 0) -> TickArray:
    """A snapshot event: the clearing row, then a row a level."""
    changes = [(Action.CLEAR, Side.NONE, 0, 0)]
    changes += [(Action.ADD, side, p, q) for side, book in ((1, bids), (2, asks)) for p, q in book.items()]
    return _event(changes, venue_seq=update_id, ts_event=ts, ts_recv=ts + 1)


def diff(before: int, update_id: int, bids: Mapping[int, int], asks: Mapping[int, int], ts: int = 0) -> TickArray:
    """A diff event of the update ids `(before, update_id]`; size 0 deletes."""
    changes = [
        (Action.UPDATE if q else Action.DELETE, side, p, q)
        for side, book in ((1, bids), (2, asks))
        for p, q in book.items()
    ]
    nothing = [(Action.UPDATE, Side.NONE, 0, 0)]
    return _event(changes or nothing, venue_seq=update_id, ref_id=before, ts_event=ts, ts_recv=ts + 1)


def sides(pool: BookPool, slot: int) -> Sides:
    bids, asks = pool.levels(slot)
    return dict(bids.tolist()), dict(asks.tolist())


class Changelog:
    """What a barrier would have written: pages by key, fed with nothing but what the pool calls dirty."""

    def __init__(self) -> None:
        self.headers: dict[int, bytes] = {}
        self.chunks: dict[int, bytes] = {}
        self.pending: dict[int, bytes] = {}

    def flush(self, pool: BookPool, consumer: Consumer = Consumer.BARRIER) -> None:
        changes = pool.dirty(consumer)
        for change in changes:
            self.headers[change.slot] = pool.header_bytes(change.slot)
            for chunk in change.dropped:
                self.chunks.pop(chunk, None)
        for change in changes:
            self.chunks.update(zip(change.chunks, pool.chunks_bytes(change.chunks), strict=True))
            if change.pending:
                self.pending[change.slot] = pool.pending_bytes(change.slot)
        pool.mark_clean([change.slot for change in changes], consumer)

    def restore(self, n_slots: int, **options: int) -> BookPool:
        pool = BookPool(n_slots, **options)
        for slot, header in self.headers.items():
            pool.load(slot, header, self.chunks, self.pending.get(slot, b""))
        return pool


def is_crossed(pool: BookPool, slot: int) -> bool:
    best = pool.best(slot)
    return best is not None and best[0] >= best[2]


def check_structure(pool: BookPool) -> None:
    """Every level is in its place, every chunk is either free, dropped or used once."""
    p = pool._chunks.pool
    seen: list[int] = []
    for line in range(2 * pool.n_slots):
        start, length, capacity = p.lines[line].tolist()
        assert 0 <= length <= capacity
        ids = p.ids[start : start + length]
        flip = -1 if line % 2 == 0 else 0
        keys = np.concatenate([np.empty(0, np.int64), *(pool._chunks.levels_of(c)[:, 0] ^ flip for c in ids)])
        assert (keys[:-1] < keys[1:]).all(), "levels are not best first"
        assert all(1 <= p.chunks[c]["count"] <= CHUNK_LEVELS for c in ids), "an empty or overfull chunk is listed"
        assert all(p.chunks[c]["slot"] == line // 2 and p.chunks[c]["state"] == USED for c in ids)
        assert p.firsts[start : start + length].tolist() == [p.levels[c, 0, 0] ^ flip for c in ids]
        seen += ids.tolist()
    n_chunks, n_free = p.counts[levels.N_CHUNKS], p.counts[levels.N_FREE]
    states = p.chunks["state"][:n_chunks]
    assert sorted(seen) == np.flatnonzero(states == USED).tolist(), "a chunk is listed twice or lost"
    free, known_free = set(p.free[:n_free].tolist()), set(np.flatnonzero(states == FREE).tolist())
    assert len(free) == n_free
    assert free <= known_free if pool._chunks._free_is_stale else free == known_free
    waiting = set(pool._flushed) | {c for ids in pool._dropped[Consumer.BARRIER].values() for c in ids}
    assert waiting == set(np.flatnonzero(states == DROPPED).tolist()), "a dropped chunk nobody will release"
