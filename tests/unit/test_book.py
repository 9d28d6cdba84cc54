"""The rules of the order books, one by one, and their bytes at rest."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.errors import CorruptPage
from models.market.book import BookPool, Consumer
from models.market.book_page import encode_wire_header
from models.market.levels import AWAITS_SNAPSHOT, CHUNK_LEVELS, EMPTY, LIVE
from models.market.tick import TICK, Action, Flag, Kind, TickArray
from tests.books import Changelog, check_structure, diff, is_crossed, sides, snapshot

GOLDEN = Path(__file__).parents[1] / "golden"
BTC, ETH = 0, 1
INT64 = np.iinfo(np.int64)


class Feed:
    """A pool that is fed one event a version."""

    def __init__(self, **options: int) -> None:
        self.pool = BookPool(2, **options)
        self.version = -1

    def __call__(self, *events: TickArray, slot: int = BTC) -> list[int]:
        """Apply the events in one call; returns the slots with a gap."""
        rows = np.concatenate(events)
        self.version += 1
        return self.pool.apply(rows, np.full(len(rows), slot, np.int32), self.version).gaps.tolist()

    def state(self, slot: int = BTC) -> int:
        return self.pool.header(slot).state


@pytest.fixture
def feed() -> Feed:
    return Feed()


def test_snapshot_replaces_the_whole_book(feed: Feed) -> None:
    feed(snapshot(10, {100: 1, 99: 2}, {101: 3, 102: 4}))
    feed(snapshot(20, {50: 5}, {51: 6}))
    assert sides(feed.pool, BTC) == ({50: 5}, {51: 6})
    assert (feed.pool.header(BTC).last_update_id, feed.state()) == (20, LIVE)


def test_levels_come_best_first_on_both_sides(feed: Feed) -> None:
    feed(snapshot(10, {98: 1, 100: 2, 99: 3}, {103: 4, 101: 5, 102: 6}))
    bids, asks = feed.pool.levels(BTC)
    assert bids.tolist() == [[100, 2], [99, 3], [98, 1]]
    assert asks.tolist() == [[101, 5], [102, 6], [103, 4]]
    assert feed.pool.best(BTC) == (100, 2, 101, 5)


def test_best_is_none_while_a_side_is_empty(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {}))
    assert feed.pool.best(BTC) is None


def test_diff_overwrites_inserts_and_deletes(feed: Feed) -> None:
    feed(snapshot(10, {100: 1, 99: 2}, {101: 3}))
    feed(diff(10, 12, {100: 7, 99: 0, 98: 4}, {101: 0, 102: 9}))
    assert sides(feed.pool, BTC) == ({100: 7, 98: 4}, {102: 9})
    assert feed.pool.header(BTC).last_update_id == 12


def test_action_delete_deletes_whatever_its_size_says(feed: Feed) -> None:
    feed(snapshot(10, {100: 1, 99: 2}, {}))
    event = diff(10, 11, {100: 5}, {})
    event["action"] = Action.DELETE
    feed(event)
    assert sides(feed.pool, BTC) == ({99: 2}, {})


def test_deleting_an_unknown_price_changes_no_chunk(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}))
    feed.pool.mark_clean(BTC, Consumer.BARRIER)
    feed(diff(10, 11, {90: 0, 100: 1}, {}))
    assert [change[1:] for change in feed.pool.dirty(Consumer.BARRIER)] == [([], [], False)]


def test_extreme_prices_keep_their_order(feed: Feed) -> None:
    prices = {INT64.min: 1, -1: 1, 0: 1, INT64.max: 1}
    feed(snapshot(10, prices, prices))
    bids, asks = feed.pool.levels(BTC)
    assert bids[:, 0].tolist() == [INT64.max, 0, -1, INT64.min]
    assert asks[:, 0].tolist() == [INT64.min, -1, 0, INT64.max]


@pytest.mark.parametrize(
    ("before", "update_id", "applied", "state"),
    [
        (5, 9, False, LIVE),  # wholly known
        (9, 10, False, LIVE),  # ends where the book is
        (9, 11, True, LIVE),  # begins before, ends behind
        (10, 11, True, LIVE),  # follows
        (0, 11, True, LIVE),  # the id before it is not known
        (11, 12, False, AWAITS_SNAPSHOT),  # one id is missing
    ],
)
def test_update_ids_decide_what_a_diff_is(feed: Feed, before: int, update_id: int, applied: bool, state: int) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}, ts=1))
    gaps = feed(diff(before, update_id, {100: 2}, {}, ts=2))
    assert sides(feed.pool, BTC)[0] == {100: 2 if applied else 1}
    header = feed.pool.header(BTC)
    assert (header.state, header.last_update_id) == (state, update_id if applied else 10)
    assert (header.ts_event, header.ts_recv) == ((2, 3) if applied else (1, 2))
    assert (header.n_rows, header.version) == (4, 1)
    assert gaps == ([BTC] if state == AWAITS_SNAPSHOT else [])


def test_gap_is_told_once_and_diffs_wait_for_the_snapshot(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}))
    assert feed(diff(12, 13, {100: 3}, {})) == [BTC]
    assert feed(diff(13, 14, {99: 4}, {})) == []
    assert feed.pool.awaited(BTC) == (10, 13)
    feed(snapshot(13, {100: 2}, {101: 2}))
    assert sides(feed.pool, BTC) == ({100: 2, 99: 4}, {101: 2})  # the first of the two is stale by now
    assert (feed.pool.header(BTC).last_update_id, feed.state()) == (14, LIVE)
    assert (feed.pool.pending_bytes(BTC), feed.pool.awaited(BTC)) == (b"", None)


def test_diffs_before_the_first_snapshot_wait_for_it(feed: Feed) -> None:
    assert feed(diff(10, 11, {100: 3}, {})) == [BTC]
    assert (feed.state(), feed.pool.awaited(BTC)) == (AWAITS_SNAPSHOT, (0, 11))
    assert sides(feed.pool, BTC) == ({}, {})
    feed(snapshot(10, {99: 1}, {101: 1}))
    assert sides(feed.pool, BTC) == ({100: 3, 99: 1}, {101: 1})


def test_snapshot_older_than_what_waits_leaves_a_gap_that_is_told_again(feed: Feed) -> None:
    feed(diff(20, 21, {100: 3}, {}), diff(21, 22, {100: 4}, {}))
    assert feed(snapshot(10, {99: 1}, {101: 1})) == [BTC]
    assert sides(feed.pool, BTC) == ({99: 1}, {101: 1})
    assert (feed.state(), feed.pool.awaited(BTC)) == (AWAITS_SNAPSHOT, (10, 21))
    assert len(feed.pool.pending_bytes(BTC)) == 2 * TICK.itemsize


def test_gap_among_what_waits_keeps_the_rest(feed: Feed) -> None:
    feed(diff(10, 11, {100: 3}, {}), diff(12, 13, {100: 4}, {}))
    assert feed(snapshot(10, {99: 1}, {101: 1})) == [BTC]
    assert sides(feed.pool, BTC)[0] == {100: 3, 99: 1}
    assert feed.pool.awaited(BTC) == (11, 13)
    assert feed.pool.header(BTC).n_pending == 1


def test_gap_that_a_snapshot_of_the_same_call_closes_is_not_told(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}))
    assert feed(diff(12, 13, {100: 3}, {}), snapshot(12, {100: 2}, {101: 2})) == []
    assert sides(feed.pool, BTC) == ({100: 3}, {101: 2})


def test_diff_without_ids_applies_to_an_empty_and_to_a_live_book(feed: Feed) -> None:
    feed(diff(0, 0, {100: 1}, {101: 1}))
    assert feed.state() == LIVE
    feed(snapshot(10, {100: 1}, {101: 1}), diff(0, 0, {100: 2}, {}))
    assert sides(feed.pool, BTC)[0] == {100: 2}
    assert feed.pool.header(BTC).last_update_id == 10


def test_empty_diff_moves_the_update_id_only(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}), diff(10, 15, {}, {}))
    assert feed.pool.header(BTC).last_update_id == 15
    assert sides(feed.pool, BTC) == ({100: 1}, {101: 1})


def test_oldest_whole_events_go_when_too_much_waits() -> None:
    feed = Feed(max_pending_rows=5)
    feed(diff(10, 11, {1: 1, 2: 1}, {}), diff(11, 12, {3: 1, 4: 1}, {}), diff(12, 13, {5: 1, 6: 1}, {}))
    assert feed.pool.n_lost_events == 1
    assert feed.pool.awaited(BTC) == (0, 12)
    assert feed.pool.header(BTC).n_pending == 4
    feed(snapshot(11, {}, {}))
    assert sides(feed.pool, BTC)[0] == {3: 1, 4: 1, 5: 1, 6: 1}


def test_event_larger_than_all_that_may_wait_is_lost_alone() -> None:
    feed = Feed(max_pending_rows=1)
    feed(diff(10, 11, {1: 1, 2: 1}, {}), diff(11, 12, {3: 1}, {}))
    feed(snapshot(11, {9: 1}, {}))
    assert (feed.pool.n_lost_events, sides(feed.pool, BTC)[0]) == (1, {9: 1, 3: 1})


def test_thousands_of_waiting_events_in_one_call_are_all_kept(feed: Feed) -> None:
    feed(*(diff(k, k + 1, {k: 1}, {}) for k in range(5, 3005)))
    feed(snapshot(5, {}, {}))
    assert len(sides(feed.pool, BTC)[0]) == 3000


def test_what_waits_does_not_depend_on_the_frame_it_came_in(feed: Feed) -> None:
    first, second = diff(10, 11, {1: 1}, {}), diff(10, 11, {1: 1}, {})
    first["instrument_id"], second["instrument_id"] = 3, 4
    second["flags"] = Flag.MBP  # the end of its frame stands for LAST
    feed(first)
    feed(second, slot=ETH)
    assert feed.pool.pending_bytes(BTC) == feed.pool.pending_bytes(ETH) != b""


def test_frame_seen_again_counts_nothing_twice(feed: Feed) -> None:
    rows = np.concatenate([snapshot(10, {100: 1}, {101: 1}), diff(12, 13, {100: 2}, {})])
    slots = np.zeros(len(rows), np.int32)
    assert feed.pool.apply(rows, slots, 7).touched.tolist() == [BTC]
    before = feed.pool.header_bytes(BTC), feed.pool.pending_bytes(BTC)
    again = feed.pool.apply(rows, slots, 7)
    assert (again.touched.tolist(), again.gaps.tolist()) == ([], [])
    assert (feed.pool.header_bytes(BTC), feed.pool.pending_bytes(BTC)) == before


def test_only_the_rows_a_book_has_not_seen_count(feed: Feed) -> None:
    events = [snapshot(10, {100: 1}, {101: 1}), diff(10, 11, {100: 2}, {}), diff(11, 12, {100: 3}, {})]
    rows = np.concatenate(events)
    versions = np.repeat([4, 5, 6], [len(event) for event in events])
    feed.pool.apply(rows[:4], np.zeros(4, np.int32), versions[:4])
    feed.pool.apply(rows, np.zeros(5, np.int32), versions)
    header = feed.pool.header(BTC)
    assert (header.n_rows, header.version, sides(feed.pool, BTC)[0]) == (5, 6, {100: 3})


def test_the_first_offset_of_a_log_counts(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}))
    assert (feed.version, feed.pool.header(BTC).version, feed.pool.header(BTC).n_rows) == (0, 0, 3)


def test_rows_of_other_kinds_and_of_no_slot_are_passed_over(feed: Feed) -> None:
    rows = snapshot(10, {100: 1}, {101: 1})
    trades = rows.copy()
    trades["kind"] = Kind.TRADE
    slots = np.array([0] * 3 + [1] * 3 + [-1] * 3, np.int32)
    applied = feed.pool.apply(np.concatenate([trades, rows, rows]), slots, 0)
    assert applied.touched.tolist() == [ETH]
    assert feed.pool.header(BTC).version == -1


def test_events_of_several_books_alternate(feed: Feed) -> None:
    events = [snapshot(10, {100: 1}, {}), snapshot(5, {7: 1}, {}), diff(10, 11, {100: 2}, {}), diff(6, 7, {7: 2}, {})]
    slots = np.repeat(np.array([ETH, BTC, ETH, BTC], np.int32), [len(event) for event in events])
    applied = feed.pool.apply(np.concatenate(events), slots, 0)
    assert (applied.touched.tolist(), applied.gaps.tolist()) == ([ETH, BTC], [BTC])
    assert (sides(feed.pool, ETH)[0], sides(feed.pool, BTC)[0]) == ({100: 2}, {7: 1})


def test_slot_beyond_the_pool_is_refused_until_there_is_room(feed: Feed) -> None:
    rows, slots = snapshot(10, {100: 1}, {101: 1}), np.full(3, 9, np.int32)
    with pytest.raises(IndexError, match="slot 9 is beyond"):
        feed.pool.apply(rows, slots, 0)
    feed.pool.ensure(10)
    feed.pool.apply(rows, slots, 0)
    assert feed.pool.best(9) == (100, 1, 101, 1)
    assert feed.pool.header(8).version == -1


def test_arrays_of_unequal_length_are_refused(feed: Feed) -> None:
    with pytest.raises(ValueError, match="3 ticks came with 2 slots"):
        feed.pool.apply(snapshot(10, {100: 1}, {101: 1}), np.zeros(2, np.int32), 0)


def test_read_only_rows_are_taken(feed: Feed) -> None:
    rows = np.frombuffer(snapshot(10, {100: 1}, {101: 1}).tobytes(), TICK)
    feed.pool.apply(rows, np.zeros(3, np.int32), 0)
    assert feed.pool.best(BTC) == (100, 1, 101, 1)


def test_full_chunk_splits_in_halves_and_thin_ones_join(feed: Feed) -> None:
    feed(snapshot(10, dict.fromkeys(range(CHUNK_LEVELS), 1), {}))
    assert len(feed.pool.header(BTC).bids) == 1
    feed(diff(10, 11, {CHUNK_LEVELS: 1}, {}))
    counts = [len(feed.pool.chunk_bytes(c)) // 16 for c in feed.pool.header(BTC).bids.tolist()]
    assert counts == [33, 32]
    feed(diff(11, 12, dict.fromkeys(range(48), 0), {}))
    check_structure(feed.pool)
    assert len(feed.pool.header(BTC).bids) == 1
    assert sorted(sides(feed.pool, BTC)[0]) == list(range(48, 65))


def test_ten_thousand_levels_grow_the_pool_and_all_of_them_can_go(feed: Feed) -> None:
    random = np.random.default_rng(7)
    prices = random.permutation(10_000).tolist()
    feed(snapshot(10, {p: p + 1 for p in prices}, {}))
    check_structure(feed.pool)
    assert sides(feed.pool, BTC)[0] == {p: p + 1 for p in prices}
    feed(diff(10, 11, dict.fromkeys(reversed(prices), 0), {}))
    check_structure(feed.pool)
    assert feed.pool.n_chunks == 0


def test_two_consumers_learn_of_a_change_independently(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}))
    feed.pool.mark_clean(BTC, Consumer.PUBLISHER)
    feed(diff(10, 11, {}, {101: 2}))
    bid, ask = feed.pool.header(BTC).bids[0], feed.pool.header(BTC).asks[0]
    assert [change.chunks for change in feed.pool.dirty(Consumer.PUBLISHER)] == [[ask]]
    assert [change.chunks for change in feed.pool.dirty(Consumer.BARRIER)] == [[bid, ask]]


def test_split_and_join_name_both_chunks_as_changed(feed: Feed) -> None:
    feed(snapshot(10, {}, dict.fromkeys(range(CHUNK_LEVELS), 1)))
    feed.pool.mark_clean(BTC, Consumer.BARRIER)
    feed(diff(10, 11, {}, {CHUNK_LEVELS: 1}))
    left, right = feed.pool.header(BTC).asks.tolist()
    assert [change[1:] for change in feed.pool.dirty(Consumer.BARRIER)] == [([left, right], [], False)]
    feed(diff(11, 12, {}, dict.fromkeys([*range(16), *range(48, CHUNK_LEVELS)], 0)))
    feed.pool.mark_clean(BTC, Consumer.BARRIER)
    feed(diff(12, 13, {}, {40: 0}))
    assert [change[1:] for change in feed.pool.dirty(Consumer.BARRIER)] == [([left], [right], False)]


def test_mark_dirty_names_everything_again(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}))
    feed.pool.mark_clean(BTC, Consumer.PUBLISHER)
    assert feed.pool.dirty(Consumer.PUBLISHER) == []
    feed.pool.mark_dirty(Consumer.PUBLISHER)
    assert [change.chunks for change in feed.pool.dirty(Consumer.PUBLISHER)] == [[0, 1]]


def test_dropped_id_is_not_used_again_before_its_drop_is_durable(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {}))
    feed.pool.mark_clean(BTC, Consumer.BARRIER)
    feed(diff(10, 11, {100: 0}, {}))
    feed.pool.release_dropped()  # of an earlier flush: it does not know of this drop
    feed(snapshot(1, {7: 1}, {}), slot=ETH)
    assert [(c.slot, c.chunks, c.dropped) for c in feed.pool.dirty(Consumer.BARRIER)] == [
        (BTC, [], [0]),
        (ETH, [1], []),
    ]
    feed.pool.mark_clean([BTC, ETH], Consumer.BARRIER)
    feed(diff(1, 2, {}, {9: 1}), slot=ETH)
    assert feed.pool.header(ETH).asks.tolist() == [2]
    feed.pool.release_dropped()
    feed(snapshot(20, {5: 1}, {}))
    assert feed.pool.header(BTC).bids.tolist() == [0]


def test_the_publisher_releases_no_id(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {}))
    feed(diff(10, 11, {100: 0}, {}))
    feed.pool.mark_clean(BTC, Consumer.PUBLISHER)
    feed.pool.release_dropped()
    feed(diff(11, 12, {100: 1}, {}))
    assert feed.pool.header(BTC).bids.tolist() == [1]


def test_chunk_that_a_book_dropped_and_took_again_is_not_named_dropped(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {}))
    feed(diff(10, 11, {100: 0}, {}))
    feed.pool.mark_clean(BTC, Consumer.BARRIER)
    feed.pool.release_dropped()
    feed(diff(11, 12, {100: 4}, {}))
    assert [change[1:] for change in feed.pool.dirty(Consumer.PUBLISHER)] == [([0], [], False)]


def test_forgotten_book_is_empty_as_of_its_version(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}), diff(12, 13, {}, {}))
    feed.pool.mark_clean(BTC, Consumer.BARRIER)
    feed.pool.forget(BTC, 5)
    assert [change[1:] for change in feed.pool.dirty(Consumer.BARRIER)] == [([], [0, 1], True)]
    assert (feed.pool.header(BTC).version, feed.state(), feed.pool.pending_bytes(BTC)) == (5, EMPTY, b"")
    assert feed.pool.apply(snapshot(1, {1: 1}, {}), np.zeros(2, np.int32), 5).touched.tolist() == []
    assert feed.pool.apply(snapshot(1, {1: 1}, {}), np.zeros(2, np.int32), 6).touched.tolist() == [BTC]
    check_structure(feed.pool)


def test_crossed_book_is_found(feed: Feed) -> None:
    feed(snapshot(10, {100: 1}, {101: 1}))
    assert not is_crossed(feed.pool, BTC)
    feed(diff(10, 11, {101: 1}, {}))
    assert is_crossed(feed.pool, BTC)


@pytest.fixture
def pages() -> tuple[BookPool, bytes, dict[int, bytes], bytes]:
    """A book that is known to the last byte: a chunk a side and one diff that waits."""
    feed = Feed()
    feed(snapshot(5_000_000_000, {-3: 10, 2: 20, 61_800_100_000_000: 30}, {61_800_200_000_000: 1, 2**62: 2}, ts=1_000))
    waiting = diff(5_000_000_001, 5_000_000_002, {2: 0}, {3: 4}, ts=2_000)
    waiting["seq"] = [8, 9]
    feed.version = 1 << 48 | 77
    feed(waiting)
    pool = feed.pool
    return pool, pool.header_bytes(BTC), {c: pool.chunk_bytes(c) for c in (0, 1)}, pool.pending_bytes(BTC)


@pytest.mark.parametrize("name", ["header", "wire_header", "bids", "asks", "pending"])
def test_bytes_at_rest_equal_the_golden_ones(name: str, pages: tuple[BookPool, bytes, dict[int, bytes], bytes]) -> None:
    pool, header, chunks, pending = pages
    found = {"header": header, "bids": chunks[0], "asks": chunks[1], "pending": pending}
    found["wire_header"] = encode_wire_header(pool.header(BTC), price_exp=-9, size_exp=-2)
    assert found[name] == (GOLDEN / f"book_{name}.bin").read_bytes()


def test_wire_header_is_what_the_wire_document_says(pages: tuple[BookPool, bytes, dict[int, bytes], bytes]) -> None:
    data = encode_wire_header(pages[0].header(BTC), price_exp=-9, size_exp=-2)
    assert struct.unpack(">q", data[:8]) == (1 << 48 | 78,)
    assert struct.unpack_from("<4q2IbbB5x2I", data, 8) == (1000, 1001, 5_000_000_000, 8, 1, 1, -9, -2, 2, 0, 1)
    assert len(data) == 64


def test_restored_book_goes_on_as_the_first_would(pages: tuple[BookPool, bytes, dict[int, bytes], bytes]) -> None:
    pool, header, chunks, pending = pages
    copy = BookPool(2)
    copy.load(BTC, header, chunks, pending)
    assert copy.dirty(Consumer.BARRIER) == copy.dirty(Consumer.PUBLISHER) == []
    for each in (pool, copy):
        each.apply(snapshot(5_000_000_001, {2: 1}, {9: 1}), np.zeros(3, np.int32), 1 << 50)
    assert sides(copy, BTC) == sides(pool, BTC) == ({}, {3: 4, 9: 1})
    assert (copy.header(BTC).n_rows, copy.header(BTC).last_update_id) == (11, 5_000_000_002)


def test_restored_pool_hands_out_no_id_that_is_listed() -> None:
    pool = BookPool(1)
    pool.apply(snapshot(1, dict.fromkeys(range(200), 1), {}), np.zeros(201, np.int32), 0)
    pool.apply(diff(1, 2, dict.fromkeys(range(40, 160), 0), {}), np.zeros(120, np.int32), 1)
    log = Changelog()
    log.flush(pool)
    copy = log.restore(2)
    before = sides(copy, BTC)
    copy.apply(snapshot(1, dict.fromkeys(range(5000), 2), {}), np.full(5001, ETH, np.int32), 2)
    assert sides(copy, BTC) == before
    assert len(sides(copy, ETH)[0]) == 5000
    check_structure(copy)


BROKEN = {
    "missing chunk": ("listed but missing", lambda h, c, p: (h, {0: c[0]}, p)),
    "cut chunk": ("not 16 for each", lambda h, c, p: (h, {**c, 1: c[1][:-1]}, p)),
    "empty chunk": ("not 16 for each", lambda h, c, p: (h, {**c, 1: b""}, p)),
    "overfull chunk": ("not 16 for each", lambda h, c, p: (h, {**c, 1: bytes(range(1, 17)) * 65}, p)),
    "lost level": ("its header counts 2", lambda h, c, p: (h, {**c, 1: c[1][16:]}, p)),
    "another order": ("not best first", lambda h, c, p: (h, {**c, 0: c[0][16:] + c[0][:16]}, p)),
    "level of size 0": ("size 0", lambda h, c, p: (h, {**c, 1: c[1][:-8] + bytes(8)}, p)),
    "short header": ("expected at least 64", lambda h, c, p: (h[:63], c, p)),
    "cut header": ("lists 1 \\+ 1 chunks", lambda h, c, p: (h[:-4], c, p)),
    "page version": ("page version 9", lambda h, c, p: (b"\x09" + h[1:], c, p)),
    "unknown state": ("unknown state 3", lambda h, c, p: (h[:1] + b"\x03" + h[2:], c, p)),
    "same chunk twice": ("a chunk twice", lambda h, c, p: (h[:-4] + h[-8:-4], c, p)),
    "lost pending row": ("its header counts 2 rows", lambda h, c, p: (h, c, p[:64])),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pages_are_refused_and_leave_the_slot_untouched(
    name: str, pages: tuple[BookPool, bytes, dict[int, bytes], bytes]
) -> None:
    message, breaks = BROKEN[name]
    copy = BookPool(2)
    with pytest.raises(CorruptPage, match=message):
        copy.load(BTC, *breaks(*pages[1:]))
    copy.load(BTC, *pages[1:])
    assert copy.header_bytes(BTC) == pages[1]


def test_chunk_of_two_books_is_refused(pages: tuple[BookPool, bytes, dict[int, bytes], bytes]) -> None:
    copy = BookPool(2)
    copy.load(BTC, *pages[1:])
    with pytest.raises(CorruptPage, match="belongs to two books"):
        copy.load(ETH, *pages[1:])
    with pytest.raises(ValueError, match="already holds a book"):
        copy.load(BTC, *pages[1:])


def test_importing_the_book_compiles_nothing() -> None:
    program = (
        "import models.market.book, models.market.levels as levels\n"
        "kernels = [k for k in vars(levels).values() if hasattr(k, 'signatures')]\n"
        "print(len(kernels), sum(len(k.signatures) for k in kernels))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    n_kernels, n_compiled = map(int, done.stdout.split())
    assert n_kernels > 10
    assert n_compiled == 0
