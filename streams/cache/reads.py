"""The Redis tier: all reads of one loop tick in one MGET, each answered together with its partition's mark."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import Any

from redis.asyncio import Redis, RedisCluster

from models.cache import version as versions
from models.cache.coherence import PartitionView
from models.cache.keys import Location, Space, floors_key, mark_key
from models.cache.mark import unpack_mark
from models.errors import MarketPrismError, ServiceUnavailable
from models.market.facets import BOOK
from streams.cache.connect import redis_errors
from streams.cache.held import Held, held_book, held_value
from streams.cache.tier import Answer, Asked

_MAX_KEYS = 512  # of one MGET; more block the loop for milliseconds
_MAX_IN_FLIGHT = 2  # while they are under way the next reads gather, so a slow server gets fewer and larger requests


class Waiting:
    """A key that is asked for, and who waits for it: a future a reader, so one that gives up harms no other."""

    __slots__ = ("at", "futures", "view")

    def __init__(self, at: Location, view: PartitionView, future: asyncio.Future[Held]) -> None:
        self.at, self.view, self.futures = at, view, [future]

    def answer(self, held: Held) -> None:
        for future in self.futures:
            if not future.done():
                future.set_result(held)

    def fail(self, failure: Exception) -> None:
        for future in self.futures:
            if not future.done():
                future.set_exception(failure)


class RedisTier:
    """Redis as a log tier. One MGET is atomic, so a mark in it says how old the values beside it are.

    Args:
        redis: from `connect_redis`; closed with the tier.
        url: for error messages.
        prefix: the run's prefix.
    """

    name = "redis"

    def __init__(self, redis: Redis | RedisCluster, *, url: str, prefix: str = "") -> None:
        self._redis: Any = redis
        self._url = url
        self._prefix = prefix
        self._waiting: dict[bytes, Waiting] = {}  # by Redis key
        self._tasks: set[asyncio.Task[None]] = set()
        self._kicked = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._waiting)} waiting, {len(self._tasks)} requests under way)"

    async def open(self) -> None:
        """Nothing: it connects when it is first used."""

    def read(self, at: Location, view: PartitionView) -> asyncio.Future[Held]:
        """See `Tier.read`. Raises: ServiceUnavailable when there is no answer in time."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Held] = loop.create_future()
        waiting = self._waiting.get(at.redis_key)
        if waiting is None:
            self._waiting[at.redis_key] = Waiting(at, view, future)
        else:
            waiting.futures.append(future)
        if not self._kicked:
            self._kicked = True
            loop.call_soon(self._kick)
        return future

    async def read_many(self, asked: Sequence[Asked]) -> list[Answer]:
        """See `Tier.read_many`."""
        answers = await asyncio.gather(*(self.read(at, view) for at, view in asked), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, MarketPrismError):
                raise answer
        return answers  # type: ignore[return-value]  # all others were raised

    async def probe(self) -> None:
        """One mark. Raises: ServiceUnavailable."""
        with redis_errors(self._url):
            await self._redis.get(mark_key(self._prefix, Space.GENERIC, 0))

    async def load_floors(self, partition: int, view: PartitionView) -> int:
        """See `LogTier.load_floors`."""
        with redis_errors(self._url):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.get(mark_key(self._prefix, Space.GENERIC, partition))
                pipeline.hgetall(floors_key(self._prefix, partition))
                data, fields = await pipeline.execute()
        mark = unpack_mark(data)
        for name, version in fields.items():
            view.groups.note(name.decode(), versions.from_bytes(version))
        view.groups_version = max(view.groups_version, mark.floors)
        return mark.version

    async def close(self) -> None:
        """Let what is under way end, and close the client."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            one.fail(ServiceUnavailable(f"the {self.name} tier was closed"))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def _kick(self) -> None:
        self._kicked = False
        while self._waiting and len(self._tasks) < _MAX_IN_FLIGHT:
            if len(self._waiting) <= _MAX_KEYS:
                batch, self._waiting = self._waiting, {}
            else:
                batch = {key: self._waiting.pop(key) for key in list(islice(self._waiting, _MAX_KEYS))}
            task = asyncio.create_task(self._serve(list(batch.values())))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._kick()

    async def _serve(self, batch: list[Waiting]) -> None:
        """Answer all of a batch, whatever happens."""
        try:
            await self._answer(batch)
        except Exception as exc:  # of whatever kind: it is for those who wait, and nobody else hears of it
            for waiting in batch:
                waiting.fail(exc)

    async def _answer(self, batch: list[Waiting]) -> None:
        """Raises: ServiceUnavailable."""
        books = [waiting for waiting in batch if waiting.at.key.facet == BOOK]
        values = [waiting for waiting in batch if waiting.at.key.facet != BOOK] if books else batch
        with redis_errors(self._url):
            behind = await self._fetch(values) if values else []
            if books:
                await self._fetch_books(books)
        for partition, view in {one.at.partition: one.view for one in behind}.items():
            await self.load_floors(partition, view)
        for waiting in behind:  # a group was deleted that this reader has not heard of: once more, with its floor
            if (other := self._waiting.setdefault(waiting.at.redis_key, waiting)) is not waiting:
                other.futures += waiting.futures

    async def _fetch(self, batch: list[Waiting]) -> list[Waiting]:
        """One MGET of keys that are no books. Returns: those whose view lacks floors that the tier has."""
        mark_keys = list(dict.fromkeys([waiting.at.mark_key for waiting in batch]))
        values: list[Any] = await self._redis.mget([*mark_keys, *(waiting.at.redis_key for waiting in batch)])
        return answered(batch, mark_keys, values)

    async def _fetch_books(self, batch: list[Waiting]) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            for waiting in batch:
                pipeline.get(waiting.at.mark_key)
                pipeline.hgetall(waiting.at.redis_key)
            replies = await pipeline.execute(raise_on_error=False)
        for waiting, mark, fields in zip(batch, replies[::2], replies[1::2], strict=True):
            if isinstance(mark, Exception):
                raise mark
            # A key that is no hash answers with an error: no book, and no harm to the others.
            book = {} if isinstance(fields, Exception) else fields
            waiting.answer(held_book(waiting.at, waiting.view, unpack_mark(mark), book))


def answered(batch: Sequence[Waiting], mark_keys: Sequence[bytes], values: Sequence[bytes | None]) -> list[Waiting]:
    """Answer who waits from one MGET's reply, marks first. Returns: those whose view lacks floors that the tier has."""
    marks = {key: unpack_mark(data) for key, data in zip(mark_keys, values, strict=False)}
    behind = []
    for waiting, value in zip(batch, values[len(mark_keys) :], strict=True):
        at, view, mark = waiting.at, waiting.view, marks[waiting.at.mark_key]
        if mark.floors > view.groups_version and at.key.space is Space.GENERIC:
            behind.append(waiting)
        else:
            waiting.answer(held_value(at, view, mark, value))
    return behind
