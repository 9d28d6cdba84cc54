"""A LOBSTER day through a worker: orders travel with the books they make, and the books are the file's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.market.fold import OfflineFold
from streams.days.importers.lobster import import_lobster
from streams.days.run import run_days
from streams.days.served import disk_finals, redis_differences
from streams.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.data, pytest.mark.timeout(300)]


async def test_a_lobster_day_is_served_as_an_offline_fold_has_it(
    settings: Settings, shared: Path, tmp_path: Path
) -> None:
    source = shared / "market_data" / "lobster" / "LOBSTER_SampleFile_AMZN_2012-06-21_5.zip"
    day, _ = import_lobster([source], tmp_path / "day")
    fold = OfflineFold([instrument.text for instrument in day.instruments])
    for ticks in day.batches():
        fold.update(ticks)
    expected = fold.finals()
    report = await run_days([day], settings, tmp_path / "log")
    run = replace(settings, topics=replace(settings.topics, prefix=report.replay.prefix))
    assert report.digest_ok
    (served,), (final,) = disk_finals(run), expected
    assert (served.trade, served.quote) == (final.trade, final.quote)
    assert np.array_equal(served.bids, final.bids) and np.array_equal(served.asks, final.asks)
    assert len(served.bids) == len(served.asks) == 5
    assert await redis_differences(run, expected) == []
    assert report.replay.rows == day.rows and report.dead_letters == 0
