"""The bench of replay on real services: its figures are there, and a log that is not whole has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agents.bench.replay import UNITS, check_log
from agents.cli.bench import bench
from models.errors import MarketPrismError
from models.market.instruments import instrument_hash
from streams.days.replay import Replay
from streams.settings import Settings, environment_of
from tests.workers import sample_day

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_bench_replay_gives_cpu_a_tick_and_lateness(make_settings: Callable[[Path], Settings], tmp_path: Path) -> None:
    options = ["--ticks", "60000", "--rate", "100000", "--paced-s", "0.2", "--runs", "1", "--live-services"]
    result = CliRunner().invoke(
        bench, ["replay", *options, "--json"], env=environment_of(make_settings(tmp_path)), catch_exceptions=False
    )
    assert result.exit_code == 0
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["parameters"] == {"day": "sample", "ticks": 60_000, "rate": 100_000, "paced_s": 0.2, "seed": 7}
    metrics = report["metrics"]
    assert metrics.keys() == UNITS.keys() - {"wire_bytes_per_tick"}  # the broker is not the bench's own
    assert all(metric["median"] > 0 for metric in metrics.values())
    assert metrics["ticks_per_command_cpu_s"]["median"] < metrics["ticks_per_producer_cpu_s"]["median"]
    assert metrics["lateness_p50_ms"]["median"] <= metrics["lateness_p99_ms"]["median"]


async def test_a_log_that_is_not_whole_does_not_count(settings: Settings) -> None:
    replay = Replay([sample_day()], settings, with_digest=False)
    report = await replay.run()
    source = instrument_hash(replay.source)
    await check_log(replay.settings, source, report)
    with pytest.raises(MarketPrismError, match="rows"):
        await check_log(replay.settings, source, replace(report, rows=report.rows + 1))
