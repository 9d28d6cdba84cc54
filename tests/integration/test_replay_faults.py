"""A real worker under planned faults: what it reports is what the control rows and the run's record say happened."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.days.plan import FaultCode, FaultPlan
from models.market.digest import digest
from models.market.tick import Action
from streams.days.replay import Replay
from streams.days.run_record import read_run
from streams.days.served import disk_finals, redis_differences, wait_served
from streams.kafka.admin import ensure_topics
from streams.services.worker import WorkerProcess
from streams.settings import Settings
from tests.runs import all_rows, controls_in, frames_of
from tests.workers import metric, sample_day

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PLAN = msgspec.convert(
    {
        "seed": 11,
        "faults": [
            {"fault": "drop", "share": 0.001},
            {"fault": "duplicate", "share": 0.002},
            {"fault": "reorder", "share": 0.005, "within_ms": 100, "venues": ["okx"]},
            {"fault": "delay", "delay_ms": 3000, "instruments": ["binance.spot.ETH-USDT"], "from_s": 60, "to_s": 120},
            {"fault": "clock_skew", "skew_ms": 40, "venues": ["deribit"]},
            {"fault": "disconnect", "venues": ["bybit"], "from_s": 200, "to_s": 260},
            {"fault": "halt", "instruments": ["okx.spot.BTC-USDT"], "from_s": 300, "to_s": 400},
        ],
    },
    FaultPlan,
)


async def test_a_worker_reports_exactly_the_gaps_and_repetitions_that_the_plan_made(
    settings: Settings, tmp_path: Path
) -> None:
    day = sample_day()
    replay = Replay([day], settings, faults=PLAN, record=tmp_path / "run.json")
    run = replay.settings
    await ensure_topics(run)
    async with WorkerProcess(run, tmp_path / "worker.log"):
        report = await replay.run()
        await wait_served(run, report.offsets)
        seen = {name: await metric(run, f"marketprism_market_{name}_total") for name in ("ticks", "gaps", "repeated")}
    assert seen == {"ticks": report.rows, "gaps": report.gaps, "repeated": report.rows_repeated}
    assert min(report.gaps, report.rows_repeated, report.rows_lost) > 10
    ends = disk_finals(run)
    assert digest(ends) == report.digest
    assert await redis_differences(run, ends) == []

    # the control rows in the log say the same
    frames = await frames_of(run)
    notes = np.concatenate([controls_in(part) for part in frames])
    notes = notes[notes["action"] == Action.ADD]
    positions = [frame.ticks["seq"].tolist() for part in frames for frame in part]
    flat = [position for chunk in positions for position in chunk]
    span = {
        code: [p for n in notes[notes["side"] == code] for p in range(int(n["price"]), int(n["size"]) + 1)]
        for code in (FaultCode.DROP, FaultCode.DUPLICATE, FaultCode.REORDER)
    }
    assert not set(span[FaultCode.DROP]) & set(flat)
    assert len(span[FaultCode.DROP]) == report.rows_lost
    counts = np.bincount(flat)[: max(flat)]  # without the row that ends the run in every partition
    counts[1] = 0  # and the one that starts it
    assert sorted(span[FaultCode.DUPLICATE]) == np.flatnonzero(counts == 2).tolist()
    assert set(span[FaultCode.REORDER]) <= set(flat) | set(span[FaultCode.DROP])
    assert counts.max() == 2
    assert {int(code) for code in notes["side"]} == {int(code) for code in FaultCode}

    record = read_run(tmp_path / "run.json")
    assert record.plan == PLAN and record.state == "done"
    assert [done.fault for done in record.faults] == [fault.code.name.lower() for fault in PLAN.faults]
    by_name = {done.fault: done.rows for done in record.faults}
    assert (by_name["drop"], by_name["duplicate"]) == (report.rows_lost, report.rows_repeated)


async def test_the_same_seed_puts_the_same_rows_into_the_log(settings: Settings) -> None:
    day = sample_day()
    found = []
    for plan, speed in ((PLAN, None), (PLAN, 900.0), (msgspec.structs.replace(PLAN, seed=12), None)):
        replay = Replay([day], settings, faults=plan, speed=speed, with_digest=False)
        await replay.run()
        frames = await frames_of(replay.settings)
        controls = np.concatenate([controls_in(part) for part in frames])
        found.append((all_rows(frames, day.instruments).tobytes(), np.sort(controls, order="seq").tobytes()))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
