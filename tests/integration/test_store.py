"""Whose RocksDB folder it is: pages of another changelog must not be taken for this one's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from streams.cache.rocks import read_partition, store_path
from streams.client.publisher import TickPublisher
from streams.days.served import disk_finals, wait_served
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.conftest import WaitUntil

pytestmark = pytest.mark.integration

TEXT = "binance.spot.BTC-USDT"


async def test_a_folder_of_another_changelog_is_rebuilt_from_this_one(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    log = tmp_path / "worker.log"
    async with WorkerProcess(settings, log):
        async with TickPublisher(settings) as publisher:
            await publisher.trade(TEXT, price="1.5", size="2", side="buy", ts_event_ns=time.time_ns())
        await wait_until(lambda: disk_finals(settings), 30, "the trade on disk")
    folder = store_path(settings, 0).parent
    before = disk_finals(settings)
    (folder / "changelog").write_text("of-a-kafka-that-is-gone")
    (folder / "left-behind").write_text("x")

    async with WorkerProcess(settings, log):
        await wait_served(settings, {p: _applied(settings, p) for p in range(settings.kafka.partitions)})
        after = disk_finals(settings)

    assert "store_discarded" in log.read_text()
    assert not (folder / "left-behind").exists()
    assert [(final.text, final.rows, final.trade) for final in after] == [(f.text, f.rows, f.trade) for f in before]


def _applied(settings: Settings, partition: int) -> int:
    return read_partition(settings, partition).market.applied
