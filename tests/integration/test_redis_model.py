"""The Redis of the simulations against a real one: the same calls get the same answers and leave the same keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from random import Random

import pytest
from redis.asyncio import Redis

from models.cache.book_hash import pack_book
from models.cache.keys import Space, stem
from models.cache.version import to_bytes
from streams.cache.batch import delete, put, put_until, raise_floor
from streams.cache.connect import connect_redis
from streams.cache.library import load_library
from streams.settings import Settings
from tests.coherence.redis_model import ROW, RedisModel

pytestmark = pytest.mark.integration

N_CALLS = 150
PAST_MS, FUTURE_MS = 1_000, 4_000_000_000_000
NOW_MS = 1_800_000_000_000


class Calls:
    """Draws calls of one partition that nearly fit each other: small versions, few keys, three owners."""

    def __init__(self, seed: int, prefix: str) -> None:
        self.random = Random(seed)
        self.stem = stem(prefix, Space.GENERIC, 0)
        self.mark = self.name("@mark")

    def name(self, text: str) -> bytes:
        return (self.stem + text).encode()

    def draw(self) -> list[bytes]:
        token = to_bytes(self.random.choice((0, 1, 1, 1, 2)))
        match self.random.random():
            case x if x < 0.15:
                return [b"mp_take", b"1", self.mark, token, self.number(), self.random.choice((b"0", b"0", b"1"))]
            case x if x < 0.3:
                return [b"mp_heartbeat", b"1", self.mark, token, self.number(), self.number(), self.number()]
        rows = [self.random.randint(0, 3) for _ in range(self.random.randint(0, 2))]
        updates = [self.update() for _ in range(self.random.randint(0, 3))]
        start = self.random.randint(0, 9)
        keys = [self.mark, *(self.name(f"row{nth}") for nth in rows), *(key for key, _ in updates)]
        flags = self.random.choice((b"0", b"1", b"1", b"1", b"2", b"3"))
        return [
            b"mp_apply", str(len(keys)).encode(), *keys, token, to_bytes(start),
            to_bytes(start + self.random.randint(0, 3)), self.number(), self.number(), flags,
            b"".join(self.number() + bytes(ROW - 8) for _ in rows), *(update for _, update in updates),
        ]  # fmt: skip

    def number(self) -> bytes:
        # Also numbers whose halves order otherwise than their sum, and that a Lua number does not hold.
        return to_bytes(self.random.choice((0, 1, 2, 3, 5, 8, 9, 1 << 32, (1 << 48) + 1, (1 << 62) + 1, (1 << 62) + 2)))

    def update(self) -> tuple[bytes, bytes]:
        version = int.from_bytes(self.number(), "big")
        key = self.name(f"value{self.random.randint(0, 3)}")
        match self.random.randint(0, 5):
            case 0:
                return key, put(to_bytes(version) + b"v")
            case 1:
                ends_ms = self.random.choice((PAST_MS, FUTURE_MS))
                return key, put_until(ends_ms, to_bytes(version) + b"w")
            case 2:
                book = self.random.random() < 0.4
                return self.name("book") if book else key, delete(version)
            case 3:
                return self.name("@floors"), raise_floor(version, self.random.choice(("t:red", "n:api", "*")))
            case _:
                chunks = [(self.random.randint(0, 3), bytes(16 * self.random.randint(0, 2))) for _ in range(2)]
                full = self.random.random() < 0.5
                return self.name("book"), pack_book(to_bytes(version) + b"header", dict(chunks).items(), [2], full=full)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    async with aclosing(connect_redis(settings.redis)) as redis:
        await load_library(redis)
        yield redis


@pytest.mark.parametrize("seed", range(12))
async def test_the_model_and_the_function_library_agree(redis: Redis, settings: Settings, seed: int) -> None:
    calls, model = Calls(seed, settings.topics.prefix), RedisModel(lambda: NOW_MS)
    model.has_functions = True
    answers = set()
    for nth in range(N_CALLS):
        name, n_keys, *rest = calls.draw()
        said = await redis.execute_command("FCALL", name, int(n_keys), *rest)
        expected = model.execute([b"FCALL", name, n_keys, *rest])
        assert list(said) == expected, f"call {nth}: {name!r} {rest}"
        answers.add(said[0])
        stored = await everything(redis, calls.stem)
        assert stored == {key: (value, model.expires_ms.get(key, -1)) for key, value in model.live().items()}, nth
    assert answers == {b"OK", b"STALE", b"GAP", b"FENCED"}


async def everything(redis: Redis, prefix: str) -> dict[bytes, tuple[object, int]]:
    """Value and end (UTC ms, -1 = none) of every key of the partition."""
    keys = [key async for key in redis.scan_iter(match=prefix + "*", count=1000)]
    found = {}
    for key in keys:
        value = await (redis.hgetall(key) if await redis.type(key) == b"hash" else redis.get(key))
        found[key] = value, await redis.pexpiretime(key)
    return found
