"""Policies of loads, keys of calls, the Bloom filter, flights and remembered failures: everything without a network."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cache.arguments import call_key, encode
from models.cache.bloom import BloomFilter
from models.cache.keys import parse_key
from models.cache.loading import Freshness, LoadPolicy
from models.errors import ServiceUnavailable, UnkeyableArgument
from streams.cache.flight import Flight, Flights
from streams.client.failures import Failures

NOW_MS = 1_760_000_000_000


# -- policies ----------------------------------------------------------------------------------------------------------


def test_jitter_shortens_by_a_share_of_the_life_evenly_and_never_lengthens() -> None:
    policy = LoadPolicy(ttl_ms=1000, jitter_ratio=0.2)
    lives = [policy.life_ms(f"k:{i}", NOW_MS, absent=False) for i in range(2000)]
    assert max(lives) <= 1000
    assert min(lives) > 800
    assert statistics.fmean(lives) == pytest.approx(900, abs=10)
    assert lives == [policy.life_ms(f"k:{i}", NOW_MS, absent=False) for i in range(2000)], "by key and time alone"
    assert policy.life_ms("k:1", NOW_MS, absent=False) != policy.life_ms("k:1", NOW_MS + 1, absent=False)


def test_a_life_of_a_millisecond_stays_one_and_stale_time_is_added_behind_the_jitter() -> None:
    assert LoadPolicy(ttl_ms=1, jitter_ratio=0.9).life_ms("k:1", NOW_MS, absent=False) == 1
    assert LoadPolicy(ttl_ms=1000, stale_ms=500).life_ms("k:1", NOW_MS, absent=False) == 1500
    assert LoadPolicy(ttl_ms=1000, stale_ms=500, negative_ttl_ms=7).life_ms("k:1", NOW_MS, absent=True) == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_ms": 0}, {"jitter_ratio": 1.0}, {"jitter_ratio": -0.1}, {"stale_ms": -1}, {"negative_ttl_ms": -1},
        {"beta": -1.0}, {"soft_timeout_s": -1.0}, {"hard_timeout_s": 0.0}, {"error_ttl_ms": -1}, {"stale_ms": 1 << 60},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_a_number_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoadPolicy(**{"ttl_ms": 1000, **wrong})


def judge(
    policy: LoadPolicy, left_ms: int | None, *, load_ms: float = 0, draw: float = 1.0, absent: bool = False
) -> Any:
    ends = None if left_ms is None else NOW_MS + left_ms
    return policy.judge(expires_at_ms=ends, absent=absent, now_ms=NOW_MS, load_ms=load_ms, draw=draw)


def test_an_entry_is_stale_in_the_last_part_of_its_life() -> None:
    policy = LoadPolicy(ttl_ms=1000, stale_ms=300)
    assert [judge(policy, left) for left in (301, 300, 1, None)] == [
        Freshness.FRESH, Freshness.STALE, Freshness.STALE, Freshness.FRESH,
    ]  # fmt: skip
    assert judge(policy, 1, absent=True) is Freshness.FRESH, "a negative entry has no stale time"


def test_early_refresh_is_as_likely_as_the_paper_says() -> None:
    """P(-load * beta * ln u >= left) = exp(-left / (load * beta))."""
    draws = [1.0 - random.Random(i).random() for i in range(4000)]
    for beta, left_ms in ((1.0, 50), (1.0, 200), (2.0, 200)):
        policy = LoadPolicy(ttl_ms=1000, beta=beta)
        early = [judge(policy, left_ms, load_ms=100, draw=draw) is Freshness.EARLY for draw in draws]
        assert sum(early) / len(early) == pytest.approx(math.exp(-left_ms / (100 * beta)), abs=0.03)
    assert judge(LoadPolicy(ttl_ms=1000, beta=0), 1, load_ms=1e9, draw=1e-9) is Freshness.FRESH
    assert judge(LoadPolicy(ttl_ms=1000), 1, load_ms=0, draw=1e-9) is Freshness.FRESH, "nothing is known of loads"
    assert judge(LoadPolicy(ttl_ms=1000), 1, load_ms=1e9, draw=1.0) is Freshness.FRESH


# -- keys of calls -----------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = 1


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name


DIFFERENT: list[Any] = [
    ("a", "b:c"), ("a:b", "c"), ("a", "b", "c"), (("a", "b"), "c"), ("a", ("b", "c")), ["a", "b", "c"], [["a"], "b"],
    1, 1.0, True, "1", b"1", Decimal(1), None, "", b"", 0, False, 0.0, -0.0, [], (), {}, set(), {"a": 1}, {"a": "1"},
    [("a", 1)], {1: "a"}, {"a"}, "a", Colour.RED, "RED", Named("a"), Named("b"), 1j, datetime(2026, 1, 1),
    datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00", 2**70, {"a": {"b": 1}}, {"a": {}, "b": 1}, "a\0b",
    ("a\0b",),
]  # fmt: skip


def test_arguments_that_differ_have_keys_that_differ() -> None:
    encoded = [encode(value) for value in DIFFERENT]
    assert len(set(encoded)) == len(DIFFERENT)
    keys = {call_key("call", "f", {"x": value}) for value in DIFFERENT}
    assert len(keys) == len(DIFFERENT)


def test_a_text_that_imitates_the_encoding_is_still_one_text() -> None:
    header = encode("").decode()
    assert encode(["a" + header + "b", "c"]) != encode(["a", "b" + header + "c"])
    assert encode(["a", header + "b"]) != encode(["a" + header, "b"])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type and content; repr tells 1 from True and 0.0 from -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        pairs = sorted(a.items(), key=repr), sorted(b.items(), key=repr)
        return len(a) == len(b) and all(same(x, y) for x, y in zip(*pairs, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)


@given(PLAIN, PLAIN)
def test_two_values_have_one_encoding_only_if_they_are_the_same(a: Any, b: Any) -> None:
    assert (encode(a) == encode(b)) == same(a, b)


def test_order_in_dicts_and_sets_does_not_count_and_keys_fit_the_grammar() -> None:
    assert encode({"a": 1, "b": 2}) == encode({"b": 2, "a": 1})
    assert encode({3, 1, 2}) == encode(frozenset([2, 1, 3]))
    key = call_key("call", "app.users.<locals>.f", {"b": 2, "a": "x" * 10_000})
    assert key == call_key("call", "app.users.<locals>.f", {"a": "x" * 10_000, "b": 2})
    assert parse_key(key).namespace == "call"
    assert call_key("call", "f", {"a": 1}) != call_key("call", "g", {"a": 1})
    assert call_key("call", "f", {"a": 1}) != call_key("call", "f", {"b": 1})


def test_an_argument_without_a_key_is_named() -> None:
    with pytest.raises(UnkeyableArgument, match=r"f: argument 'x': a builtins\.object has no key"):
        call_key("call", "f", {"x": [object()]})
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(UnkeyableArgument, match="levels"):
        call_key("call", "f", {"x": nested})


# -- the Bloom filter --------------------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=200))
def test_what_was_added_is_never_denied(keys: list[str]) -> None:
    bloom = BloomFilter(50)
    for key in keys:
        bloom.add(key)
    assert all(key in bloom for key in keys)


@pytest.mark.parametrize("false_positives", [0.1, 0.01, 0.001])
def test_what_was_not_added_is_denied_as_often_as_it_was_built_for(false_positives: float) -> None:
    bloom = BloomFilter(5_000, false_positives)
    for i in range(5_000):
        bloom.add(f"session:{i}")
    wrong = sum(f"other:{i}" in bloom for i in range(20_000)) / 20_000
    assert wrong == pytest.approx(false_positives, rel=0.6, abs=0.0005)
    assert bloom.n_added == pytest.approx(5_000, rel=0.05)
    assert bloom.n_bytes < 5_000 * 2


def test_a_filter_says_when_it_holds_more_than_it_was_built_for() -> None:
    bloom = BloomFilter(100)
    for i in range(99):
        bloom.add(f"a:{i}")
        bloom.add(f"a:{i}")
    assert not bloom.is_full
    for i in range(99, 120):
        bloom.add(f"a:{i}")
    assert bloom.is_full
    with pytest.raises(ValueError, match="at least 1"):
        BloomFilter(0)


# -- flights -----------------------------------------------------------------------------------------------------------


async def test_all_who_come_while_a_flight_is_under_way_join_it() -> None:
    flights: Flights[int] = Flights()
    gate, n_started = asyncio.Event(), 0

    async def work(flight: Flight[int]) -> int:
        nonlocal n_started
        n_started += 1
        flight.base = 10
        await gate.wait()
        return n_started

    tasks = {flights.join("k:1", floor, work) for floor in [3, 10, 10, 4]}
    await asyncio.sleep(0)
    assert flights.join("k:1", 10, work) in tasks
    other = flights.join("k:2", 0, work)
    later = flights.join("k:1", 11, work)
    gate.set()
    await asyncio.wait({*tasks, other, later})
    assert (len(tasks), n_started, later in tasks) == (1, 3, False), "a change that came after its begin begins another"
    assert len(flights) == 0
    assert flights.join("k:1", 0, work) not in tasks
    await flights.close()
    with pytest.raises(ServiceUnavailable):
        flights.join("k:1", 0, work)


async def test_a_waiter_that_is_cancelled_leaves_the_flight_to_the_others() -> None:
    flights: Flights[str] = Flights()
    gate = asyncio.Event()

    async def work(flight: Flight[str]) -> str:
        await gate.wait()
        return "done"

    async def wait() -> str:
        task = flights.join("k:1", 0, work)
        await asyncio.wait({task})
        return task.result()

    waiters = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiters[0]
    gate.set()
    assert [await waiter for waiter in waiters[1:]] == ["done", "done"]


async def test_closing_ends_also_a_flight_that_loses_its_first_cancellation() -> None:
    flights: Flights[None] = Flights()
    begun = asyncio.Event()

    async def work(flight: Flight[None]) -> None:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = flights.join("k:1", 0, work)
    await begun.wait()
    async with asyncio.timeout(10):
        await flights.close()
    assert task.cancelled()
    assert len(flights) == 0


def test_failures_are_remembered_until_their_instant_and_bounded() -> None:
    failures = Failures()
    failures.remember("k:1", KeyError("x"), 10)
    with pytest.raises(KeyError):
        failures.check("k:1", 9)
    failures.check("k:1", 10)
    failures.check("k:2", 0)
    for i in range(5_000):
        failures.remember(f"k:{i}", KeyError(), 10)
    assert len(failures) == 4_096
