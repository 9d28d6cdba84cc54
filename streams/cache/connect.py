"""The Redis client as this project wants it: short timeouts, no retries, foreign errors become ours here, once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.typing import EncodableT

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
