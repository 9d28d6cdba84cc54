"""The parts of the cache bench that need services: Redis reads, and the check that finds copies which lie."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.bench.cache.agree import count_violations
from agents.bench.cache.scenario import CacheScenario
from agents.bench.site import BenchSite
from streams.cache.memory import Memory
from streams.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


async def test_redis_reads_are_counted_and_timed(make_settings: Callable[[Path], Settings], tmp_path: Path) -> None:
    scenario = CacheScenario(Path(sys.executable), 500, 100, 100, 0.3, 5, 7)
    found = await scenario._redis(BenchSite(make_settings(tmp_path), tmp_path))
    assert found["redis_reads_per_s"] > 1000
    assert 0 < found["redis_p50_ms"] <= found["redis_p99_ms"]
    assert 0 < found["redis_cpu_us_per_read"] < 1000


async def test_tiers_that_agree_break_nothing(make_settings: Callable[[Path], Settings], tmp_path: Path) -> None:
    site = BenchSite(make_settings(tmp_path), tmp_path)
    assert await count_violations(site, instruments=10, seconds=0.5, seed=7) == 0


async def test_a_memory_that_is_not_renewed_is_found(
    make_settings: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "facets", lambda self, instrument: None)  # what is announced finds no entry
    site = BenchSite(make_settings(tmp_path), tmp_path)
    assert await count_violations(site, instruments=10, seconds=0.5, seed=7) > 0
