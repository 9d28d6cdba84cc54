"""Batches over one connection: replies go to whoever asked, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streams.cache.connect import connect_redis
from streams.cache.exchange import Exchange
from streams.cache.resp import packed_command
from streams.settings import RedisSettings, Settings
from tests.conftest import WaitUntil

pytestmark = pytest.mark.integration

TIMEOUT_S = 0.5
DEADLINE_S = 10.0


async def ask(exchange: Exchange, *commands: tuple[Any, ...]) -> list[Any]:
    return await exchange.send([part for command in commands for part in packed_command(command)], len(commands))


class Line:
    """An exchange, and another client to look at its connection with."""

    def __init__(self, redis: Redis, other: Redis, key: str) -> None:
        self.redis, self.other, self.key = redis, other, key
        self.exchange = Exchange(redis)

    async def ask(self, *command: Any) -> Any:
        (reply,) = await ask(self.exchange, command)
        return reply

    async def blocked(self) -> bool:
        info: dict[str, Any] = await self.other.info("clients")
        return bool(info["blocked_clients"] > 0)


@pytest.fixture
async def line(settings: Settings) -> AsyncIterator[Line]:
    short = replace(settings.redis, timeout_s=TIMEOUT_S)
    async with aclosing(connect_redis(short)) as redis, aclosing(connect_redis(settings.redis)) as other:
        made = Line(redis, other, f"{settings.topics.prefix}exchange")
        yield made
        await other.delete(made.key)


async def test_batches_are_answered_in_their_order_and_errors_in_their_place(line: Line) -> None:
    async def batch(n: int) -> list[Any]:
        return await ask(line.exchange, ("ECHO", b"%d" % n), ("HGET", "one"), ("ECHO", b"-%d" % n))

    await line.other.set(line.key, 0)
    for n, (first, wrong, last) in enumerate(await asyncio.gather(*map(batch, range(50)))):
        assert (first, last) == (b"%d" % n, b"-%d" % n)
        assert isinstance(wrong, ResponseError)


async def test_no_batch_waits_for_the_one_before_it_to_be_answered(line: Line, wait_until: WaitUntil) -> None:
    """Both are sent while the first one is held: their order on the wire is the order of their replies."""
    held = asyncio.ensure_future(line.ask("BLPOP", line.key, 0))
    await wait_until(line.blocked, DEADLINE_S, "a blocked connection")
    behind = asyncio.ensure_future(line.ask("ECHO", "behind"))
    await line.other.rpush(line.key, "x")  # type: ignore[misc]
    assert await asyncio.gather(held, behind) == [[line.key.encode(), b"x"], b"behind"]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_parts_of_a_batch_that_no_socket_takes_at_once_arrive_in_their_order(
    settings: Settings, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Both loops: one joins parts, the other hands them to the kernel as they are."""
    views = [memoryview(bytes([n]) * 40_000) for n in range(250)]

    async def echoed() -> list[Any]:
        async with aclosing(connect_redis(settings.redis)) as redis:
            parts = [part for view in views for part in packed_command(("ECHO",), view)]
            return await Exchange(redis).send(parts, len(views))

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(echoed()) == views


async def test_who_gives_up_leaves_the_replies_of_the_others_alone(line: Line, wait_until: WaitUntil) -> None:
    gone = asyncio.ensure_future(line.ask("BLPOP", line.key, 0))
    await wait_until(line.blocked, DEADLINE_S, "a blocked connection")
    behind = asyncio.ensure_future(line.ask("ECHO", "behind"))
    await asyncio.sleep(0)  # it is sent
    gone.cancel()
    await line.other.rpush(line.key, "x")  # type: ignore[misc]
    assert await behind == b"behind"
    assert gone.cancelled()


async def test_a_reply_that_comes_too_late_is_nobodys(line: Line) -> None:
    """Those behind it fail as well: what is read after it would be theirs only by luck."""
    late, behind = await asyncio.gather(
        line.ask("BLPOP", line.key, 0), line.ask("ECHO", "behind"), return_exceptions=True
    )
    assert isinstance(late, TimeoutError)
    assert isinstance(behind, TimeoutError)
    await line.other.rpush(line.key, "x")  # type: ignore[misc]
    assert await line.ask("ECHO", "next") == b"next"


async def test_a_connection_that_broke_is_made_anew_by_the_next_batch(line: Line, wait_until: WaitUntil) -> None:
    number = await line.ask("CLIENT", "ID")
    held = asyncio.ensure_future(line.ask("BLPOP", line.key, 0))
    await wait_until(line.blocked, DEADLINE_S, "a blocked connection")
    await line.other.client_kill_filter(_id=str(number))
    with pytest.raises(RedisConnectionError, match="closed"):
        await held
    assert await line.ask("CLIENT", "ID") != number


async def test_who_waits_for_the_same_connection_fails_with_it() -> None:
    """Not one after the other, each after a timeout of its own."""
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1")
    async with silent:
        url = f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}/0"
        async with aclosing(connect_redis(RedisSettings(url=url, timeout_s=0.1))) as redis:
            exchange = Exchange(redis)
            asked = [ask(exchange, ("ECHO", "x")) for _ in range(5)]
            failures = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(failures[0], RedisTimeoutError)
    assert all(failure is failures[0] for failure in failures)


async def test_user_password_and_database_of_the_address_are_the_connections(settings: Settings, line: Line) -> None:
    name, at = f"user{line.key.encode().hex()}", urlsplit(settings.redis.url)
    await line.other.acl_setuser(name, enabled=True, passwords="+secret", keys="*", commands=["+@all"])
    try:
        url = f"redis://{name}:secret@{at.hostname}:{at.port}/3"
        async with aclosing(connect_redis(replace(settings.redis, url=url))) as redis:
            exchange = Exchange(redis)
            who, info = await ask(exchange, ("ACL", "WHOAMI"), ("CLIENT", "INFO"))
            assert who == name.encode()
            assert b" db=3 " in info
    finally:
        await line.other.acl_deluser(name)
