"""What the README shows works as it stands there, and the demo's run agrees with its day."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from streams.client.reader import MarketCache
from streams.days.day import Day
from streams.days.run import run_days
from streams.services.worker import WorkerProcess
from streams.settings import Settings, environment_of
from tests.conftest import WaitUntil

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


async def test_the_readmes_programs_run_against_a_worker(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(programs) == 2
    async with WorkerProcess(settings, tmp_path / "worker.log"):
        await _run(programs[0], settings)
        async with MarketCache(settings) as cache:
            await wait_until(lambda: cache.get("md:binance.spot.BTC-USDT:quote"), 60, "the published quote")
        printed = await _run(programs[1], settings)
    assert "64000.4" in printed
    assert "'symbols': ['BTC-USDT']" in printed


async def test_a_run_of_the_sample_day_leaves_every_copy_equal_to_the_day(settings: Settings, tmp_path: Path) -> None:
    day = Day.open(ROOT / "replay_data" / "sample-day")
    report = await run_days([day], settings, tmp_path / "worker.log")
    assert report.digest_ok
    assert report.redis_differences == []
    assert (report.heard.gaps, report.heard.falls, report.dead_letters) == (0, 0, 0)
    assert report.keys_rocksdb == report.keys_redis > 50
    assert report.ok


async def _run(program: str, settings: Settings) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, env=dict(os.environ) | environment_of(settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()
