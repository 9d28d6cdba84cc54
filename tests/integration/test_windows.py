"""Windows on a real worker: bars in memory, records of them on their topic, late trades on theirs, quiet partitions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from agents.bench.producer import tick_log
from models.market.frame import decode
from models.market.instruments import instrument_hash, partition_of
from models.perf.ticks import SeededTicks
from models.windows.frame import COUNT_BITS, WindowFrame, decode_windows
from models.windows.window import SECOND_NS
from streams.client.publisher import TickPublisher
from streams.client.reader import MarketCache
from streams.days.served import wait_served
from streams.kafka.admin import ensure_topics
from streams.kafka.offsets import last_offsets
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from streams.topics import FRAMES, LATE, WINDOWS
from tests.conftest import WaitUntil
from tests.topics import records
from tests.workers import metric

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

DEADLINE_S = 60.0
START = 1_760_000_000
TRADED, ELSEWHERE = "binance.spot.BTC-USDT", "binance.spot.SOL-USDT"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    make_settings: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Settings]:
    folder = tmp_path_factory.mktemp("windows")
    settings = make_settings(folder)
    async with WorkerProcess(settings, folder / "log"):
        yield settings


async def trade(publisher: TickPublisher, text: str, at_s: float, price: str, *, recv_s: float | None = None) -> None:
    ts_ns = int((START + at_s) * SECOND_NS)
    recv_ns = ts_ns if recv_s is None else int((START + recv_s) * SECOND_NS)
    await publisher.trade(text, price=price, size="2", side="buy", ts_event_ns=ts_ns, ts_recv_ns=recv_ns)


async def windows_of(settings: Settings, text: str) -> list[tuple[int, int, int, int]]:
    """Length's index, start s, close mantissa and trades of every window that closed."""
    found = []
    for record in await records(settings, WINDOWS, settings.kafka.partitions):
        frame: WindowFrame = decode_windows(record.value)
        for row in frame.windows:
            if frame.instruments["hash"][row["instrument_id"]] == instrument_hash(text):
                assert record.partition == partition_of(text, settings.kafka.partitions)
                length, count = divmod(int(row["interval_count"]), 1 << COUNT_BITS)
                found.append((length, int(row["start_ns"]) // SECOND_NS - START, int(row["close"]), count))
    return found


async def test_a_bar_closes_with_the_watermark_and_a_late_trade_changes_nothing(
    running: Settings, wait_until: WaitUntil
) -> None:
    assert partition_of(TRADED, 4) != partition_of(ELSEWHERE, 4), (
        "the second one leaves the first one's partition quiet"
    )
    now_s = 0.0
    live = lambda: int((START + now_s) * SECOND_NS)  # noqa: E731
    async with MarketCache(running) as cache, TickPublisher(running, clock=live) as publisher:
        await trade(publisher, TRADED, 0.1, "10")
        await trade(publisher, TRADED, 0.9, "12")
        await trade(publisher, TRADED, 0.5, "11")
        await trade(publisher, TRADED, 1.0, "13")
        await trade(publisher, TRADED, 2.0, "14")  # watermark: the end of second 0
        entry = await wait_until(lambda: cache.get(f"md:{TRADED}:ohlcv:1s"), DEADLINE_S, "the first bar")
        assert entry.value == {
            "open": "10", "high": "12", "low": "10", "close": "11", "volume": "6", "start_ns": START * SECOND_NS
        }  # fmt: skip
        await trade(publisher, TRADED, 0.95, "99", recv_s=2.1)
        await publisher.flush()

        async def late() -> list[object]:
            return await records(running, LATE, running.kafka.partitions)

        (record,) = await wait_until(late, DEADLINE_S, "the late trade")
        frame = decode(record.value)
        assert frame.ticks["price"].tolist() == [99 * 10**9]
        assert frame.instruments["hash"][frame.ticks["instrument_id"][0]] == instrument_hash(TRADED)
        assert await metric(running, "marketprism_windows_late_trades_total") == 1

        async def closed() -> list[tuple[int, int, int, int]]:
            return await windows_of(running, TRADED)

        assert (await wait_until(closed, DEADLINE_S, "the first window"))[0] == (0, 0, 11 * 10**9, 3)

        # Nothing more comes for this partition, but its source goes on elsewhere.
        now_s = 70.0
        await trade(publisher, ELSEWHERE, 70, "1")

        async def minute() -> object:
            found = await cache.get(f"md:{TRADED}:ohlcv:1m")
            return found and found.value["close"] == "14"

        await wait_until(minute, DEADLINE_S, "the minute of a quiet partition")

        async def all_closed() -> bool:
            return len(await closed()) >= 5

        await wait_until(all_closed, DEADLINE_S, "every window of the minute")
    assert await windows_of(running, TRADED) == [
        (0, 0, 11 * 10**9, 3), (0, 1, 13 * 10**9, 1), (0, 2, 14 * 10**9, 1), (1, 0, 14 * 10**9, 5),
        (2, -20, 14 * 10**9, 5),
    ]  # fmt: skip
    assert publisher.stats.ticks == publisher.stats.acked == 7, "control rows are no ticks"
    assert sum((await last_offsets(running, FRAMES)).values()) > 0


async def test_windows_out_of_a_backlog_are_all_on_their_topic_once(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    """More than the 8 MiB that a worker holds of them while it is behind."""
    settings = make_settings(tmp_path)
    await ensure_topics(settings)
    async with tick_log(settings, SeededTicks(20_000, seed=3), frame_ticks=4096) as log:
        await log.send_opening()
        await log.send(4_000_000)
        async with WorkerProcess(settings, tmp_path / "log"):
            await wait_served(settings, log.sender.offsets, DEADLINE_S)
            n_closed = await metric(settings, "marketprism_windows_closed_total")
    sent = await records(settings, WINDOWS, settings.kafka.partitions)
    assert sum(len(record.value) for record in sent) > 8 << 20
    keys = []
    for frame in (decode_windows(record.value) for record in sent):
        lengths = frame.windows["interval_count"] >> COUNT_BITS
        hashes = frame.instruments["hash"][frame.windows["instrument_id"]]
        keys.append(np.stack([hashes, lengths.astype(np.uint64), frame.windows["start_ns"].astype(np.uint64)], axis=1))
    found = np.concatenate(keys)
    assert len(np.unique(found, axis=0)) == len(found) == n_closed
