"""Reading from Redis: all reads of one loop tick in one MGET, each answered together with its partition's mark."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from models.cache import version as versions
from models.cache.keys import Key, Space, floors_key, mark_key, redis_key
from models.cache.mark import Mark, unpack_mark
from models.errors import ServiceUnavailable
from streams.cache.connect import redis_errors

Answer = tuple[Mark, bytes | None]
_Address = tuple[Space, int, bytes]  # space, partition, Redis key

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
        self._marks: dict[tuple[Space, int], bytes] = {}
        self._waiting: dict[_Address, asyncio.Future[Answer]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._kicked = False

    def read(self, key: Key, partition: int) -> asyncio.Future[Answer]:
        """The bytes of a key that is no book, and the mark they were read with.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        address = (key.space, partition, redis_key(self._prefix, key, partition))
        future = self._waiting.get(address)
        if future is None or future.cancelled():
            loop = asyncio.get_running_loop()
            future = self._waiting[address] = loop.create_future()
            if not self._kicked:
                self._kicked = True
                loop.call_soon(self._kick)
        return future

    async def read_book(self, key: Key, partition: int) -> tuple[Mark, Mapping[bytes, bytes]]:
        """All fields of a book, and the mark they were read with.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        with redis_errors(self._url):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.get(self._mark(key.space, partition))
                pipeline.hgetall(redis_key(self._prefix, key, partition))
                mark, fields = await pipeline.execute()
        return unpack_mark(mark), fields

    async def read_floors(self, partition: int) -> tuple[Mark, dict[str, int]]:
        """All tag, namespace and flush floors, and the mark they were read with.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        with redis_errors(self._url):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.get(self._mark(Space.GENERIC, partition))
                pipeline.hgetall(floors_key(self._prefix, partition))
                mark, fields = await pipeline.execute()
        floors = {name.decode(): versions.from_bytes(version) for name, version in fields.items()}
        return unpack_mark(mark), floors

    async def close(self) -> None:
        """Let what is under way end; the client stays open."""
        self._waiting.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _mark(self, space: Space, partition: int) -> bytes:
        key = self._marks.get((space, partition))
        if key is None:
            key = self._marks[space, partition] = mark_key(self._prefix, space, partition)
        return key

    def _kick(self) -> None:
        self._kicked = False
        while self._waiting and len(self._tasks) < _MAX_IN_FLIGHT:
            if len(self._waiting) <= _MAX_KEYS:
                batch, self._waiting = self._waiting, {}
            else:
                batch = {address: self._waiting.pop(address) for address in list(self._waiting)[:_MAX_KEYS]}
            task = asyncio.create_task(self._fetch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._kick()

    async def _fetch(self, batch: dict[_Address, asyncio.Future[Answer]]) -> None:
        partitions = list(dict.fromkeys((space, partition) for space, partition, _ in batch))
        keys = [self._mark(*partition) for partition in partitions]
        keys += [key for _, _, key in batch]
        try:
            with redis_errors(self._url):
                values: list[Any] = await self._redis.mget(keys)
        except ServiceUnavailable as exc:
            for future in batch.values():
                if not future.done():
                    future.set_exception(exc)
            return
        marks = {partition: unpack_mark(data) for partition, data in zip(partitions, values, strict=False)}
        for ((space, partition, _), future), value in zip(batch.items(), values[len(partitions) :], strict=True):
            if not future.done():
                future.set_result((marks[space, partition], value))
