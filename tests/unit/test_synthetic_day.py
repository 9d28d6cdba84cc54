"""Generated days: the same for the same recipe, whole books, every planted anomaly where its label says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import msgspec
import numpy as np
import pytest

from models.days.anomalies import KINDS, Label
from models.days.recipe import Recipe
from models.days.shape import ShapeOf, against_amzn
from models.days.synthetic import SyntheticDay
from models.errors import InvalidRecipe
from models.market.tick import Action, Flag, Kind, Side, TickArray

START_NS = 1_748_871_000 * 10**9
SMALL = Recipe(seed=7, symbols=5, events=5_000, venue_kind="equity", start_ns=START_NS, duration_s=3600, anomalies=6)
COINS = msgspec.structs.replace(SMALL, venue_kind="crypto")
AMZN = Recipe(seed=1, symbols=1, events=155_935, venue_kind="equity", start_ns=START_NS, duration_s=23_400)
# SHA-256 of the rows of SMALL and COINS: they may change with the generator, never with the machine
PINNED = {
    "equity": "bb71ae7c4a8326d81a7a78dac2b514e8e49e4385f24c1e0da36d4d5a3e4af71b",
    "crypto": "026d5e0f342b8cdcf80850ed33d26edb1f115f158e2de8425091372ef8c83c03",
}


def rows_of(day: SyntheticDay) -> TickArray:
    return np.concatenate(list(day.batches()))


@dataclass
class Seen:
    """An event, the books of its instrument before it, and after it as long as nothing else was played."""

    rows: TickArray
    before: tuple[dict[int, int], dict[int, int]]
    bids: dict[int, int]
    asks: dict[int, int]

    @property
    def kind(self) -> int:
        return int(self.rows["kind"][0])


def played(rows: TickArray, gap: Label | None = None) -> Iterator[Seen]:
    """Events in order, with books made of nothing but the rows, which lack levels inside a sequence gap."""
    books: dict[int, tuple[dict[int, int], dict[int, int]]] = {}
    ends = np.flatnonzero(rows["flags"] & Flag.LAST) + 1
    for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        event = rows[start:end]
        assert len(np.unique(event[["instrument_id", "kind", "ts_event", "ts_recv"]])) == 1
        book = books.setdefault(int(event["instrument_id"][0]), ({}, {}))
        before = dict(book[0]), dict(book[1])
        if event["kind"][0] == Kind.BOOK:
            for action, side, price, size in event[["action", "side", "price", "size"]].tolist():
                if action == Action.CLEAR:
                    book[0].clear()
                    book[1].clear()
                elif action == Action.DELETE:
                    gone = book[side - 1].pop(price, None)
                    assert gone is not None or (gap and gap.start_ns <= event["ts_event"][0] <= gap.end_ns)
                else:
                    book[side - 1][price] = size
        yield Seen(event, before, *book)


@pytest.mark.parametrize("recipe", [SMALL, COINS], ids=["equity", "crypto"])
def test_the_rows_of_a_recipe_are_pinned(recipe: Recipe) -> None:
    rows = rows_of(SyntheticDay(recipe))
    assert sha256(rows.tobytes()).hexdigest() == PINNED[recipe.venue_kind]
    other = rows_of(SyntheticDay(msgspec.structs.replace(recipe, seed=8)))
    assert len(other) != len(rows) or (other != rows).any()


@pytest.mark.parametrize("recipe", [SMALL, COINS], ids=["equity", "crypto"])
def test_a_day_without_anomalies_has_as_many_events_as_asked_for_in_order_and_whole(recipe: Recipe) -> None:
    day = SyntheticDay(msgspec.structs.replace(recipe, anomalies=0, events=50_000))
    batches = list(day.batches())
    rows = np.concatenate(batches)
    assert all(batch["flags"][-1] & Flag.LAST for batch in batches)
    assert int(np.count_nonzero(rows["flags"] & Flag.LAST)) == 50_000
    ends = rows[(rows["flags"] & Flag.LAST) != 0]
    assert np.bincount(ends["instrument_id"]).tolist() == day.counts.tolist()
    assert rows["seq"].tolist() == list(range(1, len(rows) + 1))
    assert (np.diff(rows["ts_recv"]) >= 0).all()
    assert rows["ts_event"].min() >= START_NS - 10**9 and rows["ts_event"].max() < START_NS + 3600 * 10**9
    popular = day.counts / day.counts[0]
    assert popular == pytest.approx(np.arange(1, 6) ** -0.7, rel=1e-3)


@pytest.mark.parametrize("recipe", [SMALL, COINS], ids=["equity", "crypto"])
def test_books_are_whole_and_quotes_and_trades_agree_with_them(recipe: Recipe) -> None:
    day = SyntheticDay(msgspec.structs.replace(recipe, anomalies=0, events=20_000))
    last_id: dict[int, int] = {}
    n_trades = 0
    for seen in played(rows_of(day)):
        who, first = int(seen.rows["instrument_id"][0]), seen.rows[0]
        if seen.kind == Kind.BOOK:
            if who in last_id:
                assert int(first["ref_id"]) == last_id[who] < int(first["venue_seq"])
            else:
                assert first["action"] == Action.CLEAR
            last_id[who] = int(first["venue_seq"])
            assert min(len(seen.bids), len(seen.asks)) >= 3
            assert max(seen.bids) < min(seen.asks)
            assert min(*seen.bids.values(), *seen.asks.values()) > 0
        elif seen.kind == Kind.QUOTE:
            bid, ask = max(seen.bids), min(seen.asks)
            expected = [(Side.BID, bid, seen.bids[bid]), (Side.ASK, ask, seen.asks[ask])]
            assert seen.rows[["side", "price", "size"]].tolist() == expected
        else:  # prints are at levels of the book, from the touch on; the diff follows
            n_trades += 1
            book = seen.asks if first["side"] == Side.BID else seen.bids
            assert 0 < int(first["size"]) <= book[int(first["price"])]
        tick = round(float(day.instruments[who].tick or 0) * 1e9)
        assert (seen.rows["price"] % tick == 0).all()
    assert n_trades > 500


def test_half_of_the_new_levels_of_an_exchange_hold_a_round_lot() -> None:
    rows = rows_of(SyntheticDay(msgspec.structs.replace(AMZN, events=40_000)))
    sizes = []
    for seen in played(rows):
        if seen.kind == Kind.BOOK and len(seen.rows) == 1 and seen.rows["action"][0] == Action.UPDATE:
            price, side = int(seen.rows["price"][0]), int(seen.rows["side"][0])
            if price not in seen.before[side - 1]:
                sizes.append(int(seen.rows["size"][0]) // 10**9)
    assert len(sizes) > 2_000
    assert np.mean(np.array(sizes) == 100) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_day_as_busy_as_amzn_is_as_bursty(seed: int) -> None:
    shape = ShapeOf(0, 1)
    for rows in SyntheticDay(msgspec.structs.replace(AMZN, seed=seed)).batches():
        shape.add(rows)
    found = shape.finish()
    assert [row for row in against_amzn(found) if not row.within] == []
    trades = found.mix["trade"]
    assert 10 < found.mix["book"] / trades < 14 and 2 < found.mix["quote"] / trades < 5
    assert found.spread is not None and 10 < found.spread.mean / 10**7 < 18


def test_a_poisson_day_would_be_noticed() -> None:
    times = np.sort(np.random.default_rng(1).integers(0, 23_400 * 10**9, 155_935)) + START_NS
    rows = rows_of(SyntheticDay(msgspec.structs.replace(AMZN, events=100)))[:1].repeat(len(times))
    rows["ts_recv"], rows["flags"], rows["kind"] = times, Flag.LAST, Kind.TRADE
    shape = ShapeOf(0, 1)
    shape.add(rows)
    assert sum(not row.within for row in against_amzn(shape.finish())) > 6


# -- anomalies ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> tuple[TickArray, dict[str, Label]]:
    """The rows of one busy instrument and the label of each kind."""
    day = SyntheticDay(msgspec.structs.replace(AMZN, events=60_000, anomalies=6))
    rows = rows_of(day)
    labels = {label.kind: label for label in day.labels()}
    assert labels.keys() == set(KINDS)
    return rows, labels


def labelled(rows: TickArray, label: Label) -> TickArray:
    """All rows from the label's first to its last; the day has one instrument."""
    return rows[label.first_seq - 1 : label.last_seq]


def test_a_price_spike_prints_far_from_the_market_for_a_moment(planted: tuple[TickArray, dict[str, Label]]) -> None:
    rows, labels = planted
    label = labels["price_spike"]
    trades = rows[rows["kind"] == Kind.TRADE]
    middle = np.median(trades["price"])
    far = trades[abs(trades["price"] / middle - 1) > 0.018]
    assert len(far) == label.rows == label.parameters["prints"]
    assert (int(far["seq"][0]), int(far["seq"][-1])) == (label.first_seq, label.last_seq)
    assert (int(far["ts_event"][0]), int(far["ts_event"][-1])) == (label.start_ns, label.end_ns)
    assert np.median(far["price"]) / middle - 1 == pytest.approx(label.parameters["deviation"], abs=0.01)


def test_a_volume_burst_trades_many_times_the_usual_volume(planted: tuple[TickArray, dict[str, Label]]) -> None:
    rows, labels = planted
    label = labels["volume_burst"]
    trades = rows[rows["kind"] == Kind.TRADE]
    second = (trades["ts_event"] - START_NS) // 10**9
    volume = np.bincount(second, trades["size"])
    length = (label.end_ns - label.start_ns) / 1e9 + 1
    inside = labelled(rows, label)
    inside = inside[inside["kind"] == Kind.TRADE]
    assert inside["size"].sum() / length > 20 * volume.mean()
    assert label.start_ns <= inside["ts_event"].min() and inside["ts_event"].max() <= label.end_ns
    assert label.start_ns <= int(second[np.argmax(trades["size"])]) * 10**9 + START_NS + 10**9


def test_a_blown_out_spread_is_many_times_the_usual_one_until_it_ends(
    planted: tuple[TickArray, dict[str, Label]],
) -> None:
    rows, labels = planted
    label = labels["spread_blowout"]
    quotes = rows[rows["kind"] == Kind.QUOTE].reshape(-1, 2)
    at, spread = quotes["ts_event"][:, 0], quotes["price"][:, 1] - quotes["price"][:, 0]
    inside = np.flatnonzero((label.start_ns <= at) & (at <= label.end_ns))
    assert (at[inside[0]], at[inside[-1]]) == (label.start_ns, label.end_ns)
    usual = 21 * 10**7  # of 220 dollars
    assert spread[inside[:-1]].min() >= label.parameters["spread_factor"] * usual
    assert max(spread[inside[-1]], spread[inside[0] - 1]) < 2 * usual


def test_a_stale_feed_is_silent(planted: tuple[TickArray, dict[str, Label]]) -> None:
    rows, labels = planted
    label = labels["stale_feed"]
    at = np.unique(rows["ts_event"])
    gap = int(np.argmax(np.diff(at)))
    assert at[gap] <= label.start_ns and label.end_ns <= at[gap + 1]
    assert (label.end_ns - label.start_ns) / 1e9 == label.parameters["seconds"] >= 60
    assert (label.rows, label.first_seq, label.last_seq) == (0, 0, 0)


def test_only_the_crossed_book_is_crossed_and_only_between_its_stamps(
    planted: tuple[TickArray, dict[str, Label]],
) -> None:
    rows, labels = planted
    label, gap = labels["crossed_book"], labels["sequence_gap"]
    crossed, last = [], 0
    for seen in played(rows, gap):
        at = int(seen.rows["ts_event"][0])
        if seen.bids and max(seen.bids) >= min(seen.asks) and not gap.start_ns <= at <= gap.end_ns:
            crossed.append(seen)
            last = int(seen.rows["seq"][-1])
    assert [seen.kind for seen in crossed] == [Kind.BOOK, Kind.QUOTE]
    assert max(crossed[0].before[0]) < min(crossed[0].before[1])
    assert int(crossed[0].rows["ts_event"][0]) == label.start_ns
    assert int(crossed[0].rows["seq"][0]) == label.first_seq
    assert int(rows["ts_event"][last]) == label.end_ns  # the next event uncrosses it


def test_a_sequence_gap_shows_in_the_update_ids_and_ends_with_a_snapshot(
    planted: tuple[TickArray, dict[str, Label]],
) -> None:
    rows, labels = planted
    label = labels["sequence_gap"]
    diffs = rows[(rows["kind"] == Kind.BOOK) & (rows["side"] != Side.NONE) & (rows["action"] != Action.ADD)]
    ids, at = np.unique(diffs["venue_seq"], return_index=True)
    missing = ids[1:][diffs["ref_id"][at][1:] != ids[:-1]]
    assert len(missing) == 1
    shows = diffs[diffs["venue_seq"] == missing[0]]
    assert int(shows["seq"][0]) == label.first_seq and int(shows["ts_event"][0]) == label.start_ns
    assert int(shows["ref_id"][0]) - int(ids[np.searchsorted(ids, missing[0]) - 1]) == label.parameters["lost_diffs"]
    snapshot = labelled(rows, label)[-1]
    assert snapshot["flags"] == Flag.LAST | Flag.MBP | Flag.SNAPSHOT
    assert int(snapshot["ts_event"]) == label.end_ns


def test_each_kind_takes_its_turn_among_the_busiest_instruments() -> None:
    day = SyntheticDay(msgspec.structs.replace(SMALL, symbols=20, events=20_000, anomalies=30))
    list(day.batches())
    labels = day.labels()
    assert [label.kind for label in labels].count("stale_feed") == 5
    assert [label.start_ns for label in labels] == sorted(label.start_ns for label in labels)
    assert all(a.end_ns < b.start_ns for a, b in itertools.pairwise(labels))
    assert {label.instrument for label in labels} <= {of.text for of in day.instruments[:5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"venue_kind": "casino"}, "venue kind 'casino' is none of equity, crypto"),
        ({"duration_s": 59}, "lasts 60 to 23400 s, not 59"),
        ({"duration_s": 23_401}, "lasts 60 to 23400 s, not 23401"),
        ({"seed": -1}, "seed is -1"),
        ({"symbols": 0}, "1 to 100000 symbols, not 0"),
        ({"anomalies": 61}, "61 anomalies do not fit into 3600 s"),
        ({"events": 40}, "leave 5 to the last one; it needs 10"),
    ],
)
def test_a_recipe_whose_numbers_do_not_fit_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        SyntheticDay(msgspec.structs.replace(SMALL, **change))
