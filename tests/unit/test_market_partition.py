"""One partition's rules, one by one: what is refused, which rows count, what a run's start forgets, what is flushed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from models.errors import CorruptFrame, CorruptPage
from models.market import facets, pages
from models.market.instruments import Instrument
from models.market.partition import Applied, MarketPartition, PositionGap, open_frame
from models.market.partition_state import FORGET_SOURCE_MS
from models.market.tick import Action, Kind, Side, TickArray
from streams.kafka.owned import OwnedPartition
from tests.books import diff, sides, snapshot
from tests.feeds import INSTRUMENTS, Sent, event


class Partition:
    """A partition that knows the made-up instruments and is given one frame a version."""

    def __init__(self) -> None:
        self.market = MarketPartition()
        self.market.add(INSTRUMENTS)
        self.version = -1

    def __call__(
        self, *events: TickArray, first: int = 0, ids: tuple[int, ...] = (0,), source: int = 1,
        append_ms: int = 0, **more: int,
    ) -> Applied:  # fmt: skip
        """Apply the events as one frame, by default at the positions after the source's last."""
        self.version += 1
        sent = self.frame(*events, first=first, ids=ids, source=source, **more)
        return self.market.apply([sent.opened(self.version, append_ms)])

    def frame(self, *events: TickArray, first: int, ids: tuple[int, ...], source: int, **more: int) -> Sent:
        rows = np.concatenate(events)
        known = self.market.sources.get(source)
        first = first or (known.position + 1 if known else 1)
        rows["seq"] = np.arange(first, first + len(rows), dtype=np.uint64)
        return Sent(source, rows, list(ids), **more)  # type: ignore[arg-type]

    def row(self, facet: int, slot: int = 0) -> list[int]:
        """Version, ts_event, ts_recv, n and the six values."""
        plane = self.market.rows.plane_of[facet]
        return [0] * facets.N_COLUMNS if plane < 0 else self.market.rows.rows[plane, slot].tolist()

    def values(self, facet: int, slot: int = 0) -> list[int]:
        return self.row(facet, slot)[facets.V0 :]


@pytest.fixture
def partition() -> Partition:
    return Partition()


def trade(price: int, instrument: int = 0) -> TickArray:
    return event(Kind.TRADE, [{"price": price, "size": 2, "side": Side.ASK, "ref_id": 9, "instrument_id": instrument}])


def quote(side: Side, price: int, size: int, action: Action = Action.UPDATE) -> TickArray:
    return event(Kind.QUOTE, [{"side": side, "action": action, "price": price, "size": size, "venue_seq": price}])


def start_of_a_run() -> TickArray:
    return event(Kind.CONTROL, [{"instrument_id": -1, "action": Action.CLEAR}])


def test_each_side_of_a_quote_is_kept_until_it_is_replaced_or_deleted(partition: Partition) -> None:
    partition(quote(Side.BID, 100, 5), quote(Side.ASK, 101, 6))
    assert partition.values(facets.QUOTE) == [100, 5, 101, 6, 101, 0]
    partition(quote(Side.BID, 99, 7))
    assert partition.values(facets.QUOTE) == [99, 7, 101, 6, 99, 0]
    partition(quote(Side.ASK, 150, 8, Action.DELETE))
    assert partition.values(facets.QUOTE) == [99, 7, 0, 0, 150, 0]
    assert partition.row(facets.QUOTE)[facets.N_ROWS] == 4


def test_bar_comes_in_four_rows_and_each_interval_has_its_own(partition: Partition) -> None:
    minute, day = facets.FACETS.index("ohlcv:1m"), facets.FACETS.index("ohlcv:1d")
    for interval, base in ((60, 100), (86400, 200)):
        bar = {"ref_id": interval, "venue_seq": 5_000, "size": 77}
        partition(event(Kind.BAR, [{**bar, "side": side, "price": base + side} for side in range(4)]))
    assert partition.values(minute) == [100, 101, 102, 103, 77, 5_000]
    assert partition.values(day) == [200, 201, 202, 203, 77, 5_000]


def test_long_short_ratios_of_top_positions_and_of_all_accounts_are_apart(partition: Partition) -> None:
    for action in (1, 2):
        rows = [{"action": action, "side": side, "price": 10 * action + side, "ref_id": 300} for side in range(3)]
        partition(event(Kind.LONG_SHORT, rows))
    assert partition.values(facets.LSR_TOP) == [10, 11, 12, 300, 0, 0]
    assert partition.values(facets.LSR_ALL) == [20, 21, 22, 300, 0, 0]


def test_frame_sent_again_counts_nothing(partition: Partition) -> None:
    assert partition(trade(1), trade(2)).n_rows == 2
    again = partition(trade(1), trade(2), first=1)
    assert (again.n_rows, again.n_repeated) == (0, 2)
    assert partition.row(facets.TRADE)[:4] == [0, 0, 0, 2]


def test_frame_that_overlaps_with_other_borders_counts_only_its_new_rows(partition: Partition) -> None:
    partition(trade(1), trade(2), trade(3))
    applied = partition(trade(2), trade(3), trade(4), trade(5), first=2)
    assert (applied.n_rows, applied.n_repeated) == (2, 2)
    assert partition.row(facets.TRADE)[facets.N_ROWS] == 5
    assert partition.values(facets.TRADE)[0] == 5


def test_new_incarnation_of_a_source_begins_again_at_one(partition: Partition) -> None:
    partition(trade(1), trade(2), trade(3), source=1)
    assert partition(trade(4), source=2).n_rows == 1
    assert partition(trade(9), source=1, first=3).n_rows == 0
    assert {source: known.position for source, known in partition.market.sources.items()} == {1: 3, 2: 1}


def test_positions_use_all_64_bits(partition: Partition) -> None:
    partition(trade(1), first=2**63 - 1)
    assert partition(trade(2), trade(3), first=2**63).n_rows == 2
    assert partition(trade(4), trade(5), trade(6), first=2**63).n_rows == 1
    assert partition(trade(7), first=2**64 - 1).n_rows == 1
    assert partition(trade(8), trade(9), first=2**64 - 2).n_rows == 0
    assert partition.values(facets.TRADE)[0] == 7


def test_jump_of_a_dense_source_is_reported_once(partition: Partition) -> None:
    assert partition(trade(1), dense=True, prev_position=0).gaps == []
    assert partition(trade(2), first=5, dense=True, prev_position=4).gaps == [PositionGap(1, 1, 4)]
    assert partition(trade(3), first=6, dense=True, prev_position=5).gaps == []
    assert partition(trade(3), first=6, dense=True, prev_position=5).gaps == []


def test_jump_of_a_source_with_holes_is_no_gap(partition: Partition) -> None:
    partition(trade(1))
    assert partition(trade(2), first=50).gaps == []


def test_frame_that_names_an_unknown_instrument_is_refused_whole() -> None:
    partition = Partition()
    partition.market = MarketPartition()
    partition.market.add(INSTRUMENTS[:1])
    applied = partition(trade(1, instrument=0), trade(2, instrument=1), ids=(0, 1))
    [(frame, why)] = applied.refused
    assert (frame.version, why.reason, applied.n_rows) == (0, "unknown_instrument", 0)
    assert partition.market.listed([frame]).missing() == [INSTRUMENTS[1].hash]
    assert (partition.market.sources, partition.market.applied) == ({}, 0)
    assert partition(trade(3)).n_rows == 1


@pytest.mark.parametrize("exponents", [{"price_exp": -8}, {"size_exp": -9}])
def test_frame_whose_exponents_differ_from_the_definition_is_refused(exponents: dict[str, int]) -> None:
    partition = Partition()
    partition.market = MarketPartition()
    partition.market.add([msgspec.structs.replace(INSTRUMENTS[0], **exponents)])
    [(_, why)] = partition(trade(1)).refused
    assert why.reason == "bad_frame"
    assert INSTRUMENTS[0].text in why.detail
    assert partition.row(facets.TRADE)[facets.N_ROWS] == 0


def test_damaged_frame_is_refused_and_those_around_it_are_applied(partition: Partition) -> None:
    frames = [partition.frame(trade(i), first=i, ids=(0,), source=1).opened(i) for i in (1, 2, 3)]
    frames[1] = frames[1]._replace(data=frames[1].data[:-8])
    applied = partition.market.apply(frames)
    assert [(frame.version, why.reason) for frame, why in applied.refused] == [(2, "bad_frame")]
    assert (applied.n_rows, partition.market.applied) == (2, 3)
    with pytest.raises(CorruptFrame):
        open_frame(4, 0, b"MPF0" + frames[0].data[4:])


def test_versions_at_or_below_the_applied_one_are_passed_over(partition: Partition) -> None:
    partition(trade(1))
    partition.market.advance(5)
    frame = partition.frame(trade(2), first=2, ids=(0,), source=1)
    assert partition.market.apply([frame.opened(5)]).n_rows == 0
    assert partition.market.apply([frame.opened(6)]).n_rows == 1


def test_start_of_a_run_forgets_the_listed_instruments_and_no_others(partition: Partition) -> None:
    both = (0, 1)
    for i in both:
        book = snapshot(5, {100: 1}, {101: 1})
        book["instrument_id"] = i
        partition(trade(7, instrument=i), book, ids=both)
    partition.market.rows.take_touched()
    partition(start_of_a_run(), ids=(1,))
    slots, bits = partition.market.rows.take_touched()
    assert (slots.tolist(), bits.tolist()) == ([1], [1 << facets.TRADE | 1 << facets.BOOK])
    assert (partition.row(facets.TRADE, 0)[facets.N_ROWS], partition.row(facets.TRADE, 1)) == (1, [0] * 10)
    assert sides(partition.market.books, 0) == ({100: 1}, {101: 1})
    assert sides(partition.market.books, 1) == ({}, {})
    assert partition.market.books.version(1) == partition.version


def test_start_of_a_run_between_rows_of_one_round_forgets_only_what_came_before(partition: Partition) -> None:
    events = [snapshot(5, {100: 1}, {}), start_of_a_run(), diff(0, 0, {90: 2}, {}), trade(3)]
    frames = [partition.frame(rows, first=1 + 10 * i, ids=(0,), source=1).opened(i) for i, rows in enumerate(events)]
    partition.market.apply(frames)
    assert sides(partition.market.books, 0) == ({90: 2}, {})
    assert partition.values(facets.TRADE)[0] == 3


def test_start_of_a_run_that_is_sent_again_forgets_nothing(partition: Partition) -> None:
    partition(start_of_a_run())
    partition(trade(1))
    partition(start_of_a_run(), first=1)
    assert partition.values(facets.TRADE)[0] == 1


def test_start_of_a_run_must_travel_alone(partition: Partition) -> None:
    [(_, why)] = partition(start_of_a_run(), trade(1)).refused
    assert why.reason == "bad_frame"
    assert partition.row(facets.TRADE)[facets.N_ROWS] == 0


def test_other_control_rows_change_nothing_but_the_position(partition: Partition) -> None:
    partition(trade(1))
    for action in (Action.UPDATE, Action.DELETE):
        partition(event(Kind.CONTROL, [{"instrument_id": -1, "action": action}]), trade(2))
    assert partition.row(facets.TRADE)[facets.N_ROWS] == 3
    assert partition.market.sources[1].position == 5


def test_book_with_a_gap_is_named_once(partition: Partition) -> None:
    partition(snapshot(5, {100: 1}, {}))
    assert partition(diff(9, 10, {99: 1}, {}), diff(10, 11, {98: 1}, {})).bad_books == [0]
    assert partition(diff(11, 12, {97: 1}, {})).bad_books == []


def test_source_that_was_silent_for_seven_days_leaves_the_table_at_a_flush(partition: Partition) -> None:
    partition(trade(1), source=1, append_ms=1_000)
    partition(trade(1), source=2, append_ms=999 + FORGET_SOURCE_MS)
    assert set(partition.market.flush()[1]) == {1, 2}
    partition(trade(2), source=2, append_ms=1_000 + FORGET_SOURCE_MS)
    assert set(partition.market.flush()[1]) == {2}
    assert set(partition.market.sources) == {2}


def keys(partition: Partition) -> list[bytes]:
    return [key for group in partition.market.flush()[0] for key, _ in group]


def test_flush_holds_only_pages_that_changed(partition: Partition) -> None:
    partition(trade(1), trade(2, instrument=69), ids=(0, 69))
    slot_pages = [pages.slots_key(0), pages.slots_key(1)]
    window_pages = [pages.windows_key(0), pages.windows_key(1)]
    trade_pages = [pages.rows_key(facets.TRADE, 0), pages.rows_key(facets.TRADE, 1)]
    assert keys(partition) == [*slot_pages, *window_pages, *trade_pages]
    partition(quote(Side.BID, 1, 1))
    assert keys(partition) == [pages.rows_key(facets.QUOTE, 0)]
    assert keys(partition) == []
    partition.market.add([Instrument("venue", "spot", "NEW-USDT")])
    assert keys(partition) == [slot_pages[1]]
    partition.market.rewrite_pages()
    assert set(keys(partition)) == {*slot_pages, *window_pages, *(pages.rows_key(f, p) for f in (0, 1) for p in (0, 1))}


def restored(partition: Partition) -> OwnedPartition:
    """A partition made of what a flush of everything holds."""
    partition.market.rewrite_pages()
    owned = OwnedPartition(0, "", market=partition.market)
    groups, control = owned.flush()
    records = [(key, body) for group in [*groups, [control]] for key, body in group if body is not None]
    again = OwnedPartition(0, "")
    again.load(sorted(records))
    return again


def test_restored_partition_drops_what_its_control_page_counts(partition: Partition) -> None:
    partition(trade(1), snapshot(5, {100: 1}, {101: 1}))
    again = Partition()
    again.market = restored(partition).market
    assert again.values(facets.TRADE) == partition.values(facets.TRADE)
    assert sides(again.market.books, 0) == ({100: 1}, {101: 1})
    assert (again.market.applied, again.market.held) == (0, 0)
    assert again(trade(9), first=10).n_rows == 0  # version 0 again
    assert again(trade(9), first=10).n_rows == 1


def test_page_ahead_of_the_control_page_keeps_its_version_when_it_is_written_again(partition: Partition) -> None:
    partition(trade(1))
    partition(trade(2))
    page = dict(record for group in partition.market.flush()[0] for record in group)
    behind = Partition()
    behind.market.load([(key, body or b"") for key, body in page.items() if key[:1] == pages.ROWS])
    behind(trade(1))
    behind.market.rewrite_pages()
    again = dict(record for group in behind.market.flush()[0] for record in group)
    assert again[pages.rows_key(facets.TRADE, 0)] == page[pages.rows_key(facets.TRADE, 0)]
    behind(trade(2))
    assert behind.row(facets.TRADE) == partition.row(facets.TRADE)


def test_start_of_a_run_leaves_pages_that_were_written_after_it(partition: Partition) -> None:
    partition(start_of_a_run())
    partition(trade(1), snapshot(5, {100: 1}, {}))
    written = [(key, body or b"") for group in partition.market.flush()[0] for key, body in group]
    behind = Partition()
    behind.market = MarketPartition()
    behind.market.load(sorted(written))
    behind(start_of_a_run())
    assert behind.row(facets.TRADE) == partition.row(facets.TRADE)
    assert sides(behind.market.books, 0) == ({100: 1}, {})


@pytest.mark.parametrize(
    ("records", "what"),
    [
        ([(pages.slots_key(1), pages.encode_slots(INSTRUMENTS[64:]))], "slot page 1 follows 0 slots"),
        ([(pages.slots_key(0), pages.encode_slots(INSTRUMENTS[:3])), (pages.slots_key(1), b"\x90")], "follows 3 slots"),
        ([(pages.slots_key(0), b"\xc1")], "slot page cannot be read"),
        ([(pages.rows_key(0, 0), bytes(100))], "a row page of 100 bytes ends early"),
    ],
)
def test_pages_that_do_not_fit_are_refused(records: list[tuple[bytes, bytes]], what: str) -> None:
    with pytest.raises(CorruptPage, match=what):
        MarketPartition().load(records)
