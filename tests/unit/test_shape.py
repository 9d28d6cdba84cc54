"""The shape of a day: counts in bins as NumPy has them, however the rows come in batches; AMZN's own numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.cli.day_shape import histogram, sparkline
from models.days.draws import Draws, apportion, exp, log, zipf
from models.days.shape import BinCounts, Shape, ShapeOf, against_amzn
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray

MS = 1_000_000


def messages(times: list[int], instrument: int = 0, kind: Kind = Kind.TRADE) -> TickArray:
    rows = np.zeros(len(times), TICK)
    rows["ts_recv"], rows["instrument_id"], rows["kind"], rows["flags"] = times, instrument, kind, Flag.LAST
    return rows


def quote(bid: int, ask: int, at: int) -> TickArray:
    """One event; a price of 0 empties the side."""
    rows = messages([at, at], kind=Kind.QUOTE)
    rows["side"], rows["price"], rows["size"] = (Side.BID, Side.ASK), (bid, ask), 1
    rows["action"] = [Action.UPDATE if price else Action.DELETE for price in (bid, ask)]
    rows["flags"][0] = 0
    return rows


def shape_of(*batches: TickArray, n_instruments: int = 1) -> Shape:
    shape = ShapeOf(0, n_instruments)
    for rows in batches:
        shape.add(rows)
    return shape.finish()


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=60).map(sorted),
    st.integers(0, 10**18),
    st.sets(st.integers(0, 60), max_size=5),
)
def test_bins_are_counted_as_numpy_counts_them_however_rows_are_cut(
    times: list[int], offset: int, cuts: set[int]
) -> None:
    at = np.array(times) * MS // 3 + offset
    bins = BinCounts(10 * MS)
    for part in np.split(at, sorted(cuts)):
        bins.add(part)
    found = bins.finish()
    counts = np.bincount(at // (10 * MS) - at[0] // (10 * MS))
    assert (found.width_ms, found.most) == (10, counts.max())
    assert found.mean == pytest.approx(counts.mean())
    assert found.p999 == pytest.approx(np.percentile(counts, 99.9))
    assert found.burst == pytest.approx(np.percentile(counts, 99.9) / counts.mean())
    assert found.empty == pytest.approx(np.mean(counts == 0))
    assert found.fano == pytest.approx(counts.var() / counts.mean(), abs=1e-9)
    assert dict(found.counts) == dict(zip(*map(np.ndarray.tolist, np.unique(counts, return_counts=True)), strict=True))


def test_only_the_instruments_events_count_and_an_event_counts_once() -> None:
    day = np.concatenate([messages([0]), quote(5, 7, MS), messages([2 * MS], instrument=1), messages([60_000 * MS])])
    shape = shape_of(day[:2], day[2:], n_instruments=2)
    assert (shape.events, shape.mix, shape.events_of) == (3, {"trade": 2, "quote": 1}, (3, 1))
    assert shape.minutes == (2, 1)
    assert shape.seconds == 60


def test_a_side_of_a_quote_stands_until_its_next_row() -> None:
    one_sided = quote(95, 0, 3 * MS)[:1]
    one_sided["flags"] = Flag.LAST
    batches = [quote(90, 100, MS), quote(0, 110, 2 * MS), one_sided, quote(95, 120, 4 * MS)]
    for parts in (batches, [np.concatenate(batches)]):
        spread = shape_of(*parts).spread
        assert spread is not None
        assert (spread.quotes, spread.p5, spread.median) == (3, pytest.approx(10.5), 15)
        assert spread.mean == pytest.approx(50 / 3)
        assert spread.bps == pytest.approx(1e4 * (10 / 95 + 15 / 102.5 + 25 / 107.5) / 3)
    assert shape_of(messages([1, 2])).spread is None


def test_an_instrument_without_messages_has_no_shape() -> None:
    with pytest.raises(ValueError, match="needs messages"):
        shape_of(messages([1, 2], instrument=1), n_instruments=2)


def test_the_course_and_the_bins_are_drawn_to_scale() -> None:
    shape = shape_of(messages([0] * 8 + [60_000 * MS] * 4 + [180_000 * MS]))
    assert sparkline(shape) == "00:00 █▄ ▁ 00:04 UTC, full height 0.1 messages a second"
    lines = histogram(shape.bins[2]).splitlines()[1:]
    assert [line.split() for line in lines if "█" in line] == [
        ["0", "█" * 11, "1798"],
        ["1", "█", "1"],
        ["4-7", "█", "1"],
        ["8-15", "█", "1"],
    ]


@pytest.mark.data
def test_amzn_itself_has_the_numbers_that_days_are_compared_with(shared: Path) -> None:
    source = shared / "market_data" / "lobster" / "LOBSTER_SampleFile_AMZN_2012-06-21_5.zip"
    with zipfile.ZipFile(source) as archive:
        name = next(entry for entry in archive.namelist() if "message" in entry)
        with archive.open(name) as lines:
            seconds = [line.split(b",", 1)[0].decode() for line in lines]
    times = [int(whole) * 10**9 + int(part.ljust(9, "0")) for whole, _, part in (s.partition(".") for s in seconds)]
    assert len(times) == 155_935
    rows = messages(times)
    against = against_amzn(shape_of(*(rows[k : k + 10_000] for k in range(0, len(rows), 10_000))))
    assert max(abs(row.deviation) for row in against) < 0.02


# -- the random numbers that generated days are made of ----------------------------------------------------------------


def test_logarithm_and_exponential_are_close_to_the_platforms() -> None:
    x = np.append(Draws(1).uniform(10_000) + 1e-12, [1e-300, 1.0, 1e300])
    assert np.abs(log(x) - np.log(x)).max() < 1e-11
    y = np.linspace(-5, 5, 1001)
    assert np.abs(exp(y) / np.exp(y) - 1).max() < 2.1e-5


def test_draws_have_the_moments_of_their_distributions() -> None:
    draws, n = Draws(3), 200_000
    for values, mean, variance in (
        (draws.uniform(n), 1 / 2, 1 / 12),
        (draws.exponential(n), 1, 1),
        (draws.normal(n), 0, 1),
        (draws.poisson(0.46, n), 0.46, 0.46),
        (draws.below(10, n), 4.5, 99 / 12),
    ):
        assert values.mean() == pytest.approx(mean, abs=0.02)
        assert values.var() == pytest.approx(variance, rel=0.03)
    assert {draws.between(3, 5) for _ in range(100)} == {3, 4, 5}


def test_streams_of_one_seed_differ_and_come_again() -> None:
    assert Draws(1, 2).raw(3).tolist() == Draws(1, 2).raw(3).tolist()
    assert Draws(1, 2).raw(3).tolist() != Draws(1, 3).raw(3).tolist()


def test_events_are_apportioned_exactly() -> None:
    counts = apportion(1_000_003, zipf(777, "0.7"))
    assert counts.sum() == 1_000_003
    assert (np.diff(counts) <= 0).all()
    assert counts[0] / counts[99] == pytest.approx(100**0.7, rel=1e-3)
