"""Batches of commands over one connection of redis-py's pool, without its streams."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

from streams.cache.resp import Part

_NO_REPLY = object()

# Called in the loop, once: the replies in the order of the commands, or why there are none. It must not raise.
Answered = Callable[[list[Any] | Exception], None]


class _Batch:
    """Commands that were sent in one write, and who is told their replies."""

    __slots__ = ("answered", "deadline_s", "n_commands", "replies")

    def __init__(self, n_commands: int, answered: Answered, deadline_s: float) -> None:
        self.n_commands, self.answered, self.deadline_s = n_commands, answered, deadline_s
        self.replies: list[Any] = []


class _Wire(asyncio.Protocol):
    """One connected socket. The library made it (address, TLS, password, database); from then on it is read here.

    Attributes:
        broken: nothing more can be sent.
    """

    def __init__(self, connection: Any) -> None:
        parser = connection._parser
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=parser.parse_error, notEnoughData=_NO_REPLY
        )
        self._timeout_s: float = connection.socket_timeout
        self._batches: deque[_Batch] = deque()  # in the order in which they will be answered
        self._watch: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._transport = connection._writer.transport
        self._streams = self._transport.get_protocol()  # who closes the connection waits until this one hears of it
        self._transport.set_protocol(self)
        self.broken = False

    def send(self, packed: Sequence[Part], n_commands: int, answered: Answered) -> None:
        """Write commands."""
        batch = _Batch(n_commands, answered, self._loop.time() + self._timeout_s)
        self._batches.append(batch)
        self._transport.writelines(packed)
        if self._watch is None:
            self._watch = self._loop.call_at(batch.deadline_s, self._look)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        reader, batches = self._reader, self._batches
        reader.feed(data)
        try:
            while batches and (reply := reader.gets()) is not _NO_REPLY:
                if reply.__class__ is hiredis.PushNotification:
                    continue  # nobody asked for it
                batch = batches[0]
                batch.replies.append(reply)
                if len(batch.replies) == batch.n_commands:
                    batches.popleft()
                    # The library's kind for a server that is not ready: nothing was done.
                    unready = next((r for r in batch.replies if isinstance(r, RedisConnectionError)), None)
                    batch.answered(unready or batch.replies)
        except InvalidResponse as exc:
            self._break(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._streams.connection_lost(exc)
        self._break(exc or RedisConnectionError("Connection closed by server."))

    def _look(self) -> None:
        """Whether the oldest batch has waited too long."""
        self._watch = None
        if not self._batches:
            return
        if self._loop.time() < (due_s := self._batches[0].deadline_s):
            self._watch = self._loop.call_at(due_s, self._look)
        else:
            self._break(TimeoutError(f"no answer within {self._timeout_s:g} s"))

    def _break(self, failure: Exception) -> None:
        """A reply that comes late would be taken for another one's: all who wait fail, and the socket ends."""
        self.broken = True
        self._transport.abort()
        while self._batches:
            self._batches.popleft().answered(failure)


class Exchange:
    """One connection for who sends batch after batch: a batch is one write, and no batch waits for the one before it.

    redis-py's pipeline takes a connection from the pool each time, a task a send and a timeout a reply: three times
    the CPU of the calls themselves; its streams cost as much again for each batch. A connection that broke is made
    anew by the next batch.

    Args:
        redis: from `connect_redis`; the connection is one of its pool and ends with it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._connection: Any = None
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[_Wire] | None = None

    async def send(self, packed: Sequence[Part], n_commands: int) -> list[Any]:
        """Replies in the order of the commands; an error that Redis answers is the reply of its command.

        Args:
            packed: the bytes of at least one command, in parts; views must not change until it is answered.

        Raises:
            RedisError, OSError, TimeoutError: the connection failed, or the server is not ready; what was done is not
                known.
        """
        wire = self._wire
        if wire is None or wire.broken:
            wire = await self._connected()
        waiter: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        wire.send(packed, n_commands, partial(_settle, waiter))
        return await waiter

    def post(self, packed: Sequence[Part], n_commands: int, answered: Answered) -> bool:
        """Send commands without a task that waits for them; False: there is no connection, nothing was sent."""
        wire = self._wire
        if wire is None or wire.broken:
            return False
        wire.send(packed, n_commands, answered)
        return True

    async def _connected(self) -> _Wire:
        """All who come while it is being made share the connection, or why there is none: a server that says nothing
        holds each of them for one timeout.

        Raises: RedisError, OSError, TimeoutError.
        """
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
            self._connecting.add_done_callback(self._came)
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Wire:
        if self._connection is None:
            pool: Any = self._redis.connection_pool
            self._connection = await pool.get_connection()
        else:
            await self._connection.disconnect(nowait=True)
            await self._connection.connect()
        self._wire = _Wire(self._connection)
        return self._wire

    def _came(self, connecting: asyncio.Task[_Wire]) -> None:
        self._connecting = None
        if not connecting.cancelled():
            connecting.exception()  # seen: perhaps nobody waits any more


def _settle(waiter: asyncio.Future[list[Any]], replies: list[Any] | Exception) -> None:
    if waiter.done():  # it has left
        return
    if isinstance(replies, Exception):
        waiter.set_exception(replies)
    else:
        waiter.set_result(replies)
