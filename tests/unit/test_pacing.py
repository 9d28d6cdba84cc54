"""Which rows of a replay leave together, and when."""

from __future__ import annotations

import numpy as np
import pytest

from models.days.received import clean
from models.errors import InstrumentConflict
from models.market.instruments import Instrument
from models.market.tick import TICK, Flag
from streams.days.day import Day
from streams.days.feed import DayFeed
from streams.days.manifest import Origin
from streams.days.pacing import RatePace, SpeedPace, groups
from streams.days.writer import DayWriter


def test_only_gaps_scale() -> None:
    recv = np.array([1_000, 1_000, 3_000, 11_000])
    seq = np.arange(1, 5, dtype=np.uint64)
    assert SpeedPace(500, 1_000, 1).due(recv, seq).tolist() == [500, 500, 2_500, 10_500]
    assert SpeedPace(500, 1_000, 4).due(recv, seq).tolist() == [500, 500, 1_000, 3_000]


def test_a_rate_spreads_rows_evenly_whatever_the_gaps_were() -> None:
    recv, seq = np.array([1_000, 1_000, 3_000, 11_000]), np.arange(7, 11, dtype=np.uint64)
    pace = RatePace(500, 7, 1_000_000)
    assert pace.due(recv, seq).tolist() == [500, 1_500, 2_500, 3_500]
    pace.shift(9)
    assert pace.due(recv, seq).tolist() == [509, 1_509, 2_509, 3_509]


def test_a_pause_delays_what_is_still_to_come() -> None:
    pace = SpeedPace(500, 1_000, 2)
    pace.shift(7)
    assert pace.due(np.array([3_000]), np.ones(1, np.uint64)).tolist() == [1_507]


def test_groups_hold_one_partition_and_one_window_and_come_as_they_are_due() -> None:
    n = 500
    rng = np.random.default_rng(1)
    ticks = np.zeros(n, TICK)
    ticks["seq"] = np.arange(1, n + 1)
    ticks["flags"] = Flag.LAST
    partitions = rng.integers(0, 3, n)
    due = np.sort(rng.integers(0, 100_000, n))
    made = list(groups(clean(ticks), partitions, due, 5_000))
    ends = [int(group.due_ns[-1]) for group in made]
    assert ends == sorted(ends)
    for group in made:
        assert group.due_ns[-1] - group.due_ns[0] < 5_000
        assert (partitions[group.ticks["seq"].astype(int) - 1] == group.partition).all()
        assert (due[group.ticks["seq"].astype(int) - 1] == group.due_ns).all()
    for partition in range(3):
        seen = np.concatenate([group.ticks["seq"] for group in made if group.partition == partition])
        assert seen.tolist() == (np.flatnonzero(partitions == partition) + 1).tolist()


def test_a_window_ends_with_one_group_that_says_how_many_rows_are_out_by_then() -> None:
    n = 300
    rng = np.random.default_rng(2)
    ticks = np.zeros(n, TICK)
    ticks["seq"], ticks["flags"] = np.arange(1, n + 1), Flag.LAST
    rows = clean(ticks)._replace(fate=rng.integers(0, 3, n).astype(np.uint8))
    out = 0
    seen: set[int] = set()
    for group in groups(rows, rng.integers(0, 3, n), np.sort(rng.integers(0, 50_000, n)), 5_000):
        seen |= set(group.ticks["seq"].tolist())
        assert group.fate is not None
        assert (rows.fate[group.ticks["seq"].astype(int) - 1] == group.fate).all()
        if group.n_done:
            assert seen == set(range(1, group.n_done + 1))
            out = group.n_done
    assert out == n


def test_an_event_never_falls_into_two_groups() -> None:
    ticks = np.zeros(4, TICK)
    ticks["flags"] = [0, Flag.LAST, 0, Flag.LAST]
    made = list(groups(clean(ticks), np.zeros(4, np.int64), np.array([0, 10, 10, 5_011]), 5_000))
    assert [len(group.ticks) for group in made] == [2, 2]
    assert [group.due_ns.tolist() for group in made] == [[10, 10], [5_011, 5_011]]


def day(folder: object, name: str, recv: list[int], *instruments: Instrument) -> Day:
    ticks = np.zeros(len(recv), TICK)
    ticks["ts_recv"], ticks["flags"], ticks["kind"] = recv, Flag.LAST, 1
    ticks["instrument_id"] = np.arange(len(recv)) % len(instruments)
    with DayWriter(f"{folder}/{name}", name=name, origin=Origin()) as writer:
        writer.append(ticks)
        return writer.finish(instruments)


A, B, C = (Instrument("binance", "spot", f"{base}-USDT") for base in ("BTC", "ETH", "SOL"))


def test_days_that_overlap_become_one_stream_with_one_list_of_instruments(tmp_path: object) -> None:
    feed = DayFeed([day(tmp_path, "x", [1, 4, 6], A, B), day(tmp_path, "y", [2, 3, 7], B, C)])
    rows = np.concatenate(list(feed.batches()))
    assert (feed.name, feed.rows, feed.first_ns, feed.last_ns) == ("x+y", 6, 1, 7)
    assert [i.text for i in feed.instruments] == [A.text, B.text, C.text]
    assert rows["ts_recv"].tolist() == [1, 2, 3, 4, 6, 7]
    assert rows["seq"].tolist() == [1, 2, 3, 4, 5, 6]
    assert rows["instrument_id"].tolist() == [0, 1, 2, 1, 0, 1]


def test_days_that_disagree_on_exponents_are_refused(tmp_path: object) -> None:
    other = Instrument("binance", "spot", "BTC-USDT", price_exp=-2)
    with pytest.raises(InstrumentConflict, match="BTC-USDT"):
        DayFeed([day(tmp_path, "x", [1], A), day(tmp_path, "y", [2], other)])
