"""The auditor of a real worker: nothing to say of a market that runs, and each planted difference found and named."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.cache.entry import StoredEntry, encode_entry
from models.cache.keys import parse_key, redis_key
from models.cache.version import from_bytes
from streams.cache.connect import connect_redis
from streams.client.reader import MarketCache
from streams.days.replay import Replay
from streams.days.served import wait_served
from streams.services.worker import WorkerProcess
from streams.settings import AuditSettings, LogSettings, Settings
from tests.conftest import WaitUntil
from tests.workers import metric, sample_day

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]

DEADLINE_S = 60.0
VIOLATIONS, KEYS = "marketprism_audit_violations_total", "marketprism_audit_keys_total"


async def test_a_planted_difference_is_found_and_named_and_nothing_else(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    log = tmp_path / "log"
    audited = replace(settings, audit=AuditSettings(keys_per_s=1_000), log=LogSettings(format="json"))
    day = sample_day()
    replay = Replay([day], audited, speed=150)
    run = replay.settings

    def found() -> dict[str, dict[str, Any]]:
        lines = [json.loads(line) for line in log.read_text().split("\n")[:-1] if line.startswith("{")]
        return {line["key"]: line for line in lines if line.get("event") == "audit_violation"}

    def named(*keys: str) -> bool:
        return found().keys() >= set(keys)

    async def compared() -> float:
        return await metric(run, KEYS)

    async with WorkerProcess(run, log), MarketCache(run, follow=False) as cache:
        for n in range(50):
            await cache.put(f"audit:{n}", n)
        await cache.put("audit:gone", "x")
        await cache.delete("audit:gone")
        report = await replay.run()
        await wait_served(run, report.offsets, DEADLINE_S)
        before = await compared()
        await wait_until(lambda: _more(compared, before + 300), DEADLINE_S, "300 keys compared at rest")
        assert await metric(run, VIOLATIONS) == 0
        assert await metric(run, "marketprism_audit_redis_lag_seconds_count") > 0

        instrument = day.instruments[0].text
        trade, book, entry, gone = f"md:{instrument}:trade", f"md:{instrument}:book", "audit:7", "audit:gone"
        async with aclosing(connect_redis(run.redis)) as redis:
            names = {text: _name(run, text) for text in (trade, book, entry, gone)}
            row = await redis.get(names[trade])
            await redis.set(names[trade], row[:8] + bytes([row[8] ^ 1]) + row[9:])
            assert await redis.delete(names[book]) == 1
            assert await redis.delete(names[entry]) == 1
            await redis.set(names[gone], encode_entry(3, StoredEntry(None, (), b"\x01")))
            await wait_until(lambda: named(trade, book, entry, gone), DEADLINE_S, "all four in the log")
        told = found()
        assert told.keys() == {trade, book, entry, gone}
        assert told[trade]["page_version"] == told[trade]["redis_version"] == from_bytes(row)
        assert (told[book]["redis_version"], told[entry]["redis_version"]) == (-1, -1)
        assert (told[gone]["page_version"], told[gone]["redis_version"]) == (-1, 3)
        assert await metric(run, VIOLATIONS) >= 4


async def _more(value: Any, than: float) -> bool:
    return bool(await value() > than)


def _name(settings: Settings, text: str) -> bytes:
    key = parse_key(text)
    return redis_key(settings.topics.prefix, key, key.partition(settings.kafka.partitions))
