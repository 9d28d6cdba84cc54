"""The book pool does what a dict would, through any events, crashes and restarts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.market.book import BookPool, Consumer
from models.market.tick import Action, TickArray
from tests.books import Changelog, check_structure, diff, sides, snapshot

N_SLOTS = 3
MAX_PENDING = 300


@dataclass
class NaiveBook:
    """The rules of docs/wire.md on two dicts and a list."""

    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)
    last: int = 0
    n_rows: int = 0
    state: int = 0
    ts: int = 0
    waiting: list[TickArray] = field(default_factory=list)
    n_lost: int = 0

    def apply(self, event: TickArray) -> None:
        self.n_rows += len(event)
        before, update_id = int(event["ref_id"][0]), int(event["venue_seq"][0])
        if event["action"][0] == Action.CLEAR:
            self.bids, self.asks = {}, {}
            self._put(event)
            self.last, self.state = update_id, 1
            waiting, self.waiting = self.waiting, []
            for old in waiting:
                self._diff(old)
        elif update_id and self.state == 0:
            self.state = 2
            self._diff(event)
        else:
            self._diff(event)
        while sum(map(len, self.waiting)) > MAX_PENDING:
            self.waiting.pop(0)
            self.n_lost += 1
        assert before >= 0

    def _diff(self, event: TickArray) -> None:
        before, update_id = int(event["ref_id"][0]), int(event["venue_seq"][0])
        if self.state == 2 or (update_id > self.last and before > self.last):
            self.state = 2
            self.waiting.append(event)
        elif update_id == 0 or update_id > self.last:
            self._put(event)
            self.last, self.state = update_id or self.last, 1

    def _put(self, event: TickArray) -> None:
        self.ts = int(event["ts_event"][0])
        for row in event:
            side = {1: self.bids, 2: self.asks}.get(int(row["side"]), {})
            side[int(row["price"])] = int(row["size"])
            if not row["size"]:
                del side[int(row["price"])]


def pending_rows(book: NaiveBook) -> bytes:
    rows = np.concatenate(book.waiting) if book.waiting else diff(0, 0, {}, {})[:0]
    rows["instrument_id"] = 0
    return rows.tobytes()


def assert_same(pool: BookPool, books: list[NaiveBook]) -> None:
    check_structure(pool)
    for slot, book in enumerate(books):
        header = pool.header(slot)
        assert sides(pool, slot) == (book.bids, book.asks)
        assert (header.last_update_id, header.n_rows, header.state) == (book.last, book.n_rows, book.state)
        assert header.ts_event == book.ts
        assert pool.pending_bytes(slot) == pending_rows(book)
        best = pool.best(slot)
        if book.bids and book.asks:
            bid, ask = max(book.bids), min(book.asks)
            assert best == (bid, book.bids[bid], ask, book.asks[ask])
        else:
            assert best is None


@st.composite
def levels(draw: st.DrawFn, most: int, zero: bool) -> dict[int, int]:
    """Few prices, so that they are hit again and again, yet enough for several chunks of 64; seeded for speed."""
    n, low, seed = draw(st.integers(0, most)), draw(st.sampled_from([-120, 0, 100])), draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    deleted = draw(st.sampled_from([0.0, 0.4, 1.0])) if zero else 0.0
    prices = random.integers(low, low + 220, n).tolist()
    sizes = np.where(random.random(n) < deleted, 0, random.integers(1, 9, n)).tolist()
    return dict(zip(prices, sizes, strict=True))


# How a diff's ids lie to the newest id that was sent: in order, overlapping, stale, with a gap, without ids, unchecked.
DIFFS = st.sampled_from(["next"] * 8 + ["overlap", "stale", "gap", "no_ids", "unchecked"])
EVENT = st.one_of(
    st.tuples(st.just("diff"), st.integers(0, N_SLOTS - 1), DIFFS, levels(90, zero=True), levels(90, zero=True)),
    st.tuples(st.just("diff"), st.integers(0, N_SLOTS - 1), DIFFS, levels(3, zero=True), levels(3, zero=True)),
    st.tuples(
        st.just("snapshot"),
        st.integers(0, N_SLOTS - 1),
        st.integers(-6, 1),
        levels(150, zero=False),
        levels(150, zero=False),
    ),
    st.tuples(st.sampled_from(["call", "publish", "flush", "release", "crash"])),
)


class Venue:
    """Hands out update ids as a venue does, and breaks its promise on demand."""

    def __init__(self) -> None:
        self.ids = [1] * N_SLOTS

    def diff(self, slot: int, how: str, *book: dict[int, int], ts: int) -> TickArray:
        newest = self.ids[slot]
        if how == "no_ids":
            return diff(0, 0, *book, ts=ts)
        if how == "stale":
            return diff(max(newest - 4, 0), max(newest - 1, 1), *book, ts=ts)
        before = {"next": newest, "overlap": max(newest - 2, 0), "gap": newest + 1, "unchecked": 0}[how]
        self.ids[slot] = max(newest, before) + 1
        return diff(before, self.ids[slot], *book, ts=ts)


@settings(max_examples=250, deadline=None)
@given(st.lists(EVENT, max_size=40))
def test_pool_equals_a_dict_through_events_flushes_and_crashes(events: list[tuple]) -> None:
    pool, books, venue = BookPool(N_SLOTS, max_pending_rows=MAX_PENDING), [NaiveBook() for _ in range(N_SLOTS)], Venue()
    log, mirror = Changelog(), Changelog()
    frames: list[tuple[int, int, TickArray]] = []  # version, slot, event: since the last flush
    n_sent = 0

    def send() -> None:
        nonlocal n_sent
        if frames[n_sent:]:
            rows = np.concatenate([event for _, _, event in frames[n_sent:]])
            slots = np.concatenate([np.full(len(e), s, np.int32) for _, s, e in frames[n_sent:]])
            versions = np.concatenate([np.full(len(e), v) for v, _, e in frames[n_sent:]])
            pool.apply(rows, slots, versions)
            n_sent = len(frames)

    for version, (what, *arguments) in enumerate(events):
        if what in ("diff", "snapshot"):
            slot, how, bids, asks = arguments
            if what == "snapshot":
                event = snapshot(max(venue.ids[slot] + how, 1), bids, asks, ts=version)
            else:
                event = venue.diff(slot, how, bids, asks, ts=version)
            event["instrument_id"] = version
            books[slot].apply(event)
            frames.append((version, slot, event))
            continue
        if what == "crash":  # restart from what was flushed, and see everything since the flush again, and more
            pool, mirror, n_sent = log.restore(N_SLOTS, max_pending_rows=MAX_PENDING), Changelog(), 0
            pool.mark_dirty(Consumer.PUBLISHER)
        send()
        assert_same(pool, books)
        if what == "publish":
            mirror.flush(pool, Consumer.PUBLISHER)
        elif what == "flush":
            log.flush(pool)
            frames, n_sent = frames[-3:], min(len(frames), 3)
        elif what == "release":
            pool.release_dropped()
    send()
    assert_same(pool, books)
    for changelog, consumer in ((log, Consumer.BARRIER), (mirror, Consumer.PUBLISHER)):
        changelog.flush(pool, consumer)
        assert pool.dirty(consumer) == []
        copy = changelog.restore(N_SLOTS, max_pending_rows=MAX_PENDING)
        assert_same(copy, books)
        touched = [slot for slot, book in enumerate(books) if book.n_rows]
        assert sorted(changelog.headers) == touched
        assert all(copy.header_bytes(slot) == pool.header_bytes(slot) for slot in touched)
        listed = {int(c) for slot in touched for c in (*pool.header(slot).bids, *pool.header(slot).asks)}
        assert set(changelog.chunks) == listed
