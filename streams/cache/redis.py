"""Writing to Redis: fenced batches of one partition each, many partitions in one send (docs/redis.md)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from models.cache import version as versions
from models.cache.keys import FLOORS, MARK, Space, mark_key, stem
from models.cache.mark import Mark, count, unpack_mark
from models.errors import OwnerFenced
from streams.cache.batch import MAX_KEYS, Answer, Batch, Call, Outcome, delete, outcome_of, packed_calls
from streams.cache.connect import redis_errors
from streams.cache.exchange import Exchange
from streams.cache.library import load_library
from streams.cache.resp import packed_command
from streams.clock import Clock, now_ns

_SCAN_COUNT = 1_000


class PartitionWriter:
    """Applies batches under the rules of docs/protocol: an older owner is refused, an older version never wins.

    Args:
        redis: from `connect_redis`; the caller closes it.
        url: for error messages.
        prefix: the run's prefix.
    """

    def __init__(self, redis: Redis, *, url: str, prefix: str = "", clock: Clock = now_ns) -> None:
        self._redis = redis
        self._exchange = Exchange(redis)
        self._url = url
        self._prefix = prefix
        self._clock = clock
        self._marks: dict[tuple[Space, int], bytes] = {}
        self._loaded = False

    async def apply(self, *batches: Batch) -> list[Outcome]:
        """Apply batches of different partitions in one send (two if one of them has more than 500 keys).

        Returns:
            one outcome a batch. All keys of an OK batch are in Redis, and its mark says so.

        Raises:
            ServiceUnavailable: no answer in time; what was written is not known, the same batch may be sent again.
        """
        outcomes: list[Outcome | None] = [None] * len(batches)
        early: list[tuple[int, Call]] = []
        final: list[tuple[int, Call]] = []
        for at, batch in enumerate(batches):
            *firsts, last = packed_calls(batch, self._mark(batch.space, batch.partition), self._clock())
            early += [(at, call) for call in firsts]
            final.append((at, last))
        written = [0] * len(batches)
        if early:
            for (at, _), reply in zip(early, await self._send([call for _, call in early]), strict=True):
                outcome = outcome_of(reply)
                written[at] += outcome.written
                if outcome.answer is not Answer.OK:
                    outcomes[at] = outcomes[at] or outcome
            # The mark must not rise over a part that was refused.
            final = [(at, call) for at, call in final if outcomes[at] is None]
        for (at, _), reply in zip(final, await self._send([call for _, call in final]), strict=True):
            outcome = outcome_of(reply)
            outcomes[at] = Outcome(outcome.answer, outcome.written + written[at], outcome.version, outcome.token)
        return [outcome for outcome in outcomes if outcome is not None]

    async def heartbeat(self, beats: Iterable[tuple[Space, int, int, int, int]]) -> list[Outcome]:
        """Raise only the watermarks, of partitions whose mark is as their owner thinks.

        Args:
            beats: (space, partition, token, applied version, watermark ns) each.

        Returns:
            GAP where the tier is behind the owner (it lost data: rewrite), STALE where it is ahead, FENCED, else OK.

        Raises:
            ServiceUnavailable: no answer in time.
        """
        now = self._clock().to_bytes(8, "big")
        calls = [
            packed_command((
                "FCALL", "mp_heartbeat", 1, self._mark(space, partition), token.to_bytes(8, "big"), count(version),
                watermark_ns.to_bytes(8, "big"), now,
            ))
            for space, partition, token, version, watermark_ns in beats
        ]  # fmt: skip
        return [outcome_of(reply) for reply in await self._send(calls)]

    async def newest_token(self, space: Space, partition: int) -> int:
        """Token of the partition's last writer, -1 = nobody wrote it. Raises: ServiceUnavailable."""
        with redis_errors(self._url):
            data = await self._redis.get(self._mark(space, partition))
        return unpack_mark(data).token if isinstance(data, bytes) else -1

    async def take(self, space: Space, partition: int, token: int, *, reset: bool = False) -> Mark:
        """Become the partition's owner and read its mark.

        Args:
            reset: distrust what the tier holds: readers refuse it until a rewrite has ended.

        Raises:
            OwnerFenced: a newer owner was here.
            ServiceUnavailable: no answer in time.
        """
        now = self._clock().to_bytes(8, "big")
        call = ("FCALL", "mp_take", 1, self._mark(space, partition), token.to_bytes(8, "big"), now, int(reset))
        ((word, result),) = await self._send([packed_command(call)])
        if word == Answer.FENCED.value:
            raise _fenced(space, partition, token, int.from_bytes(result, "big"))
        return unpack_mark(result)

    async def delete_unknown(
        self, space: Space, partition: int, *, token: int, version: int, watermark_ns: int, known: Container[bytes]
    ) -> int:
        """Delete the partition's keys that the pages lack and that are not newer than `version`; part of a rewrite.

        Scans the server's keys in bounded steps. Send it before the rewrite's last batch, which sets the mark.

        Returns:
            how many keys were deleted.

        Raises:
            OwnerFenced: a newer owner was here.
            ServiceUnavailable: no answer in time.
        """
        own = stem(self._prefix, space, partition)
        kept = {(own + MARK).encode(), (own + FLOORS).encode()}
        gone = delete(version)
        n_deleted, cursor = 0, -1
        while cursor != 0:
            with redis_errors(self._url):
                page: tuple[int, list[Any]] = await self._redis.scan(
                    max(cursor, 0), match=_escaped(own) + "*", count=_SCAN_COUNT
                )
            cursor, found = page
            unknown = [key for key in found if key not in known and key not in kept]
            for start in range(0, len(unknown), MAX_KEYS):
                updates = [(key, gone) for key in unknown[start : start + MAX_KEYS]]
                batch = Batch(
                    space, partition, token, versions.NOTHING, version, watermark_ns, updates=updates, rewrite=True
                )
                calls = packed_calls(batch, self._mark(space, partition), self._clock(), raises_mark=False)
                (reply,) = await self._send(calls)
                outcome = outcome_of(reply)
                if outcome.answer is Answer.FENCED:
                    raise _fenced(space, partition, token, outcome.token)
                n_deleted += outcome.written
        return n_deleted

    async def load_functions(self) -> bool:
        """Put this version's function library on the server; False if it was there already.

        Raises:
            ServiceUnavailable: no answer in time, or a server without functions (before 7.0).
        """
        with redis_errors(self._url):
            loaded = await load_library(self._redis)
        self._loaded = True
        return loaded

    async def _send(self, calls: Sequence[Call]) -> list[Any]:
        """All calls in one send. A server with other functions, or that lost them (fail-over), gets them first."""
        if not calls:
            return []
        if not self._loaded:
            await self.load_functions()
        with redis_errors(self._url):
            try:
                return await self._exchanged(calls)
            except ResponseError as exc:
                if "Function not found" not in str(exc):
                    raise
        await self.load_functions()
        with redis_errors(self._url):
            return await self._exchanged(calls)

    async def _exchanged(self, calls: Sequence[Call]) -> list[Any]:
        replies = await self._exchange.send([part for call in calls for part in call], len(calls))
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def _mark(self, space: Space, partition: int) -> bytes:
        key = self._marks.get((space, partition))
        if key is None:
            key = self._marks[space, partition] = mark_key(self._prefix, space, partition)
        return key


def _fenced(space: Space, partition: int, token: int, newer: int) -> OwnerFenced:
    return OwnerFenced(f"{space.value} partition {partition}: owner {token} was followed by {newer}; it must stop")


def _escaped(text: str) -> str:
    """A literal text for SCAN's glob."""
    return "".join("\\" + char if char in "*?[]\\^-" else char for char in text)
