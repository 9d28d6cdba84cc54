"""Latency from the due time, tick by tick, and what a histogram of bounds says."""

from __future__ import annotations

import numpy as np
import pytest

from agents.bench.counters import parse_histogram
from agents.bench.latency import as_read, check_memory
from models.errors import MarketPrismError
from models.market.fold import OfflineFold
from models.perf.histogram import Histogram
from models.perf.latency import as_live, due_times, visible_latencies
from models.perf.ticks import SeededTicks


def test_ticks_are_due_at_their_place_in_time_without_drift() -> None:
    due = due_times(100, 3, 7)
    assert due.tolist() == [100 + i * 10**9 // 3 for i in range(7)]


def test_live_ticks_are_heard_when_they_are_due_and_rise_without_a_late_one() -> None:
    ticks = np.concatenate(list(SeededTicks(20).batches(500)))
    before = ticks.copy()
    live = as_live(ticks, due := due_times(10**18, 50_000, 500))
    assert np.array_equal(ticks, before)
    assert np.array_equal(live["ts_recv"], due)
    assert (live["ts_event"] % 1_000_000 == 0).all()
    lag = (live["ts_recv"] - live["ts_event"]) - (ticks["ts_recv"] - ticks["ts_event"])
    assert ((lag >= 0) & (lag < 1_000_000)).all()
    assert np.array_equal(live["price"], ticks["price"])


def test_every_tick_counts_from_its_own_due_time() -> None:
    due = np.array([10, 20, 30, 40, 50], np.int64)
    partition = np.array([0, 1, 0, 1, 0])
    late = visible_latencies(due, partition, [[(35, 2), (90, 1)], [(60, 2)]])
    assert sorted(late.tolist()) == [5, 20, 25, 40, 40]
    warm = visible_latencies(due, partition, [[(35, 2), (90, 1)], [(60, 2)]], from_ns=30)
    assert sorted(warm.tolist()) == [5, 20, 40]


def test_a_tick_that_was_not_shown_or_shown_twice_is_no_figure() -> None:
    due, partition = np.array([10, 20], np.int64), np.array([0, 1])
    for seen in ([[(30, 1)], []], [[(30, 2)], [(40, 1)]]):
        with pytest.raises(ValueError, match="ticks"):
            visible_latencies(due, partition, seen)


def test_a_quantile_is_the_upper_end_of_its_bucket() -> None:
    histogram = Histogram.of_totals({float("inf"): 10, 0.001: 6, 0.01: 9})
    assert histogram.counts == {0.001: 6, 0.01: 3, float("inf"): 1}
    assert [histogram.quantile(q) for q in (0.5, 0.6, 0.61, 0.9, 1)] == [0.001, 0.001, 0.01, 0.01, float("inf")]
    with pytest.raises(ValueError, match="without a value"):
        histogram.since(histogram).quantile(0.5)


def test_a_histogram_is_read_from_metrics_and_subtracts() -> None:
    text = "\n".join(
        ["# TYPE lag_seconds histogram"]
        + [f'lag_seconds_bucket{{le="{le}"}} {n}' for le, n in (("0.001", 5.0), ("0.01", 7.0), ("+Inf", 7.0))]
        + ["lag_seconds_count 7.0", "lag_seconds_sum 0.1", ""]
    )
    before = parse_histogram(text, "lag_seconds")
    after = parse_histogram(text.replace(" 7.0", " 9.0"), "lag_seconds")
    assert after.since(before).counts == {0.001: 0, 0.01: 2, float("inf"): 0}
    assert after.since(before).quantile(0.999) == 0.01


def test_a_reader_that_holds_something_else_is_no_measurement() -> None:
    source = SeededTicks(3)
    fold = OfflineFold([instrument.text for instrument in source.instruments])
    fold.update(source.opening())
    finals = fold.finals()
    values = {key: value for final in finals for key, value in as_read(final).items()}
    check_memory({"from_memory": 6, "values": values}, finals)
    with pytest.raises(MarketPrismError, match="only 5 of 6"):
        check_memory({"from_memory": 5, "values": values}, finals)
    key = next(iter(values))
    with pytest.raises(MarketPrismError, match=f"1 keys .* as {key}"):
        check_memory({"from_memory": 6, "values": values | {key: {**values[key], "price": "0"}}}, finals)
