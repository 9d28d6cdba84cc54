"""What benches are made of: figures of repeated runs, invented ticks, counters, processes, the report's form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from agents.bench.counters import WorkerCounters, parse_counters
from agents.bench.counting import miscount
from agents.bench.gateway import check_gateway
from agents.bench.machine import commit
from agents.bench.process import CpuMeter, cpu_s, disk_bytes, held
from agents.bench.recovery import start_parts
from agents.bench.site import forget_run
from agents.bench.soak import growth
from agents.bench.suite import write_report
from agents.bench.worker import check_counters
from agents.cli.bench import SCENARIOS, bench
from models.errors import MarketPrismError
from models.market.digest import InstrumentFinal
from models.market.json_tick import parse_batch
from models.market.registry import InstrumentRegistry
from models.market.tick import Action, Flag, Kind, Side
from models.perf.json_ticks import json_lines
from models.perf.summary import Report, summarise, summarise_runs
from models.perf.ticks import START_NS, LoopedTicks, SeededTicks
from streams.settings import Settings


def test_a_summary_has_the_middle_the_spread_and_every_run() -> None:
    summary = summarise([3.0, 1.0, 10.0], "us")
    assert (summary.median, summary.min, summary.max, summary.unit) == (3.0, 1.0, 10.0, "us")
    assert summary.values == (3.0, 1.0, 10.0)
    assert summarise([4.0, 2.0], "us").median == 3.0
    assert summarise([1 / 3], "us").median == 0.333333
    with pytest.raises(ValueError, match="no median"):
        summarise([], "us")


def test_metrics_keep_the_order_of_their_units_and_every_run_has_them() -> None:
    units = {"b": "s", "a": "us", "never": "s"}
    metrics = summarise_runs([{"a": 1.0, "b": 2.0}, {"b": 4.0, "a": 3.0}], units)
    assert list(metrics) == ["b", "a"]
    assert metrics["b"].median == 3.0
    with pytest.raises(ValueError, match="without a unit: c"):
        summarise_runs([{"c": 1.0}], units)
    with pytest.raises(ValueError, match="not every run has: b"):
        summarise_runs([{"a": 1.0, "b": 2.0}, {"a": 1.0}], units)


def test_the_same_seed_gives_the_same_ticks_in_batches_of_any_size() -> None:
    first, again, other = (SeededTicks(50, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first.opening(), again.opening())
    rows, same, different = (
        np.concatenate(list(ticks.batches(5_000, batch_rows=1_000))) for ticks in (first, again, other)
    )
    assert np.array_equal(rows, same)
    assert not np.array_equal(rows, different)
    assert first.instruments == other.instruments


@pytest.mark.parametrize("n_rows", [1, 2, 3, 999, 1_000, 1_001, 4_321])
def test_batches_hold_exactly_the_rows_asked_for_as_whole_events(n_rows: int) -> None:
    source = SeededTicks(20)
    batches = list(source.batches(n_rows, batch_rows=100))
    rows = np.concatenate(batches)
    assert len(rows) == n_rows
    assert all(batch["flags"][-1] & Flag.LAST for batch in batches)
    assert rows["seq"].tolist() == list(range(1, n_rows + 1))
    assert (np.diff(rows["ts_recv"]) >= 0).all()


def test_a_quote_is_a_bid_and_an_ask_one_tick_apart_and_a_trade_takes_one_of_them() -> None:
    rows = np.concatenate(list(SeededTicks(5).batches(3_000)))
    quotes = rows[rows["kind"] == Kind.QUOTE].reshape(-1, 2)
    trades = rows[rows["kind"] == Kind.TRADE]
    assert len(trades) + quotes.size == len(rows)
    assert 1.8 < len(quotes) / len(trades) < 2.2
    assert (quotes["side"] == [Side.BID, Side.ASK]).all()
    assert (quotes["action"] == Action.UPDATE).all()
    assert (quotes["flags"] == [Flag.TOB, Flag.TOB | Flag.LAST]).all()
    assert (quotes["instrument_id"][:, 0] == quotes["instrument_id"][:, 1]).all()
    assert (trades["action"] == Action.TRADE).all()
    for instrument in range(5):
        own = quotes[quotes["instrument_id"][:, 0] == instrument]
        tick = np.gcd.reduce(rows["price"][rows["instrument_id"] == instrument])
        assert (own["price"][:, 1] - own["price"][:, 0] == tick).all()
        assert (np.diff(own["venue_seq"][:, 0]) > 0).all()
        ids = trades["ref_id"][trades["instrument_id"] == instrument]
        assert (np.diff(ids) == 1).all()


def test_the_opening_has_a_trade_and_a_quote_of_every_instrument() -> None:
    rows = SeededTicks(30).opening()
    kinds = rows["kind"].reshape(30, 3)
    assert (kinds == [Kind.TRADE, Kind.QUOTE, Kind.QUOTE]).all()
    assert rows["instrument_id"][::3].tolist() == list(range(30))


def test_few_instruments_have_most_events() -> None:
    rows = np.concatenate(list(SeededTicks(1_000).batches(100_000)))
    counts = np.sort(np.bincount(rows["instrument_id"], minlength=1_000))[::-1]
    assert counts[:100].sum() > 0.4 * counts.sum()
    assert counts[0] > 20 * counts[-1]


def test_counters_are_summed_over_labels_and_subtract() -> None:
    text = """# HELP marketprism_market_ticks_total Rows.
# TYPE marketprism_market_ticks_total counter
marketprism_market_ticks_total 5.0
# TYPE marketprism_round_seconds histogram
marketprism_round_seconds_bucket{topic="md.frames.v1",le="+Inf"} 3.0
marketprism_round_seconds_count{topic="md.frames.v1"} 3.0
marketprism_round_seconds_sum{topic="md.frames.v1"} 0.25
# TYPE marketprism_cache_invalidations_total counter
marketprism_cache_invalidations_total{space="md"} 7.0
marketprism_cache_invalidations_total{space="cache"} 2.0
"""
    before = parse_counters(text)
    after = parse_counters(text.replace("ticks_total 5.0", "ticks_total 12.0"))
    assert (before.ticks, before.rounds, before.invalidations, before.gaps) == (5, 3, 9, 0)
    assert after.since(before).ticks == 7
    assert after.since(before).rounds == 0


def test_a_run_with_other_work_than_was_meant_does_not_count() -> None:
    right = WorkerCounters(ticks=50, frames=2, rounds=1, gaps=0, rewrites=0, barriers=1, changelog_records=3,
                           changelog_bytes=99, invalidations=5)  # fmt: skip
    check_counters(right, 50)
    for wrong, why in (
        ({"ticks": 49}, "49 ticks, 50 were sent"),
        ({"gaps": 1}, "1 gaps"),
        ({"rewrites": 2}, "rewrote 2"),
    ):
        with pytest.raises(MarketPrismError, match=why):
            check_counters(replace(right, **wrong), 50)


def test_a_gateway_that_lost_or_refused_records_does_not_count() -> None:
    right = WorkerCounters(ticks=5, frames=2, rounds=1, gaps=0, rewrites=0, barriers=1, changelog_records=3,
                           changelog_bytes=99, invalidations=5, json_records=3)  # fmt: skip
    check_gateway(right, ticks=5, records=3)
    for wrong, why in (
        ({"ticks": 6}, "6 ticks, 5 were sent"),
        ({"json_records": 2}, "2 records, 3 were sent"),
        ({"dead": 1}, "refused 1"),
    ):
        with pytest.raises(MarketPrismError, match=why):
            check_gateway(replace(right, **wrong), ticks=5, records=3)


def test_invented_json_lines_are_the_ticks_they_are_made_of() -> None:
    source = SeededTicks(20)
    ticks = np.concatenate([source.opening(), *source.batches(2_000)])
    lines = list(json_lines(ticks, source.instruments))
    registry = InstrumentRegistry()
    for instrument in source.instruments:
        registry.add(instrument)
    read = parse_batch(
        [line for _, line in lines],
        received_ns=[START_NS + 10**12] * len(lines),
        positions=np.arange(len(lines)) * 2,
        registry=registry,
    )
    assert read.refused == []
    for name in (
        "ts_event",
        "price",
        "size",
        "ref_id",
        "venue_seq",
        "instrument_id",
        "kind",
        "action",
        "side",
        "flags",
    ):
        assert read.ticks[name].tolist() == ticks[name].tolist(), name
    assert [who for who, _ in lines] == ticks["instrument_id"][ticks["flags"] & Flag.LAST != 0].tolist()


def test_looped_ticks_come_again_later_and_at_later_positions() -> None:
    source, same = SeededTicks(10), SeededTicks(10)
    batches = [source.opening(), *source.batches(1_000, batch_rows=400)]
    first = np.concatenate([same.opening(), *same.batches(1_000, batch_rows=400)])
    looped = LoopedTicks(batches)
    laps = [np.concatenate([looped.next().copy() for _ in batches]) for _ in range(3)]
    rows = np.concatenate(laps)
    assert np.array_equal(laps[0], first)
    assert rows["seq"].tolist() == list(range(1, len(rows) + 1))
    assert (np.diff(rows["ts_recv"]) >= 0).all()
    assert (rows["ts_event"] % 10**6 == 0).all()
    for name in ("ts_recv", "ts_event"):
        assert len({int(later - sooner) for later, sooner in zip(laps[2][name], laps[1][name], strict=True)}) == 1
    assert laps[2]["price"].tolist() == first["price"].tolist()


def test_ticks_lost_of_one_instrument_are_not_made_up_for_by_another() -> None:
    none = np.empty((0, 2), np.int64)

    def ends(**rows: int) -> list[InstrumentFinal]:
        return [InstrumentFinal(text, n, None, None, none, none) for text, n in rows.items()]

    assert miscount(ends(a=3, b=4), ends(b=4, a=3)) == (0, 0)
    assert miscount(ends(a=3, b=4), ends(a=2, b=6)) == (1, 2)
    assert miscount(ends(a=3, b=4), ends(a=3, c=5)) == (4, 5)


def test_a_start_is_told_in_parts_that_make_up_the_whole() -> None:
    passed = {"imported": 1.0, "connected": 1.5, "prepared": 2.0, "compiled": 2.0, "assigned": 2.75, "recovered": 3.0,
              "served": 3.5}  # fmt: skip
    parts = start_parts({"start_s": passed})
    assert parts == {"import_s": 1.0, "connect_s": 0.5, "prepare_s": 0.5, "kernels_s": 0.0, "join_s": 0.75,
                     "recover_s": 0.25, "take_over_s": 0.5}  # fmt: skip
    assert sum(parts.values()) == passed["served"]
    with pytest.raises(MarketPrismError, match="served"):
        start_parts({"start_s": {name: s for name, s in passed.items() if name != "served"}})


def test_growth_is_of_medians_after_the_warm_up() -> None:
    flat = [100 + n % 2 for n in range(80)]
    assert growth([1, 500] * 10 + flat) == 0
    assert growth([50] * 20 + [100] * 20 + [1_000] * 40 + [110] * 20) == pytest.approx(0.1)
    with pytest.raises(MarketPrismError, match="last longer"):
        growth([1] * 8)


@pytest.mark.parametrize("sizes", ["5", "5,5", "9,5", "a,b", "0,5", "5,2000000", ""])
def test_sizes_are_two_or_more_rising_numbers(sizes: str) -> None:
    result = CliRunner().invoke(bench, ["instruments", "--sizes", sizes])
    assert result.exit_code == 2
    assert "rising numbers" in result.output


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it")
def test_bytes_written_to_disk_are_seen_of_another_process(tmp_path: Path) -> None:
    write = f"import os\nf = open({str(tmp_path / 'file')!r}, 'wb', 0)\nf.write(bytes(1 << 20))\nos.fsync(f)\n"
    with subprocess.Popen([sys.executable, "-c", "input()\n" + write + "input()"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        before = disk_bytes(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        end = time.monotonic() + 60
        while not (tmp_path / "file").exists() or (tmp_path / "file").stat().st_size < 1 << 20:
            assert time.monotonic() < end
        after = disk_bytes(child.pid)
        child.stdin.write(b"\n")
        child.stdin.close()
    assert before is not None and after is not None
    if after == before:
        pytest.skip("the folder of temporary files is in memory")
    assert 1 << 20 <= after - before < 2 << 20


def test_cpu_is_measured_of_another_process_and_a_held_one_uses_none() -> None:
    spin = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            meter = CpuMeter({"child": child.pid})
            _burn(0.05)
            with held(child.pid):
                used = meter.read()["child"]
                _burn(0.05)
                assert psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
                assert meter.read()["child"] - used < 0.02
            assert used > 0
            assert psutil.Process(child.pid).status() != psutil.STATUS_STOPPED
        finally:
            child.kill()


def test_a_process_that_was_held_goes_on_after_an_error() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with pytest.raises(ZeroDivisionError), held(child.pid):
            _ = 1 / 0
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
        assert child.wait(20) == 0


def test_a_report_is_written_as_the_json_that_is_printed(tmp_path: Path) -> None:
    report = Report("worker", {"ticks": 5}, {"cores": 2}, "abc", 2, {"cpu_us_per_tick": summarise([2.0, 1.0], "us")})
    first, second = write_report(report, tmp_path / "new"), write_report(report, tmp_path / "new")
    assert first != second
    written = json.loads(first.read_bytes())
    assert written == {
        "scenario": "worker",
        "parameters": {"ticks": 5},
        "machine": {"cores": 2},
        "commit": "abc",
        "runs": 2,
        "metrics": {"cpu_us_per_tick": {"median": 1.5, "min": 1.0, "max": 2.0, "unit": "us", "values": [2.0, 1.0]}},
    }
    assert msgspec.json.decode(first.read_bytes(), type=Report) == report


async def test_only_a_run_may_be_forgotten() -> None:
    with pytest.raises(ValueError, match="no run's prefix"):
        await forget_run(Settings())


def test_a_commit_is_a_hash_or_unknown() -> None:
    told = commit().removesuffix("-dirty")
    assert told == "unknown" or (len(told) == 40 and int(told, 16))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_a_command_with_an_example(name: str) -> None:
    result = CliRunner().invoke(bench, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"marketprism bench {name}" in result.output
    for option in ("--runs", "--json", "--out", "--live-services"):
        assert option in result.output


def _burn(seconds: float) -> None:
    """Wait by this process's own CPU time: the other process has had its share by then, whatever else runs."""
    end = cpu_s(os.getpid()) + seconds
    while cpu_s(os.getpid()) < end:
        pass
