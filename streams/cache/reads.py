"""The Redis tier: all reads of one loop tick in one MGET, each answered together with its partition's mark."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from itertools import islice
from typing import Any

import hiredis
import msgspec
from redis.asyncio import Redis, RedisCluster

from models.cache import version as versions
from models.cache.coherence import PartitionView
from models.cache.keys import Location, Space, floors_key, mark_key
from models.cache.mark import unpack_mark
from models.errors import MarketPrismError, ServiceUnavailable
from models.market.facets import BOOK
from streams.cache.connect import redis_errors
from streams.cache.exchange import Exchange
from streams.cache.held import Held, held_book, held_value
from streams.cache.tier import Answer, Asked

_MAX_KEYS = 512  # of one MGET; more block the loop for milliseconds
_MAX_IN_FLIGHT = 2  # while they are under way the next reads gather, so a slow server gets fewer and larger requests


class _Many:
    """The answers of one `read_many`, and who waits for all of them."""

    __slots__ = ("answers", "done", "left")

    def __init__(self, n: int, done: asyncio.Future[None]) -> None:
        self.answers: list[Any] = [None] * n
        self.left = n
        self.done = done

    def put(self, at: int, answer: Held | Exception) -> None:
        self.answers[at] = answer
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class _Share(msgspec.Struct, gc=False):
    """One key of a `read_many`, answered as a future is."""

    many: _Many
    at: int

    def done(self) -> bool:
        return self.many.answers[self.at] is not None

    def set_result(self, held: Held) -> None:
        self.many.put(self.at, held)

    def set_exception(self, failure: Exception) -> None:
        self.many.put(self.at, failure)


class Waiting(msgspec.Struct, gc=False):
    """A key that is asked for, and who waits for it: a future a reader, so one that gives up harms no other."""

    at: Location
    view: PartitionView
    readers: list[asyncio.Future[Held] | _Share]

    def answer(self, held: Held) -> None:
        for reader in self.readers:
            if not reader.done():
                reader.set_result(held)

    def fail(self, failure: Exception) -> None:
        for reader in self.readers:
            if not reader.done():
                reader.set_exception(failure)


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
        self._exchange = Exchange(redis)  # type: ignore[arg-type]  # a cluster's tier does not use it
        self._url = url
        self._prefix = prefix
        self._waiting: dict[bytes, Waiting] = {}  # by Redis key
        self._tasks: set[asyncio.Task[None]] = set()
        self._n_posted = 0
        self._all_came: asyncio.Future[None] | None = None  # who closes waits for it
        self._kicked = False

    def __repr__(self) -> str:
        n_asked = len(self._tasks) + self._n_posted
        return f"{type(self).__name__}({len(self._waiting)} waiting, {n_asked} requests under way)"

    async def open(self) -> None:
        """It connects when it is first used."""
        self._loop = asyncio.get_running_loop()  # asked with each read it costs a system call

    def read(self, at: Location, view: PartitionView) -> asyncio.Future[Held]:
        """See `Tier.read`. Raises: ServiceUnavailable when there is no answer in time."""
        future: asyncio.Future[Held] = self._loop.create_future()
        self._ask(at, view, future)
        return future

    async def read_many(self, asked: Sequence[Asked]) -> list[Answer]:
        """See `Tier.read_many`."""
        if not asked:
            return []
        many = _Many(len(asked), self._loop.create_future())
        for n, (at, view) in enumerate(asked):
            self._ask(at, view, _Share(many, n))
        await many.done
        for answer in many.answers:
            if isinstance(answer, Exception) and not isinstance(answer, MarketPrismError):
                raise answer
        return many.answers

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
        if self._n_posted:
            self._all_came = self._loop.create_future()
            await self._all_came
        await self._redis.aclose()

    def _ask(self, at: Location, view: PartitionView, reader: asyncio.Future[Held] | _Share) -> None:
        if (waiting := self._waiting.get(at.redis_key)) is None:
            self._waiting[at.redis_key] = Waiting(at, view, [reader])
        else:
            waiting.readers.append(reader)
        if not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._kick)

    def _kick(self) -> None:
        self._kicked = False
        while self._waiting and len(self._tasks) + self._n_posted < _MAX_IN_FLIGHT:
            if len(self._waiting) <= _MAX_KEYS:
                batch, self._waiting = self._waiting, {}
            else:
                batch = {key: self._waiting.pop(key) for key in list(islice(self._waiting, _MAX_KEYS))}
            if not self._post(list(batch.values())):
                self._start(self._serve(list(batch.values())))

    def _start(self, serving: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(serving)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._kick()

    def _post(self, batch: list[Waiting]) -> bool:
        """Ask with one MGET and no task, which would have to wait for its turn in the loop twice.

        Returns:
            False: it cannot be done so, and nothing was.
        """
        if any(waiting.at.key.facet == BOOK for waiting in batch):
            return False
        mark_keys, packed = _mget(batch)
        posted = self._exchange.post((packed,), 1, partial(self._came, batch, mark_keys))
        self._n_posted += posted
        return posted

    def _came(self, batch: list[Waiting], mark_keys: Sequence[bytes], replies: list[Any] | Exception) -> None:
        self._n_posted -= 1
        if self._all_came is not None and not self._n_posted and not self._all_came.done():
            self._all_came.set_result(None)
        try:
            with redis_errors(self._url):
                behind = answered(batch, mark_keys, _values(replies))
        except Exception as exc:
            _fail(batch, exc)
        else:
            if behind:
                self._start(self._or_fail(behind, self._ask_again(behind)))
        self._kick()

    async def _serve(self, batch: list[Waiting]) -> None:
        """Answer all of a batch, whatever happens."""
        await self._or_fail(batch, self._answer(batch))

    async def _or_fail(self, batch: list[Waiting], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as exc:  # of whatever kind: it is for those who wait, and nobody else hears of it
            _fail(batch, exc)

    async def _answer(self, batch: list[Waiting]) -> None:
        """Raises: ServiceUnavailable."""
        books = [waiting for waiting in batch if waiting.at.key.facet == BOOK]
        values = [waiting for waiting in batch if waiting.at.key.facet != BOOK] if books else batch
        with redis_errors(self._url):
            behind = await self._fetch(values) if values else []
            if books:
                await self._fetch_books(books)
        await self._ask_again(behind)

    async def _ask_again(self, behind: list[Waiting]) -> None:
        """Once more, with the floor of a group that was deleted unheard. Raises: ServiceUnavailable."""
        for partition, view in {one.at.partition: one.view for one in behind}.items():
            await self.load_floors(partition, view)
        for waiting in behind:
            if (other := self._waiting.setdefault(waiting.at.redis_key, waiting)) is not waiting:
                other.readers += waiting.readers

    async def _fetch(self, batch: list[Waiting]) -> list[Waiting]:
        """One MGET of keys that are no books. Returns: those whose view lacks floors that the tier has."""
        mark_keys, packed = _mget(batch)
        return answered(batch, mark_keys, _values(await self._exchange.send((packed,), 1)))

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


def _mget(batch: Sequence[Waiting]) -> tuple[list[bytes], bytes]:
    """The marks of all partitions in a batch, and the command that asks for them and for its keys."""
    mark_keys = list(dict.fromkeys([waiting.at.mark_key for waiting in batch]))
    keys = [waiting.at.redis_key for waiting in batch]
    return mark_keys, hiredis.pack_command((b"MGET", *mark_keys, *keys))  # type: ignore[arg-type]


def _values(replies: list[Any] | Exception) -> Sequence[bytes | None]:
    """What one MGET brought. Raises: whatever failed."""
    values: Sequence[bytes | None] | Exception = replies if isinstance(replies, Exception) else replies[0]
    if isinstance(values, Exception):
        raise values
    return values


def _fail(batch: Sequence[Waiting], failure: Exception) -> None:
    for waiting in batch:
        waiting.fail(failure)


def answered(batch: Sequence[Waiting], mark_keys: Sequence[bytes], values: Sequence[bytes | None]) -> list[Waiting]:
    """Answer who waits from one MGET's reply, marks first. Returns: those whose view lacks floors that the tier has."""
    marks = {key: unpack_mark(data) for key, data in zip(mark_keys, values, strict=False)}
    behind = []
    for waiting, value in zip(batch, values[len(mark_keys) :], strict=True):
        at, view, mark = waiting.at, waiting.view, marks[waiting.at.mark_key]
        if mark.floors > view.groups_version and at.key.space is Space.GENERIC:
            behind.append(waiting)
            continue
        held = held_value(at, view, mark, value)
        for reader in waiting.readers:  # as `answer`: a call a key less
            if not reader.done():
                reader.set_result(held)
    return behind
