"""The bench of the worker on real services: its figures are there, and a wrong run has none."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from click.testing import CliRunner

from agents.bench.latency import UNITS as LATENCY_UNITS
from agents.bench.producer import tick_log
from agents.bench.recovery import START_PARTS
from agents.bench.site import BenchSite
from agents.bench.worker import UNITS, WorkerScenario, check_served
from agents.cli.bench import bench
from models.errors import MarketPrismError
from models.perf.ticks import SeededTicks
from streams.cache.connect import connect_redis
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings, environment_of
from tests.conftest import WaitUntil

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def report_of(settings: Settings, *arguments: str) -> dict[str, Any]:
    """What a scenario prints as JSON; every metric has a unit and its spread."""
    result = CliRunner().invoke(
        bench, [*arguments, "--live-services", "--json"], env=environment_of(settings), catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert report["scenario"] == arguments[0]
    assert {"cpu", "cores", "memory_bytes", "load", "python", "kafka", "redis", "libraries"} <= report["machine"].keys()
    for metric in report["metrics"].values():
        assert metric["min"] <= metric["median"] <= metric["max"]
        assert len(metric["values"]) == report["runs"]
    return report


def test_bench_worker_prints_its_figures_as_json_and_writes_them(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    options = ["--instruments", "50", "--ticks", "20000", "--frame-ticks", "256", "--runs", "2"]
    report = report_of(make_settings(tmp_path), "worker", *options, "--out", str(tmp_path / "out"))
    assert report["runs"] == 2
    assert report["parameters"] == {"instruments": 50, "ticks": 20_000, "frame_ticks": 256, "seed": 7}
    metrics = report["metrics"]
    assert metrics.keys() <= UNITS.keys()
    for name, metric in metrics.items():
        assert metric["unit"] == UNITS[name]
        assert metric["min"] > 0, name
    a_tick, a_second = metrics["cpu_us_per_tick"]["values"], metrics["ticks_per_cpu_s"]["values"]
    assert [round(us * per_s / 1e6, 3) for us, per_s in zip(a_tick, a_second, strict=True)] == [1.0, 1.0]
    assert metrics["worker_cpu_s"]["values"][0] == pytest.approx(a_tick[0] * 20_000 / 1e6, rel=1e-3)
    assert 8 < metrics["frame_bytes_per_tick"]["median"] < 80
    (written,) = (tmp_path / "out").iterdir()
    assert json.loads(written.read_bytes()) == report


def test_bench_latency_prints_what_a_paced_tick_takes_to_a_reader(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    options = ["--rate", "2000", "--instruments", "20", "--seconds", "2", "--frame-ms", "3", "--runs", "1"]
    result = CliRunner().invoke(
        bench,
        ["latency", *options, "--most-late-ms", "10000", "--live-services", "--json"],
        env=environment_of(make_settings(tmp_path)),
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["parameters"] == {"rate": 2000, "instruments": 20, "seconds": 2.0, "frame_ms": 3.0, "seed": 7}
    metrics = {name: metric["median"] for name, metric in report["metrics"].items()}
    assert metrics.keys() <= LATENCY_UNITS.keys()
    names = ["p50", "p99", "p999", "max"]
    shown = [metrics[f"publish_visible_{name}_ms"] for name in names]
    assert 0 < shown[0] <= shown[1] <= shown[2] <= shown[3]
    assert 0 < metrics["worker_cpu_ratio"] < 2
    assert {"worker_cpu_s", "producer_cpu_s", "reader_cpu_s", "loop_lag_p999_ms"} <= metrics.keys()


def test_bench_gateway_counts_the_cost_of_a_json_record(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    options = ["--instruments", "40", "--ticks", "9000", "--batch-records", "50", "--runs", "1"]
    report = report_of(make_settings(tmp_path), "gateway", *options)
    metrics = {name: metric["median"] for name, metric in report["metrics"].items()}
    records = 9_000 / metrics["ticks_per_record"]
    assert records == pytest.approx(round(records), abs=0.1)
    assert 1.5 < metrics["ticks_per_record"] < 1.8
    assert metrics["cpu_us_per_record"] == pytest.approx(metrics["worker_cpu_s"] / records * 1e6, rel=1e-3)
    assert 0 < metrics["gateway_cpu_us_per_record"] < metrics["cpu_us_per_record"]
    assert 150 < metrics["json_bytes_per_record"] < 350


def test_bench_instruments_compares_sizes_and_sees_what_reaches_the_disk(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    options = ["--sizes", "5,300", "--ticks", "5000", "--paced-s", "3", "--ticks-per-s", "2000", "--runs", "1"]
    report = report_of(make_settings(tmp_path), "instruments", *options)
    metrics = {name: metric["median"] for name, metric in report["metrics"].items()}
    assert metrics["ratio_300_5"] == pytest.approx(metrics["cpu_us_per_tick_300"] / metrics["cpu_us_per_tick_5"], 1e-3)
    assert metrics["changelog_bytes_per_tick_300"] > metrics["changelog_bytes_per_tick_5"] > 0
    assert metrics["paced_changelog_bytes_per_tick"] > 0
    assert metrics.get("rocksdb_write_amplification", 1) >= 0.5


@pytest.mark.parametrize("disk", ["kept", "lost"])
def test_bench_recovery_loses_no_tick_and_says_where_the_time_went(
    make_settings: Callable[[Path], Settings], tmp_path: Path, disk: str
) -> None:
    options = ["--instruments", "40", "--ticks-per-s", "2000", "--warm-up-s", "2", "--disk", disk, "--runs", "1"]
    report = report_of(make_settings(tmp_path), "recovery", *options)
    metrics = {name: metric["median"] for name, metric in report["metrics"].items()}
    assert metrics["lost"] == metrics["duplicated"] == 0
    assert metrics["ticks_sent"] > 4_000
    assert metrics["serve_again_s"] >= metrics["ready_s"] > 0
    parts = [value for name, value in metrics.items() if name in START_PARTS]
    assert len(parts) == len(START_PARTS)
    assert 0 < sum(parts) < metrics["ready_s"] + 0.5


def test_bench_handover_loses_no_tick(make_settings: Callable[[Path], Settings], tmp_path: Path) -> None:
    options = ["--instruments", "40", "--ticks-per-s", "2000", "--session-timeout-s", "2", "--runs", "1"]
    report = report_of(make_settings(tmp_path), "handover", *options)
    metrics = {name: metric["median"] for name, metric in report["metrics"].items()}
    assert metrics["lost"] == metrics["duplicated"] == 0
    assert metrics["takeover_s"] > 1, "nobody knows of a death before the session ends"
    assert 0 < metrics["graceful_s"] < metrics["takeover_s"]


def test_bench_soak_sees_memory_and_serves_what_was_sent(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    report = report_of(make_settings(tmp_path), "soak", "--minutes", "0.2", "--instruments", "40")
    metrics = {name: metric["median"] for name, metric in report["metrics"].items()}
    assert report["runs"] == 1
    assert metrics["rss_max_bytes"] >= metrics["rss_median_bytes"] > 50 << 20
    assert abs(metrics["rss_growth_ratio"]) < 0.5
    assert metrics["ticks_per_cpu_s"] > metrics["ticks_per_s"] > 0


async def test_a_run_leaves_no_topics_and_keys_behind(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    class Named(WorkerScenario):
        name = uuid.uuid4().hex  # on a shared site other benches may run

    metrics = await Named(instruments=3, ticks=100, frame_ticks=4, seed=1).run(BenchSite(settings, tmp_path))
    assert metrics["worker_cpu_s"] > 0
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap)
    await admin.start()

    async def gone() -> bool:  # a broker lists topics for a moment after it has acknowledged their end
        return not any(Named.name in name for name in await admin.list_topics())

    try:
        await wait_until(gone, 10.0, "the end of the run's topics")
    finally:
        await admin.close()
    async with aclosing(connect_redis(settings.redis)) as redis:
        assert [key async for key in redis.scan_iter(match=f"run.{Named.name}*", count=1000)] == []


async def test_a_worker_that_serves_something_else_does_not_count(settings: Settings, tmp_path: Path) -> None:
    await ensure_topics(settings)
    async with tick_log(settings, SeededTicks(20), frame_ticks=64) as log:
        async with WorkerProcess(settings, tmp_path / "worker.log"):
            await log.send_opening()
            await log.send(1_000)
            await wait_served(settings, log.sender.offsets)
        right = log.expected()
        await check_served(settings, right)
        first = right[0]
        assert first.quote is not None
        wrong = replace(first, quote=(first.quote[0] + 1, *first.quote[1:]))
        with pytest.raises(MarketPrismError, match="RocksDB holds"):
            await check_served(settings, [wrong, *right[1:]])
        lost = replace(first, rows=first.rows + 1)
        with pytest.raises(MarketPrismError, match="RocksDB holds"):
            await check_served(settings, [lost, *right[1:]])
