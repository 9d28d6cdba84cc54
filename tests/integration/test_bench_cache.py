"""The parts of the cache bench that need services: Redis reads, and the check that finds copies which lie."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.bench.cache.agree import count_violations
from agents.bench.cache.colocated import time_rocks_reads
from agents.bench.cache.scenario import CacheScenario
from agents.bench.readers import ReadersScenario
from agents.bench.site import BenchSite
from streams.cache.memory import Memory
from streams.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


async def test_redis_reads_are_counted_and_timed(make_settings: Callable[[Path], Settings], tmp_path: Path) -> None:
    scenario = CacheScenario(Path(sys.executable), 500, 100, 100, 1.5, 5, 7)
    found = await scenario._redis(BenchSite(make_settings(tmp_path), tmp_path))
    assert found["redis_reads_per_s"] > 10
    assert 0 < found["redis_p50_ms"] <= found["redis_p99_ms"]
    assert 0 < found["redis_cpu_us_per_read"] < 10_000


async def test_rocksdb_beside_a_worker_is_read_and_timed(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    found = await time_rocks_reads(BenchSite(make_settings(tmp_path), tmp_path), keys=50, seconds=0.3, seed=7)
    assert found.keys() <= CacheScenario.units.keys()
    for kind in ("row", "entry"):
        assert 0 < found[f"rocksdb_{kind}_p50_ns"] <= found[f"rocksdb_{kind}_p99_ns"]
        assert 0 < found[f"rocksdb_{kind}_cpu_ns"] < 1_000_000


async def test_tiers_that_agree_break_nothing(make_settings: Callable[[Path], Settings], tmp_path: Path) -> None:
    site = BenchSite(make_settings(tmp_path), tmp_path)
    assert await count_violations(site, instruments=10, seconds=0.5, seed=7) == 0


async def test_a_memory_that_is_not_renewed_is_found(
    make_settings: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "named", lambda self, floor: None)  # what is announced finds no entry
    site = BenchSite(make_settings(tmp_path), tmp_path)
    assert await count_violations(site, instruments=10, seconds=0.5, seed=7) > 0


async def test_sessions_are_answered_out_of_memory_and_redis_together(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    scenario = ReadersScenario(
        sessions=100, instruments=100, cache_bytes=1 << 17, rate=2_000, seconds=1.5, most_late_ms=10_000, seed=7,
        warm_up_s=0.5,
    )  # fmt: skip
    found = await scenario.run(BenchSite(make_settings(tmp_path), tmp_path))
    assert found.keys() <= scenario.units.keys()
    assert found["unanswered"] == 0
    assert 0 < found["memory_hit_ratio"] < 1
    assert found["memory_bytes"] <= 1 << 17
    assert 0 < found["read_p50_ms"] <= found["read_p99_ms"] <= found["read_max_ms"]
