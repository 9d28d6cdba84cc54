"""Writing to Redis: fenced batches of one partition each, many partitions in one send (docs/redis.md)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from models.cache import version as versions
from models.cache.keys import FLOORS, MARK, Space, mark_key, stem
from models.cache.mark import Mark, count, unpack_mark
from models.cache.packed_keys import NO_KEYS, PackedKeys
from models.cache.rows import ROW_BYTES
from models.errors import OwnerFenced
from streams.cache.connect import redis_errors
from streams.cache.exchange import Exchange
from streams.cache.library import load_library
from streams.cache.resp import Part, packed_command
from streams.clock import Clock, now_ns

MAX_KEYS = 500  # of one call: 1,000 keys block the server for 4 ms
_LAST, _REWRITE = 1, 2
_SCAN_COUNT = 1_000

Call = list[Part]  # of a function, packed


class Answer(Enum):
    """What the tier said to a batch."""

    OK = b"OK"
    STALE = b"STALE"  # the mark covers the batch already; nothing was written
    GAP = b"GAP"  # the tier misses something before the batch: rewrite the partition
    FENCED = b"FENCED"  # a newer owner writes this partition: stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """Answer to one batch.

    Attributes:
        written: keys that changed (OK).
        version: the tier's mark (STALE, GAP).
        token: the newer owner's (FENCED).
    """

    answer: Answer
    written: int = 0
    version: int = versions.NOTHING
    token: int = 0


@dataclass(slots=True)
class Batch:
    """What one partition's frames or writes after `from_version` up to `to_version` changed.

    Attributes:
        token: owner token of the writer.
        watermark_ns: everything the source held at this instant is in the tier once the batch is; UTC ns, 0 = unknown.
        row_keys: Redis keys of the fixed rows.
        rows: their rows, 80 bytes each, in the order of the keys; a view of bytes must not change until it is applied.
        updates: other keys with a packed update each (`put`, `put_until`, `delete`, `raise_floor`, `pack_book`).
        rewrite: the pages' whole content rather than a step: the mark becomes `to_version` whatever it was.
    """

    space: Space
    partition: int
    token: int
    from_version: int
    to_version: int
    watermark_ns: int
    row_keys: PackedKeys = NO_KEYS
    rows: bytes | memoryview = b""
    updates: Sequence[tuple[bytes, bytes]] = field(default_factory=list)
    rewrite: bool = False


def put(value: bytes) -> bytes:
    """Update: set a value (it starts with its version) that lives until it is deleted."""
    return b"S" + value


def put_until(expires_at_ms: int, value: bytes) -> bytes:
    """Update: set a value that the server drops at an absolute instant, UTC ms; one in the past deletes the key."""
    return b"P" + expires_at_ms.to_bytes(8, "big") + value


def delete(version: int) -> bytes:
    """Update: delete the key, be it a value or a book, unless it is newer than `version`."""
    return b"D" + versions.to_bytes(version)


def raise_floor(version: int, name: str) -> bytes:
    """Update of the `@floors` hash: `name` is `t:<tag>`, `n:<namespace>` or `*`."""
    return b"F" + versions.to_bytes(version) + name.encode()


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
            *firsts, last = self._calls(batch)
            early += [(at, call) for call in firsts]
            final.append((at, last))
        written = [0] * len(batches)
        if early:
            for (at, _), reply in zip(early, await self._send([call for _, call in early]), strict=True):
                outcome = _outcome(reply)
                written[at] += outcome.written
                if outcome.answer is not Answer.OK:
                    outcomes[at] = outcomes[at] or outcome
            # The mark must not rise over a part that was refused.
            final = [(at, call) for at, call in final if outcomes[at] is None]
        for (at, _), reply in zip(final, await self._send([call for _, call in final]), strict=True):
            outcome = _outcome(reply)
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
        return [_outcome(reply) for reply in await self._send(calls)]

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
            raise _fenced(space, partition, token, _integer(result))
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
                batch = Batch(space, partition, token, versions.NOTHING, version, watermark_ns, rewrite=True)
                (answer,) = await self._send([self._call(batch, NO_KEYS, memoryview(b""), updates, last=False)])
                outcome = _outcome(answer)
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

    def _calls(self, batch: Batch) -> list[Call]:
        """Split into calls of at most 500 keys; the last one raises the mark."""
        keys, rows, updates = batch.row_keys, memoryview(batch.rows), batch.updates
        n_rows, n_keys = len(keys), len(keys) + len(updates)
        if len(rows) != n_rows * ROW_BYTES:
            raise ValueError(f"{n_rows} keys have {len(rows)} bytes of rows, not {ROW_BYTES} each")
        if n_keys <= MAX_KEYS:
            return [self._call(batch, keys, rows, updates, last=True)]
        return [
            self._call(
                batch,
                keys.part(start, start + MAX_KEYS),
                rows[start * ROW_BYTES : (start + MAX_KEYS) * ROW_BYTES],
                updates[max(start - n_rows, 0) : max(start + MAX_KEYS - n_rows, 0)],
                last=start + MAX_KEYS >= n_keys,
            )
            for start in range(0, n_keys, MAX_KEYS)
        ]

    def _call(
        self, batch: Batch, keys: PackedKeys, rows: memoryview, updates: Sequence[tuple[bytes, bytes]], *, last: bool
    ) -> Call:
        fixed = (
            batch.token.to_bytes(8, "big"),
            count(batch.from_version),
            count(batch.to_version),
            batch.watermark_ns.to_bytes(8, "big"),
            self._clock().to_bytes(8, "big"),
            last * _LAST + batch.rewrite * _REWRITE,
        )
        return packed_command(
            ("FCALL", "mp_apply", 1 + len(keys) + len(updates), self._mark(batch.space, batch.partition)),
            keys,
            (*(key for key, _ in updates), *fixed),
            rows,
            [update for _, update in updates],
        )

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


def _outcome(reply: Sequence[Any]) -> Outcome:
    word, result = reply
    answer = Answer(word)
    if answer is Answer.OK:
        return Outcome(answer, written=int(result))
    if answer is Answer.FENCED:
        return Outcome(answer, token=_integer(result))
    return Outcome(answer, version=_integer(result) - 1)


def _fenced(space: Space, partition: int, token: int, newer: int) -> OwnerFenced:
    return OwnerFenced(f"{space.value} partition {partition}: owner {token} was followed by {newer}; it must stop")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _escaped(text: str) -> str:
    """A literal text for SCAN's glob."""
    return "".join("\\" + char if char in "*?[]\\^-" else char for char in text)
