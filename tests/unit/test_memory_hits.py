"""What `MarketCache` answers from memory alone: no service is needed for a hit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from models.cache.coherence import PartitionView
from models.cache.keys import Location, locate
from models.cache.policies import NAMES
from models.cache.policy import Reason
from models.market.facets import FACETS
from streams.cache.held import Held
from streams.cache.memory import Evicted
from streams.client.reader import Entry, MarketCache
from streams.clock import SettableClock
from streams.settings import ReaderSettings, Settings

NOW_NS = 1_760_000_000_000_000_000
QUOTE = "md:binance.spot.BTC-USDT:quote"


def place(text: str) -> Location:
    return locate(text, prefix="", n_partitions=4)


def hold(cache: MarketCache, key: str, value: Any, **more: Any) -> Held:
    held = Held(place(key), PartitionView(8), 5, 5, **more)
    held.take(msgspec.msgpack.encode(value))
    cache.memory.put(held)
    return held


async def hit(cache: MarketCache, key: str) -> Entry:
    entry = await cache.get(key)
    assert entry is not None
    assert entry.tier == "memory"
    return entry


@pytest.mark.parametrize("value", ["text", b"bytes", 7, -1.5, True, None, "", 2**63])
async def test_an_immutable_value_is_decoded_once(value: Any) -> None:
    cache = MarketCache(Settings())
    held = hold(cache, "s:1", value)
    first, second = [(await hit(cache, "s:1")).value for _ in range(2)]
    assert first == value
    assert type(first) is type(value)
    assert first is second
    assert not held.packed


@pytest.mark.parametrize("value", [[1, [2]], {"a": {"b": [1]}}, [], {}, list(range(20)), {i: i for i in range(70_000)}])
async def test_a_value_that_can_be_changed_is_the_callers_own(value: Any) -> None:
    cache = MarketCache(Settings(reader=ReaderSettings(memory_bytes=1 << 22)))
    hold(cache, "s:1", value)
    mine = (await hit(cache, "s:1")).value
    mine.clear()
    assert (await hit(cache, "s:1")).value == value


async def test_a_row_is_the_callers_own_dict() -> None:
    cache = MarketCache(Settings())
    body = (10**9).to_bytes(8, "little") * 8 + bytes([0xF7, 0xF7, FACETS.index("quote")]) + bytes(5)
    cache.memory.put(Held(place(QUOTE), PartitionView(8), 5, 5, row=body))
    (await hit(cache, QUOTE)).value["bid_price"] = "mine"
    value = (await hit(cache, QUOTE)).value
    assert type(value) is dict
    assert value["bid_price"] == "1"


async def test_bytes_that_are_no_msgpack_are_a_miss() -> None:
    cache = MarketCache(Settings())
    for text, packed in {"s:1": b"\xa5ab", "s:2": b"\x92\x01", "s:3": b"\xa1\xff"}.items():
        held = Held(place(text), PartitionView(8), 5, 5)
        held.take(packed)
        cache.memory.put(held)
        assert await cache.get(text) is None


async def test_an_entry_whose_time_has_come_is_none_and_leaves() -> None:
    clock, heard = SettableClock(NOW_NS), list[Evicted]()
    cache = MarketCache(Settings(), clock=clock, on_evict=heard.append)
    hold(cache, "s:1", "x", expires_at_ms=NOW_NS // 10**6 + 5)
    assert (await hit(cache, "s:1")).value == "x"
    clock.advance(5_000_000)
    assert await cache.get("s:1") is None
    assert [(gone.key, gone.reason) for gone in heard] == [("s:1", Reason.EXPIRED)]
    assert len(cache.memory) == 0


@pytest.mark.parametrize("name", NAMES)
async def test_any_policy_can_run_the_memory_tier_within_the_readers_bytes(name: str) -> None:
    settings = Settings()
    cache = MarketCache(replace(settings, reader=ReaderSettings(memory_bytes=1 << 17, policy=name)))  # type: ignore[arg-type]
    for i in range(300):
        hold(cache, f"s:{i}", "x" * 100)
        assert cache.memory.bytes <= 1 << 17
    assert cache.memory.evicted > 100
    assert len(cache.memory) > 20
    assert name in repr(cache)


async def test_what_memory_did_is_exported() -> None:
    def exported(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"marketprism_reader_{name}", labels) or 0.0

    names: dict[str, dict[str, str]] = {
        "hits_total": {},
        "misses_total": {},
        "left_total": {"reason": "removed"},
        "memory_entries": {},
    }
    cache = MarketCache(Settings())
    before = {name: exported(name, **labels) for name, labels in names.items()}
    hold(cache, "s:1", 1)
    hold(cache, "s:2", 2)
    await hit(cache, "s:1")
    assert cache.memory.get("s:3") is None
    cache.memory.drop("s:2")
    gained = {name: exported(name, **labels) - before[name] for name, labels in names.items()}
    assert gained == {"hits_total": 1, "misses_total": 1, "left_total": 1, "memory_entries": 1}
    assert exported("memory_bytes") >= cache.memory.bytes
