"""The redis-py client's face over a `RedisModel`: what our code uses of it, with a network that loses and delays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
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
        connection = _Connection(self)
        await connection.connect()
        return connection

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
    """What `Exchange` uses of a connection, its parser and its transport: requests are served one after the other."""

    socket_timeout = TIMEOUT_S

    def __init__(self, redis: FakeRedis) -> None:
        self._redis = redis
        self._parser = self._writer = self.transport = self
        self._asked: list[asyncio.Task[None]] = []
        self._protocol = asyncio.Protocol()

    async def connect(self) -> None:
        if not self._redis.server.up:
            raise RedisConnectionError("Redis is down")
        self._commands = hiredis.Reader()

    async def disconnect(self, nowait: bool) -> None:
        self.abort()

    def parse_error(self, text: str) -> Exception:
        return ResponseError(text)

    def get_protocol(self) -> asyncio.Protocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def writelines(self, parts: Sequence[bytes | memoryview]) -> None:
        self._commands.feed(b"".join(parts))
        commands = []
        while (command := self._commands.gets()) is not False:
            commands.append(command)
        served = asyncio.ensure_future(self._serve(commands, self._asked[-1:]))
        self._asked = [*(task for task in self._asked if not task.done()), served]

    def abort(self) -> None:
        for task in self._asked:
            task.cancel()
        self._asked = []

    async def _serve(self, commands: Sequence[Sequence[bytes]], before: Sequence[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        try:
            replies = await self._redis.ask(*commands)
        except OSError as exc:
            self._protocol.connection_lost(exc)
        else:
            self._protocol.data_received(b"".join(map(_packed_reply, replies)))


def _packed_reply(reply: Any) -> bytes:
    """RESP2."""
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(_packed_reply, reply)))
        case Exception():
            return b"-%b\r\n" % str(reply).encode()
    raise TypeError(f"Redis does not reply {reply!r}")


def _bytes(key: bytes | str) -> bytes:
    return key.encode() if isinstance(key, str) else key
