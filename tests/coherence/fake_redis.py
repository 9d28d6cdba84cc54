"""The redis-py client's face over a `RedisModel`: what our code uses of it, with a network that loses and delays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.coherence.network import Process
from tests.coherence.redis_model import RedisModel

TIMEOUT_S = 0.25
LOST = 0.01  # of messages while faults are on


class RedisServer:
    """Attributes:
    up: answers; else connections are refused.
    lossy: messages get lost.
    """

    def __init__(self, model: RedisModel) -> None:
        self.model = model
        self.up = True
        self.lossy = False


class FakeRedis:
    """One client of a process. Replies are bytes."""

    def __init__(self, server: RedisServer, process: Process) -> None:
        self.server = server
        self.process = process
        self.connection_pool = self

    async def get_connection(self) -> _Connection:
        return _Connection(self)

    async def ask(self, *commands: Sequence[bytes]) -> list[Any]:
        """Commands of one write; no other client's come between them."""

        def serve() -> list[Any]:
            if not self.server.up:
                raise ConnectionRefusedError("Redis is down")
            return [self.server.model.execute(command) for command in commands]

        lost = LOST if self.server.lossy else 0.0
        replies: list[Any] = await self.process.ask(serve, lost=lost)
        return replies

    async def one(self, *command: bytes) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                (reply,) = await self.ask(command)
        except TimeoutError as exc:
            raise RedisTimeoutError("no answer") from exc
        except OSError as exc:
            raise RedisConnectionError(str(exc)) from exc
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def get(self, key: bytes | str) -> bytes | None:
        value: bytes | None = await self.one(b"GET", _bytes(key))
        return value

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = await self.one(b"MGET", *keys)
        return values

    async def scan(self, cursor: int, match: str, count: int) -> tuple[int, list[bytes]]:
        prefix = match.removesuffix("*").replace("\\", "").encode()
        _, keys = await self.one(b"SCAN")
        return 0, [key for key in keys if key.startswith(prefix)]

    async def function_list(self, name: str, withcode: bool) -> list[Any]:
        return []

    async def function_load(self, code: str, replace: bool) -> None:
        await self.one(b"FUNCTION", b"LOAD")

    def pipeline(self, transaction: bool) -> _Pipeline:
        return _Pipeline(self)

    async def aclose(self) -> None:
        pass


class _Pipeline:
    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis
        self._commands: list[tuple[bytes, ...]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def get(self, key: bytes | str) -> None:
        self._commands.append((b"GET", _bytes(key)))

    def hgetall(self, key: bytes | str) -> None:
        self._commands.append((b"HGETALL", _bytes(key)))

    async def execute(self) -> list[Any]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._redis.ask(*self._commands)
        except TimeoutError as exc:
            raise RedisTimeoutError("no answer") from exc
        except OSError as exc:
            raise RedisConnectionError(str(exc)) from exc


class _Connection:
    """What `Exchange` uses of a connection: it writes bytes and reads one reply a command."""

    socket_timeout = TIMEOUT_S

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis
        self._parser = self._reader = self._writer = self
        self.is_connected = False

    async def connect(self) -> None:
        if not self._redis.server.up:
            raise RedisConnectionError("Redis is down")
        self.is_connected = True
        self._bytes = hiredis.Reader()
        self._asked: asyncio.Task[list[Any]] | None = None
        self._replies: list[Any] = []

    async def disconnect(self, nowait: bool) -> None:
        self.is_connected = False
        if self._asked is not None:
            self._asked.cancel()

    def at_eof(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self._bytes.feed(data)

    async def drain(self) -> None:
        commands = []
        while (command := self._bytes.gets()) is not False:
            commands.append(command)
        self._asked = asyncio.ensure_future(self._redis.ask(*commands))

    async def read_response(self) -> Any:
        if not self._replies:
            assert self._asked is not None
            self._replies = await self._asked
        return self._replies.pop(0)


def _bytes(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key
