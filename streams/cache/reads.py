"""Reading from Redis: all reads of one loop tick in one MGET, each answered together with its partition's mark."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import Any

from redis.asyncio import Redis

from models.cache import version as versions
from models.cache.keys import Location, Space, floors_key, mark_key
from models.cache.mark import Mark, unpack_mark
from models.errors import ServiceUnavailable
from streams.cache.connect import redis_errors

Answer = tuple[Mark, bytes | None]
_Waiting = tuple[Location, list[asyncio.Future[Answer]]]  # a future a reader: one that gives up harms no other

_MAX_KEYS = 512  # of one MGET; more block the loop for milliseconds
_MAX_IN_FLIGHT = 2  # while they are under way the next reads gather, so a slow server gets fewer and larger requests


class RedisReads:
    """One MGET is atomic, so a mark in it says how old the values beside it are.

    Args:
        redis: from `connect_redis`; the caller closes it.
        url: for error messages.
        prefix: the run's prefix.
    """

    def __init__(self, redis: Redis, *, url: str, prefix: str = "") -> None:
        self._redis = redis
        self._url = url
        self._prefix = prefix
        self._waiting: dict[bytes, _Waiting] = {}  # by Redis key
        self._tasks: set[asyncio.Task[None]] = set()
        self._kicked = False

    async def read(self, at: Location) -> Answer:
        """The mark and the bytes (None: there are none) of a key that is no book.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        waiting = self._waiting.get(at.redis_key)
        if waiting is None:
            self._waiting[at.redis_key] = at, [future]
        else:
            waiting[1].append(future)
        if not self._kicked:
            self._kicked = True
            loop.call_soon(self._kick)
        return await future

    async def read_book(self, at: Location) -> tuple[Mark, Mapping[bytes, bytes]]:
        """All fields of a book, and the mark they were read with.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        with redis_errors(self._url):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.get(at.mark_key)
                pipeline.hgetall(at.redis_key)
                mark, fields = await pipeline.execute()
        return unpack_mark(mark), fields

    async def read_floors(self, partition: int) -> tuple[Mark, dict[str, int]]:
        """All tag, namespace and flush floors, and the mark they were read with.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        with redis_errors(self._url):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.get(mark_key(self._prefix, Space.GENERIC, partition))
                pipeline.hgetall(floors_key(self._prefix, partition))
                mark, fields = await pipeline.execute()
        floors = {name.decode(): versions.from_bytes(version) for name, version in fields.items()}
        return unpack_mark(mark), floors

    async def close(self) -> None:
        """Let what is under way end; the client stays open."""
        self._waiting.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _kick(self) -> None:
        self._kicked = False
        while self._waiting and len(self._tasks) < _MAX_IN_FLIGHT:
            if len(self._waiting) <= _MAX_KEYS:
                batch, self._waiting = self._waiting, {}
            else:
                batch = {key: self._waiting.pop(key) for key in list(islice(self._waiting, _MAX_KEYS))}
            task = asyncio.create_task(self._fetch(list(batch.values())))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._kick()

    async def _fetch(self, batch: list[_Waiting]) -> None:
        mark_keys = list(dict.fromkeys([at.mark_key for at, _ in batch]))
        try:
            with redis_errors(self._url):
                values: list[Any] = await self._redis.mget([*mark_keys, *(at.redis_key for at, _ in batch)])
        except ServiceUnavailable as exc:
            for _, futures in batch:
                for future in futures:
                    if not future.done():
                        future.set_exception(exc)
            return
        marks = {key: unpack_mark(data) for key, data in zip(mark_keys, values, strict=False)}
        for (at, futures), value in zip(batch, values[len(mark_keys) :], strict=True):
            answer = marks[at.mark_key], value
            for future in futures:
                if not future.done():
                    future.set_result(answer)
