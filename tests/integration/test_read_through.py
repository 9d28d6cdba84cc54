"""From a miss to a value, through a real worker: one load for all, whatever happens to who loads."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from models.cache.invalidation import Invalidation, RecordType
from models.cache.invalidation import Source as Topic
from models.cache.keys import Space, parse_key
from models.cache.loading import LoadPolicy
from models.errors import BufferFull, DeadlineExceeded, ServiceUnavailable, UnkeyableArgument, WriteRefused
from streams import metrics
from streams.cache.connect import connect_redis
from streams.cache.lock import Busy, Filled, Lease, LoadLocks
from streams.client.cached import cached
from streams.client.presence import Presence
from streams.client.read_through import Loaded, ReadThrough
from streams.client.reader import MarketCache
from streams.client.write_behind import WriteBehind
from streams.clock import now_ns
from streams.services.ports import free_ports
from streams.services.worker import WorkerProcess
from streams.settings import Settings, environment_of
from tests.conftest import ROOT, WaitUntil

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

DEADLINE_S = 60.0
LEASE_S = 1.0  # short enough to wait for its end, long enough not to end while a slow machine looks away
MINUTE = LoadPolicy(ttl_ms=60_000)
ENDED = LoadPolicy(ttl_ms=1, stale_ms=60_000, beta=0)  # stale as soon as it is there


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(
    make_settings: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("loading")
    async with WorkerProcess(make_settings(folder), folder / "log") as worker:
        yield worker


@pytest.fixture(scope="module")
def settings(worker: WorkerProcess) -> Settings:
    return worker.settings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cache(settings: Settings) -> AsyncIterator[MarketCache]:
    async with MarketCache(settings) as cache:
        yield cache


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loads(cache: MarketCache, settings: Settings) -> AsyncIterator[ReadThrough]:
    async with ReadThrough(cache, settings) as loads:
        yield loads


@pytest_asyncio.fixture(loop_scope="module")
async def others(settings: Settings) -> AsyncIterator[ReadThrough]:
    """As another process would load: a cache, flights and leases of its own. A lease is short."""
    async with MarketCache(settings) as cache, ReadThrough(cache, settings, lease_s=LEASE_S) as others:
        yield others


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    async with aclosing(connect_redis(settings.redis)) as redis:
        yield redis


class Source:
    """What a loader asks: it answers at once, or when it is let."""

    def __init__(self, *answers: Any, open_: bool = True) -> None:
        self.answers = list(answers)
        self.n_asked = 0
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        if open_:
            self.gate.set()

    async def __call__(self) -> Any:
        self.n_asked += 1
        self.asked.set()
        answer = self.answers[min(self.n_asked, len(self.answers)) - 1]
        await self.gate.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


def lock_of(settings: Settings, key: str) -> str:
    return f"{settings.topics.prefix}load:{{p{parse_key(key).partition(settings.kafka.partitions)}}}:{key}"


async def test_a_thousand_misses_of_one_key_in_four_processes_are_one_load(settings: Settings, redis: Redis) -> None:
    key, n_processes = "crowd:a", 4
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MARKETPRISM_")} | environment_of(settings)
    arguments = [sys.executable, "-m", "tests.loader_process", key, "250", str(n_processes)]
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    processes = [
        await asyncio.create_subprocess_exec(*arguments, env=environment, **pipes)  # type: ignore[arg-type]
        for _ in range(n_processes)
    ]
    try:
        async with asyncio.timeout(DEADLINE_S):
            for process in processes:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"ready\n"
            said = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    found = [json.loads(out) for out, _ in said]
    assert int(await redis.get(f"{settings.topics.prefix}loaded:{key}")) == 1
    assert [one["values"] for one in found] == [[1]] * n_processes
    assert sorted(one["loaded"] for one in found) == [0, 0, 0, 250]


async def test_callers_of_one_load_have_copies_and_the_next_ones_a_hit(loads: ReadThrough) -> None:
    source = Source({"a": [1]})
    found = await asyncio.gather(*(loads.get_or_load("copy:a", source, MINUTE) for _ in range(100)))
    found[0].value["a"].append(2)
    assert [one.value for one in found[1:]] == [{"a": [1]}] * 99
    again = await loads.get_or_load("copy:a", source, MINUTE)
    assert (again.value, again.loaded, source.n_asked) == ({"a": [1]}, False, 1)


async def test_one_who_is_cancelled_harms_nobody_and_an_error_reaches_all_and_is_not_kept(loads: ReadThrough) -> None:
    source = Source(KeyError("away"), "back", open_=False)
    waiters = [asyncio.create_task(loads.get_or_load("fail:a", source, MINUTE)) for _ in range(5)]
    await source.asked.wait()
    waiters[0].cancel()
    source.gate.set()
    ends = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert [str(end) for end in ends[1:]] == ["'away'"] * 4
    assert (await loads.get_or_load("fail:a", source, MINUTE)).value == "back"
    assert source.n_asked == 2


async def test_an_error_is_remembered_by_who_asks_for_it(loads: ReadThrough) -> None:
    source = Source(KeyError("away"))
    for _ in range(3):
        with pytest.raises(KeyError, match="away"):
            await loads.get_or_load("fail:b", source, replace(MINUTE, error_ttl_ms=60_000))
    assert source.n_asked == 1


async def test_nothing_is_remembered_for_a_part_of_a_second_and_no_longer(
    loads: ReadThrough, others: ReadThrough, wait_until: WaitUntil
) -> None:
    brief = replace(MINUTE, negative_ttl_ms=1_500)  # two calls come before its end
    source = Source(None, "there now")
    assert (await loads.get_or_load("none:a", source, brief)).value is None
    assert (await others.get_or_load("none:a", source, brief)).value is None
    assert source.n_asked == 1

    async def there() -> bool:
        return (await others.get_or_load("none:a", source, brief)).value == "there now"

    await wait_until(there, DEADLINE_S, "the end of a negative entry")
    assert source.n_asked == 2


async def test_an_ended_value_is_served_marked_when_the_load_fails_or_takes_long(
    loads: ReadThrough, wait_until: WaitUntil
) -> None:
    assert (await loads.get_or_load("stale:a", Source("old"), ENDED)).value == "old"
    found = await loads.get_or_load("stale:a", Source(KeyError()), ENDED)
    assert (found.value, found.stale, found.loaded) == ("old", True, False)
    slow = Source("new", open_=False)
    found = await loads.get_or_load("stale:a", slow, replace(ENDED, soft_timeout_s=0.01))
    assert (found.value, found.stale) == ("old", True)
    slow.gate.set()

    async def filled() -> Loaded | None:
        found = await loads.get_or_load("stale:a", Source(KeyError()), ENDED)
        return found if found.value == "new" and found.stale else None

    await wait_until(filled, DEADLINE_S, "the load that went on, ended in its turn")


async def test_a_value_whose_time_ends_while_it_is_loaded_is_not_served(cache: MarketCache, settings: Settings) -> None:
    now = [now_ns()]

    async def fail_late() -> None:
        now[0] += ENDED.stale_ms * 1_000_000
        raise KeyError("away")

    async with ReadThrough(cache, settings, clock=lambda: now[0]) as loads:
        assert (await loads.get_or_load("stale:b", Source("old"), ENDED)).value == "old"
        now[0] = now_ns() + 1_000_000_000
        assert (await loads.get_or_load("stale:b", Source(KeyError()), ENDED)).stale
        with pytest.raises(KeyError, match="away"):
            await loads.get_or_load("stale:b", fail_late, ENDED)


async def test_without_anything_to_serve_the_soft_timeout_raises_and_the_load_fills(
    loads: ReadThrough, wait_until: WaitUntil
) -> None:
    slow, unused = Source("late", open_=False), Source("unused")
    with pytest.raises(DeadlineExceeded, match=r"takes longer than 0\.01 s"):
        await loads.get_or_load("soft:a", slow, replace(MINUTE, soft_timeout_s=0.01))
    slow.gate.set()
    assert (await loads.get_or_load("soft:a", unused, MINUTE)).value == "late"
    assert (slow.n_asked, unused.n_asked) == (1, 0)


async def test_the_hard_timeout_gives_a_loader_up(loads: ReadThrough) -> None:
    never = Source("x", open_=False)
    with pytest.raises(DeadlineExceeded, match=r"did not return within 0\.05 s"):
        await loads.get_or_load("hard:a", never, replace(MINUTE, hard_timeout_s=0.05))
    assert (await loads.get_or_load("hard:a", Source("next"), MINUTE)).value == "next"


async def test_a_value_near_its_end_is_loaded_early_and_nobody_waits(
    cache: MarketCache, settings: Settings, wait_until: WaitUntil
) -> None:
    async with ReadThrough(cache, settings, draw=lambda: 1e-300) as eager:
        source = Source("first", "second", open_=True)
        policy = replace(MINUTE, beta=1e9)
        assert (await eager.get_or_load("early:a", source, policy)).value == "first"
        source.gate.clear()
        hit = await eager.get_or_load("early:a", source, policy)
        assert (hit.value, hit.stale, hit.loaded) == ("first", False, False)
        source.gate.set()

        async def renewed() -> bool:
            entry = await cache.get("early:a")
            return entry is not None and entry.value == "second"

        await wait_until(renewed, DEADLINE_S, "the early load")


async def test_the_lease_of_a_holder_who_died_passes_on(settings: Settings, others: ReadThrough, redis: Redis) -> None:
    locks = LoadLocks(
        redis,
        url=settings.redis.url,
        prefix=settings.topics.prefix,
        n_partitions=settings.kafka.partitions,
        lease_s=LEASE_S,
    )
    dead = await locks.acquire("lease:a")
    assert isinstance(dead, Lease)
    assert isinstance(await locks.acquire("lease:a"), Busy)
    found = await others.get_or_load("lease:a", Source("loaded by another"), MINUTE)
    assert (found.value, found.loaded) == ("loaded by another", True)
    assert not await locks.renew("lease:a", dead)
    assert not await locks.release("lease:a", dead, 5), "it is not the dead one's to give up"
    filled = await locks.acquire("lease:a")
    assert isinstance(filled, Filled)
    next_ = await locks.acquire("lease:a", filled.value)
    assert isinstance(next_, Lease)
    assert next_.token > dead.token


async def test_a_lease_is_renewed_as_long_as_its_load_takes(
    settings: Settings, others: ReadThrough, redis: Redis, wait_until: WaitUntil
) -> None:
    slow = Source("slow", open_=False)
    loading = asyncio.create_task(others.get_or_load("lease:b", slow, MINUTE))
    await slow.asked.wait()
    lock, lives = lock_of(settings, "lease:b"), []

    async def renewed_often() -> bool:
        lives.append(await redis.pttl(lock))
        assert lives[-1] > 0
        return sum(after > before for before, after in pairwise(lives)) > 3

    await wait_until(renewed_often, DEADLINE_S, "four renewals")  # longer than the lease
    slow.gate.set()
    assert (await loading).value == "slow"


class Unsteady:
    """A Redis whose scripts wait for `before` them; `asked` is set when one begins."""

    def __init__(self, redis: Redis, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.redis, self.before, self.asked = redis, before, asyncio.Event()

    async def eval(self, *arguments: Any) -> Any:
        self.asked.set()
        if self.before is not None:
            await self.before()
        return await self.redis.eval(*arguments)


def locks_over(redis: Any, settings: Settings, lease_s: float) -> LoadLocks:
    n_partitions = settings.kafka.partitions
    return LoadLocks(redis, url="", prefix=settings.topics.prefix, n_partitions=n_partitions, lease_s=lease_s)


@pytest.mark.parametrize("n_turns", range(8))
async def test_a_load_ends_at_whatever_moment_of_a_renewal(settings: Settings, redis: Redis, n_turns: int) -> None:
    """redis-py on Python 3.11 loses a cancellation that comes just as a command was written."""
    unsteady = Unsteady(redis)
    locks = locks_over(unsteady, settings, 0.3)
    lease = await locks.acquire(f"moment:{n_turns}")
    assert isinstance(lease, Lease)
    unsteady.asked.clear()
    async with asyncio.timeout(DEADLINE_S / 6), locks.keep(f"moment:{n_turns}", lease):
        await unsteady.asked.wait()
        for _ in range(n_turns):
            await asyncio.sleep(0)


async def test_who_waits_for_another_gives_up_also_when_the_client_loses_the_cancellation(
    settings: Settings, cache: MarketCache, redis: Redis
) -> None:
    async def lose() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    locks = locks_over(redis, settings, DEADLINE_S)
    assert isinstance(await locks.acquire("lost:b"), Lease)
    async with ReadThrough(cache, settings) as deaf:
        deaf._locks = locks_over(Unsteady(redis, lose), settings, DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S / 6):
            with pytest.raises(DeadlineExceeded, match=r"another process has been loading it for more than 0\.05 s"):
                await deaf.get_or_load("lost:b", Source(1), replace(MINUTE, hard_timeout_s=0.05))


async def test_a_lease_is_kept_while_its_holder_still_asks_tiers_that_are_behind(
    settings: Settings, redis: Redis
) -> None:
    slow = replace(settings, reader=replace(settings.reader, max_wait_s=1.2 * LEASE_S))
    async with MarketCache(slow) as cache, ReadThrough(cache, slow) as loads:

        async def fall_behind() -> None:
            cache.expect("look:a", 1 << 40)  # no tier will have it

        async def load() -> bool:
            return await redis.get(lock_of(settings, "look:a")) is not None

        loads._locks = locks_over(Unsteady(redis, fall_behind), settings, LEASE_S)
        assert (await loads.get_or_load("look:a", load, MINUTE)).value is True


async def test_a_holder_who_lost_the_lease_overwrites_nothing(
    settings: Settings, loads: ReadThrough, others: ReadThrough, cache: MarketCache, redis: Redis
) -> None:
    """As after a long pause: the lease has passed on, another has loaded and filled, and then the first one is back."""
    paused = Source("old", open_=False)
    loading = asyncio.create_task(loads.get_or_load("pause:a", paused, MINUTE))
    await paused.asked.wait()
    await redis.delete(lock_of(settings, "pause:a"))
    assert (await others.get_or_load("pause:a", Source("new"), MINUTE)).value == "new"
    paused.gate.set()
    assert (await loading).value == "old", "who waited for it has it"
    entry = await cache.get("pause:a")
    assert entry is not None
    assert entry.value == "new"


async def test_who_waits_for_a_fill_that_the_worker_has_not_come_to_does_not_load(
    worker: WorkerProcess, settings: Settings, loads: ReadThrough, wait_until: WaitUntil
) -> None:
    impatient = replace(settings, reader=replace(settings.reader, max_wait_s=0.05))
    silent = metrics.LOADS.labels("tiers_silent")
    async with MarketCache(impatient) as cache, ReadThrough(cache, impatient) as others:
        await others.get_or_load("late:b", Source(1), MINUTE)
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            assert (await loads.get_or_load("late:a", Source("once"), MINUTE)).loaded
            before, unused = silent._value.get(), Source("twice")
            waiting = asyncio.create_task(others.get_or_load("late:a", unused, MINUTE))
            await wait_until(lambda: silent._value.get() > before, DEADLINE_S, "a look that nobody answered")
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        found = await waiting
        assert (found.value, found.loaded, unused.n_asked) == ("once", False, 0)


async def test_what_was_deleted_while_it_was_loaded_is_not_kept_and_not_given_to_who_came_later(
    loads: ReadThrough, cache: MarketCache
) -> None:
    before, after = Source("before", open_=False), Source("after")
    early = asyncio.create_task(loads.get_or_load("gone:a", before, MINUTE))
    await before.asked.wait()
    await cache.delete("gone:a")
    late = asyncio.create_task(loads.get_or_load("gone:a", after, MINUTE))
    await asyncio.sleep(0)
    before.gate.set()
    assert [(await early).value, (await late).value] == ["before", "after"]
    entry = await cache.get("gone:a")
    assert entry is not None
    assert entry.value == "after"


async def test_tags_of_a_policy_take_what_was_loaded_along(loads: ReadThrough, cache: MarketCache) -> None:
    tagged = replace(MINUTE, tags=("team:7",))
    await loads.get_or_load("tag:a", Source("x"), tagged)
    assert await cache.get("tag:a") is not None
    await cache.delete_tag("team:7")
    assert (await loads.get_or_load("tag:a", Source("y"), tagged)).value == "y"


async def test_what_cannot_be_kept_is_an_error_and_what_is_too_large_is_only_not_kept(
    loads: ReadThrough, cache: MarketCache
) -> None:
    with pytest.raises(WriteRefused, match=r"'bad:a'.*msgpack"):
        await loads.get_or_load("bad:a", Source(object()), MINUTE)
    with pytest.raises(WriteRefused, match="market alone"):
        await loads.get_or_load("md:binance.spot.BTC-USDT:quote", Source(1), MINUTE)
    with pytest.raises(WriteRefused, match="tag"):
        await loads.get_or_load("bad:b", Source(1), replace(MINUTE, tags=("",)))
    large = await loads.get_or_load("bad:c", Source(random.Random(1).randbytes(1 << 20)), MINUTE)
    assert len(large.value) == 1 << 20
    assert await cache.get("bad:c") is None


async def test_a_source_is_asked_also_when_redis_is_away(settings: Settings) -> None:
    """Then each process loads for itself, and nothing is promised about how often."""
    (port,) = free_ports(1)
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(MarketCache(settings))
        away = replace(settings, redis=replace(settings.redis, url=f"redis://127.0.0.1:{port}/0"))
        loads = await stack.enter_async_context(ReadThrough(cache, away))
        source = Source("loaded")
        found = await asyncio.gather(*(loads.get_or_load("away:a", source, MINUTE) for _ in range(10)))
        assert {one.value for one in found} == {"loaded"}
        assert source.n_asked == 1


# -- cached functions --------------------------------------------------------------------------------------------------


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name

    def __cache_key__(self) -> str:
        return self.name


async def test_functions_methods_and_plain_functions_are_called_once_for_the_same_arguments(
    loads: ReadThrough, cache: MarketCache
) -> None:
    called: list[Any] = []

    @cached(loads, MINUTE, namespace="fn")
    async def joined(a: str, b: str = "c", *, c: int = 1) -> list[Any]:
        called.append((a, b, c))
        return [a, b, c]

    @cached(loads, MINUTE, namespace="fn")
    def plain(x: int) -> int:
        called.append(x)
        return x + 1

    class Catalogue(Shop):
        @cached(loads, MINUTE, namespace="fn")
        async def price(self, item: str) -> str:
            called.append((self.name, item))
            return f"{self.name}:{item}"

    class Unnamed:
        @cached(loads, MINUTE, namespace="fn")
        async def price(self) -> int:
            return 1

    assert [await joined("a", "b:c"), await joined("a:b", "c")] == [["a", "b:c", 1], ["a:b", "c", 1]]
    assert await joined(b="c", c=1, a="a:b") == await joined("a:b") == ["a:b", "c", 1]
    assert [await plain(1), await plain(x=1)] == [2, 2]
    assert [await Catalogue(name).price("x") for name in ("one", "two", "one")] == ["one:x", "two:x", "one:x"]
    assert called == [("a", "b:c", 1), ("a:b", "c", 1), 1, ("one", "x"), ("two", "x")]
    with pytest.raises(UnkeyableArgument, match="'self'"):
        await Unnamed().price()
    await cache.delete(joined.key("a:b"))
    assert (await joined.load("a:b")).loaded
    assert joined.__name__ == "joined"


# -- what is certainly not there ---------------------------------------------------------------------------------------

STRANGERS = [f"user:never{i}" for i in range(200)]


def n_denied(presence: Presence) -> int:
    return sum(map(presence.is_absent, STRANGERS))


async def test_presence_denies_only_what_is_not_there(
    settings: Settings, cache: MarketCache, loads: ReadThrough, wait_until: WaitUntil
) -> None:
    users = [f"user:{i}" for i in range(60)]
    await cache.put_many(dict.fromkeys(users, "here"))
    presence = Presence(settings, {"user": 10})  # far too small: it has to grow
    assert n_denied(presence) == 0, "it serves no cache yet"
    async with MarketCache(settings, heard=presence.hear) as own, presence.serving(own):
        await wait_until(lambda: presence.is_ready and n_denied(presence) > 190, DEADLINE_S, "a larger filter")
        assert not any(map(presence.is_absent, users))
        assert not presence.is_absent("other:1"), "nothing is known of that namespace"
        assert await presence.get(STRANGERS[0]) is None
        stranger = next(key for key in STRANGERS if presence.is_absent(key))
        await own.put(stranger, "new")
        assert not presence.is_absent(stranger), "an own put, at once"
        other = next(key for key in STRANGERS if presence.is_absent(key))
        await cache.put(other, "new")
        await wait_until(lambda: not presence.is_absent(other), DEADLINE_S, "another client's put")
        entry = await presence.get(other)
        assert entry is not None
        assert entry.value == "new"

        async with ReadThrough(own, settings, presence=presence) as guarded:
            source = Source("loaded")
            absent = next(key for key in STRANGERS if presence.is_absent(key))
            assert (await guarded.get_or_load("guard:a", source, MINUTE, exists=absent)).value is None
            assert source.n_asked == 0
            assert (await guarded.get_or_load("guard:a", source, MINUTE, exists="user:1")).value == "loaded"

        await asyncio.gather(*map(cache.delete, users))
        await wait_until(lambda: sum(map(presence.is_absent, users)) > 55, DEADLINE_S, "a filter without them")


async def test_presence_that_missed_something_denies_nothing_until_it_has_scanned_again(
    settings: Settings, cache: MarketCache, wait_until: WaitUntil
) -> None:
    presence = Presence(settings, {"user": 1_000})
    async with MarketCache(settings, heard=presence.hear) as own, presence.serving(own):
        await wait_until(lambda: presence.is_ready, DEADLINE_S, "the first scan")
        key = next(key for key in (f"user:gap{i}" for i in range(99)) if presence.is_absent(key))
        partition = parse_key(key).partition(settings.kafka.partitions)
        heard = own.position(Space.GENERIC, partition)
        presence.hear(
            partition, Invalidation(RecordType.CHANGES, Topic.WRITES, 1, heard + 5, heard + 6)
        )  # what `heard + 1` to `heard + 5` named was never said
        assert not presence.is_absent(key)
        for _ in range(7):
            await cache.put(key, "was there all the time")
        await wait_until(lambda: presence.is_ready, DEADLINE_S, "another scan")
        assert not presence.is_absent(key)


async def test_presence_ends_at_whatever_moment_of_a_scan(settings: Settings, cache: MarketCache) -> None:
    """As a lease's renewals do."""
    for n_turns in range(40):
        presence = Presence(settings, {"user": 10})
        presence.hear(0, Invalidation(RecordType.CHANGES, Topic.WRITES, 1, 0, 0))
        async with asyncio.timeout(DEADLINE_S / 6), presence.serving(cache):
            for _ in range(n_turns):
                await asyncio.sleep(0)


# -- write-behind ------------------------------------------------------------------------------------------------------


async def test_write_behind_returns_at_once_reads_its_own_and_closes_with_everything_written(
    cache: MarketCache, settings: Settings
) -> None:
    async with WriteBehind(cache, interval_s=60) as behind:
        for i in range(50):
            behind.put("behind:a", i)
            behind.put(f"behind:{i}", {"i": i})
        behind.delete("behind:0")
        assert [await behind.get("behind:a"), await behind.get("behind:0")] == [49, None]
        assert len(behind) == 51
    async with MarketCache(settings, follow=False) as other:
        await other.put("behind:a0", 1)
        values = [(await cache.get(f"behind:{name}")) for name in ("a", "0", "49")]
        assert [entry and entry.value for entry in values] == [49, None, {"i": 49}]
    with pytest.raises(BufferFull, match="closed"):
        behind.put("behind:a", 50)


async def test_write_behind_is_flushed_by_number_and_by_time(cache: MarketCache, wait_until: WaitUntil) -> None:
    async with WriteBehind(cache, interval_s=60, flush_entries=5) as behind:
        for i in range(5):
            behind.put(f"batch:{i}", i)
        await wait_until(lambda: not len(behind), DEADLINE_S, "five entries")
    async with WriteBehind(cache, interval_s=0.01) as behind:
        behind.put("batch:time", 1)
        await wait_until(lambda: not len(behind), DEADLINE_S, "the interval")


async def test_write_behind_that_is_full_refuses_and_keeps_what_it_has(cache: MarketCache) -> None:
    async with WriteBehind(cache, interval_s=60, max_entries=3, max_bytes=100) as behind:
        for i in range(3):
            behind.put(f"full:{i}", i)
        with pytest.raises(BufferFull, match="3 keys"):
            behind.put("full:3", 3)
        behind.put("full:2", "again")
        with pytest.raises(BufferFull, match="at most 3 and 100"):
            behind.put("full:2", b"x" * 101)
        with pytest.raises(WriteRefused, match="namespace"):
            behind.put("full", 1)
        await behind.flush()
        behind.put("full:3", 3)
    assert [await value_of(cache, f"full:{i}") for i in (0, 1, 2, 3)] == [0, 1, "again", 3]


async def value_of(cache: MarketCache, key: str) -> Any:
    entry = await cache.get(key)
    return entry and entry.value


async def test_write_behind_keeps_what_kafka_did_not_take_and_says_at_the_end_what_is_lost(settings: Settings) -> None:
    (port,) = free_ports(1)
    kafka = replace(settings.kafka, bootstrap=f"127.0.0.1:{port}", connect_timeout_s=0.1)
    async with MarketCache(replace(settings, kafka=kafka), follow=False) as cache:
        behind = WriteBehind(cache, interval_s=60, close_s=0.3)
        with pytest.raises(DeadlineExceeded, match=rf"1 writes could not be sent.*'lost:a' first.*{port}"):
            async with behind:
                behind.put("lost:a", 1)
                with pytest.raises(ServiceUnavailable, match=str(port)):
                    await behind.flush()
                assert await behind.get("lost:a") == 1
                behind.put("lost:a", 2)
        assert await behind.get("lost:a") == 2


# -- the page ----------------------------------------------------------------------------------------------------------


async def test_the_pages_examples_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    head, *examples = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "loading.md").read_text(), re.M | re.S)
    assert len(examples) >= 6
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    for example in examples:
        inside = textwrap.indent(example, "    ")
        scope: dict[str, Any] = {}
        exec(f"{head}\nasync def main():\n{inside}", scope)
        async with asyncio.timeout(DEADLINE_S):
            await scope["main"]()
