"""`get`, `put`, `watch`, `invalidations` and `publish` against a running worker, as a shell sees them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streams.services.worker import WorkerProcess
from streams.settings import Settings, environment_of
from tests.conftest import WaitUntil

pytestmark = pytest.mark.integration

DEADLINE_S = 60
TRADE = {
    "exchange": "binance", "market_type": "spot", "symbol": "BTC-USDT", "data_type": "trade",
    "ts_ms": 1760000000000, "price": "64000.5", "quantity": "0.25", "side": "buy", "trade_id": "1",
}  # fmt: skip


@asynccontextmanager
async def marketprism(settings: Settings, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents.cli.main", *arguments,
        env=dict(os.environ) | environment_of(settings), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    async with marketprism(settings, *arguments) as process:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


async def one_line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    parsed: dict[str, Any] = json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE_S))
    return parsed


async def test_a_shell_can_publish_read_write_and_watch(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    ticks = tmp_path / "ticks.ndjson"
    ticks.write_text(json.dumps(TRADE) + "\n{bad\n")
    async with WorkerProcess(settings, tmp_path / "worker.log"):
        code, out, _ = await run(settings, "publish", str(ticks), "--json")
        assert code == 0
        assert json.loads(out) | {"ticks": 1, "refused": 1} == json.loads(out)

        key = "md:binance.spot.BTC-USDT:trade"

        async def trade() -> dict[str, Any] | None:
            code, out, _ = await run(settings, "get", key, "--json")
            return json.loads(out) if code == 0 else None

        found = await wait_until(trade, DEADLINE_S, "the trade")
        assert found["value"] == {
            "price": "64000.5", "quantity": "0.25", "side": "buy", "ts_ns": 1760000000000000000
        }  # fmt: skip
        assert (found["key"], found["version"], found["source_offset"], found["tier"]) == (key, 0, 0, "redis")

        code, out, err = await run(settings, "get", "session:1", "--json")
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert "session:1" in err

        assert (await run(settings, "put", "session:1", '{"n": 1}'))[:2] == (0, "0\n")
        async with marketprism(settings, "watch", "session:1", "--json", "--max", "2") as watching:
            assert (await one_line(watching))["value"] == {"n": 1}
            assert (await run(settings, "put", "session:1", '{"n": 2}'))[0] == 0
            assert (await one_line(watching))["value"] == {"n": 2}
            assert await asyncio.wait_for(watching.wait(), DEADLINE_S) == 0

        code, out, _ = await run(settings, "invalidations", "--from", "earliest", "--max", "3", "--json")
        events = [json.loads(line) for line in out.splitlines()]
        assert code == 0
        assert {name for event in events for name in event["keys"]} == {key, "session:1"}
