"""Batches: what changed in one partition, packed as calls of Redis' function `mp_apply` (docs/wire.md 'Redis')."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from models.cache import version as versions
from models.cache.keys import Space
from models.cache.mark import count
from models.cache.packed_keys import NO_KEYS, PackedKeys
from models.cache.rows import ROW_BYTES
from streams.cache.resp import Part, packed_command

MAX_KEYS = 500  # of one call: 1,000 keys block the server for 4 ms
_LAST, _REWRITE = 1, 2

Call = list[Part]  # of a function, packed
Update = tuple[bytes, bytes]  # Redis key, packed update


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
    updates: Sequence[Update] = field(default_factory=list)
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


def packed_calls(batch: Batch, mark: bytes, now_ns: int, *, raises_mark: bool = True) -> list[Call]:
    """Calls of at most 500 keys each, in the order in which they are to be applied; at least one.

    Args:
        mark: Redis key of the partition's mark.
        now_ns: UTC ns.
        raises_mark: the last call says that all of the batch is there.

    Raises:
        ValueError: the rows are not 80 bytes a key.
    """
    keys, rows, updates = batch.row_keys, memoryview(batch.rows), batch.updates
    n_rows, n_keys = len(keys), len(keys) + len(updates)
    if len(rows) != n_rows * ROW_BYTES:
        raise ValueError(f"{n_rows} keys have {len(rows)} bytes of rows, not {ROW_BYTES} each")
    fixed = (
        batch.token.to_bytes(8, "big"),
        count(batch.from_version),
        count(batch.to_version),
        batch.watermark_ns.to_bytes(8, "big"),
        now_ns.to_bytes(8, "big"),
    )
    calls = []
    for start in range(0, max(n_keys, 1), MAX_KEYS):
        end = start + MAX_KEYS
        part, more = keys.part(start, end), updates[max(start - n_rows, 0) : max(end - n_rows, 0)]
        flags = (raises_mark and end >= n_keys) * _LAST + batch.rewrite * _REWRITE
        calls.append(
            packed_command(
                ("FCALL", "mp_apply", 1 + len(part) + len(more), mark),
                part,
                [*[key for key, _ in more], *fixed, flags],
                rows[start * ROW_BYTES : end * ROW_BYTES],
                [update for _, update in more],
            )
        )
    return calls


def outcome_of(reply: Sequence[Any]) -> Outcome:
    """What a call was answered, or a heartbeat."""
    word, result = reply
    answer = Answer(word)
    if answer is Answer.OK:
        return Outcome(answer, written=int(result))
    if answer is Answer.FENCED:
        return Outcome(answer, token=int.from_bytes(result, "big"))
    return Outcome(answer, version=int.from_bytes(result, "big") - 1)
