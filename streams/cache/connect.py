"""The Redis client as this project wants it: short timeouts, no retries, foreign errors become ours here, once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.typing import EncodableT

from models.cache.packed_keys import PackedKeys
from models.errors import ServiceUnavailable
from streams.settings import RedisSettings


class _Packed:
    """Packs commands in C: redis-py's asyncio connections do it in Python (measured: 0.7 us a key against 0.2)."""

    def pack_command(self, *args: EncodableT) -> list[bytes]:
        name = args[0] if isinstance(args[0], str) else bytes(args[0]).decode()  # type: ignore[arg-type]
        return [hiredis.pack_command((*name.split(), *args[1:]))]  # type: ignore[arg-type]

    def pack_commands(self, commands: Iterable[Iterable[EncodableT]]) -> list[bytes]:
        return [b"".join([packed for command in commands for packed in self.pack_command(*command)])]


class _Tcp(_Packed, Connection):
    pass


class _Tls(_Packed, SSLConnection):
    pass


class _Unix(_Packed, UnixDomainSocketConnection):
    pass


_CONNECTIONS = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def connect_redis(settings: RedisSettings, *, max_connections: int = 8) -> Redis:
    """A client; it connects when it is first used. Replies are bytes. `aclose()` it.

    redis-py's defaults (5 s, ten retries) hold a caller of a dead server for many seconds; callers here have a plan B.
    """
    pool = BlockingConnectionPool.from_url(
        settings.url,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        max_connections=max_connections,
        timeout=settings.timeout_s,  # for a free connection
        decode_responses=False,
    )
    pool.connection_class = _CONNECTIONS[pool.connection_class]
    return Redis.from_pool(pool)


class Exchange:
    """One connection for who sends batch after batch: all commands in one write, all replies under one timeout.

    redis-py's pipeline takes a connection from the pool each time, a task a send and a timeout a reply: three times
    the CPU of the calls themselves. Batches wait for each other. A connection that broke is made anew by the next one.

    Args:
        redis: from `connect_redis`; the connection is one of its pool and ends with it.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def __call__(self, commands: Sequence[Sequence[EncodableT | PackedKeys]]) -> list[Any]:
        """Replies in the order of the commands; an error that Redis answers is the reply of its command.

        Raises:
            RedisError, OSError, TimeoutError: the connection failed; what was done is not known.
        """
        async with self._turn:
            connection = self._connection
            if connection is None:
                connection = self._connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            elif connection.is_connected and connection._reader.at_eof():
                await connection.disconnect(nowait=True)
            if not connection.is_connected:
                await connection.connect()
            try:
                async with asyncio.timeout(connection.socket_timeout):
                    connection._writer.write(b"".join([part for c in commands for part in packed_command(c)]))
                    await connection._writer.drain()
                    return [await connection._parser.read_response() for _ in commands]
            except BaseException:
                await connection.disconnect(nowait=True)  # a reply that comes late is nobody's
                raise


def packed_command(command: Sequence[EncodableT | PackedKeys]) -> list[bytes]:
    """A command's bytes; of its arguments one may be keys that are packed already."""
    at = next((i for i, argument in enumerate(command) if isinstance(argument, PackedKeys)), None)
    if at is None:
        return [hiredis.pack_command(tuple(command))]  # type: ignore[arg-type]
    keys: PackedKeys = command[at]  # type: ignore[assignment]
    before, after = (hiredis.pack_command(tuple(part)) for part in (command[:at], command[at + 1 :]))  # type: ignore[arg-type]
    # both begin with a count of their own, `*n CRLF`
    bodies = [part[part.index(b"\n") + 1 :] for part in (before, after)]
    return [b"*%d\r\n" % (len(command) - 1 + len(keys)), bodies[0], keys.packed, bodies[1]]


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Raises: ServiceUnavailable for whatever the client raised inside."""
    try:
        yield
    except (RedisError, RedisClusterException, OSError, TimeoutError) as exc:
        raise ServiceUnavailable(
            f"Redis at {_address(url)} failed ({type(exc).__name__}: {exc}): "
            "start it with `marketprism up`, or set MARKETPRISM_REDIS__URL"
        ) from exc


def _address(url: str) -> str:
    """Host and port, or the socket's path: never the password."""
    at = urlsplit(url)
    return f"{at.hostname or at.path}:{at.port}" if at.port else at.hostname or at.path
