"""Bugs that somebody could make: each takes one rule of the protocol out of the code while a test runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from models.cache.coherence import PartitionView
from models.cache.continuity import Continuity, Verdict
from models.cache.floors import GroupFloors, KeyFloors
from models.cache.invalidation import Invalidation
from models.cache.packed_keys import NO_KEYS
from models.cache.partition import EntryChange, EntryPartition, Stored
from models.cache.write import CacheWrite
from streams.cache.batch import Answer, Batch, Outcome
from streams.cache.memory import Memory
from streams.cache.redis import PartitionWriter
from streams.client.listener import Listener
from streams.client.reader import MarketCache
from tests.coherence import sim_worker
from tests.coherence.virtual import START_NS

Plant = Callable[[pytest.MonkeyPatch], None]
_judge = Continuity.judge
_apply_entry = EntryPartition.apply
_flush_entries = EntryPartition.flush
_apply_batches = PartitionWriter.apply
_heartbeat = PartitionWriter.heartbeat


def accepts(admits: Callable[[PartitionView, Any, int], bool]) -> Callable[[PartitionView, Any, int, int], bool]:
    """`PartitionView.accept` with another idea of what to admit."""

    def accept(view: PartitionView, subject: Any, as_of: int, given: int) -> bool:
        if not admits(view, subject, as_of):
            return False
        if given > view.position:
            view.floors.note(subject, given)
        return True

    return accept


def reader_ignores_floors(patch: pytest.MonkeyPatch) -> None:
    """Rule 9."""
    patch.setattr(PartitionView, "accept", accepts(lambda view, subject, as_of: True))


def fill_is_not_guarded(patch: pytest.MonkeyPatch) -> None:
    """Rule 10: a read that took long is kept although the key was named meanwhile."""

    def put(self: Memory, held: Any) -> None:
        self.drop(held.at.key.text)
        _memory_put(self, held)

    _memory_put = Memory.put
    patch.setattr(PartitionView, "accept", accepts(lambda view, subject, as_of: as_of >= view.floors.start))
    patch.setattr(Memory, "put", put)


def gap_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Rule 12, of versions."""

    def judge(self: Continuity, partition: int, record: Invalidation) -> Verdict:
        verdict = _judge(self, partition, record)
        return Verdict.IN_ORDER if verdict is Verdict.GAP else verdict

    patch.setattr(Continuity, "judge", judge)


def lost_log_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """Rule 12, of the log itself and of versions."""
    patch.setattr(Listener, "_miss", lambda self, gap: None)


def recovery_takes_any_owner(patch: pytest.MonkeyPatch) -> None:
    """Rule 1, in the changelog: pages that a zombie wrote late are recovered, and nobody looks who wrote between."""

    async def alone(self: Any, owned: Any, offsets: Any) -> bool:
        return True

    def apply(self: sim_worker.Disk, records: Iterable[Any]) -> None:
        for record in records:
            if record.value is None:
                self.pages.pop(record.key, None)
            elif record.key != sim_worker.pages.OWNER:
                self.pages[record.key] = record.value
            self.offset = record.offset

    patch.setattr(sim_worker.Ownership, "_wrote_alone", alone)
    patch.setattr(sim_worker.Disk, "apply", apply)


def mark_is_raised_before_rows(patch: pytest.MonkeyPatch) -> None:
    """Rule 4: two calls, and the mark in the first."""

    async def apply(self: PartitionWriter, *batches: Batch) -> list[Outcome]:
        marks = [replace(batch, row_keys=NO_KEYS, rows=b"", updates=()) for batch in batches]
        outcomes = await _apply_batches(self, *marks)
        ok = [batch for batch, outcome in zip(batches, outcomes, strict=True) if outcome.answer is Answer.OK]
        await _apply_batches(self, *(replace(batch, rewrite=True) for batch in ok))
        return outcomes

    patch.setattr(PartitionWriter, "apply", apply)


def redis_that_lost_data_is_written_on(patch: pytest.MonkeyPatch) -> None:
    """Rule 4: GAP is taken for OK, and what was lost stays lost."""

    async def apply(self: PartitionWriter, *batches: Batch) -> list[Outcome]:
        outcomes = await _apply_batches(self, *batches)
        gaps = [o.answer is Answer.GAP for o in outcomes]
        again = [replace(b, rewrite=True) for b, gap in zip(batches, gaps, strict=True) if gap]
        if again:
            await _apply_batches(self, *again)
        return [Outcome(Answer.OK) if gap else o for o, gap in zip(outcomes, gaps, strict=True)]

    async def heartbeat(self: PartitionWriter, beats: Iterable[tuple[Any, ...]]) -> list[Outcome]:
        outcomes = await _heartbeat(self, beats)
        return [Outcome(Answer.OK) if o.answer is Answer.GAP else o for o in outcomes]

    patch.setattr(PartitionWriter, "apply", apply)
    patch.setattr(PartitionWriter, "heartbeat", heartbeat)


def worker_that_is_behind_says_now(patch: pytest.MonkeyPatch) -> None:
    """Rule 11: the watermark is the last fetch's, wherever the log ended."""
    patch.setattr(sim_worker, "at_end", lambda next_offset, end: True)


def skew_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Rule 11: ages are told as if all clocks were one."""
    init = MarketCache.__init__

    def without(self: MarketCache, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._skew_ns = 0

    patch.setattr(MarketCache, "__init__", without)


def tag_floor_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Rule 13: readers look at namespaces and flushes alone."""
    exists = GroupFloors.exists
    patch.setattr(GroupFloors, "exists", lambda self, version, namespace, tags: exists(self, version, namespace, ()))


def life_counts_from_the_replay(patch: pytest.MonkeyPatch) -> None:
    """Rule 5."""

    def apply(
        self: EntryPartition, write: CacheWrite, *, version: int, append_ms: int, stored: Stored
    ) -> EntryChange | None:
        now_ms = (START_NS + round(time.monotonic() * 1e9)) // 1_000_000
        return _apply_entry(self, write, version=version, append_ms=max(append_ms, now_ms), stored=stored)

    patch.setattr(EntryPartition, "apply", apply)


def own_write_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    """Rule 9: a put is a floor."""
    patch.setattr(MarketCache, "_own_write", lambda self, at, written, **fields: None)


def ring_forgets_what_falls_out(patch: pytest.MonkeyPatch) -> None:
    """Rule 9: the ring's start stays where it was."""

    def note(self: KeyFloors, key: Any, version: int) -> None:
        self._newest[key] = max(version, self._newest.pop(key, version))
        if len(self._newest) > self.capacity:
            self._newest.pop(next(iter(self._newest)))

    patch.setattr(KeyFloors, "note", note)


def start_does_not_raise_the_ring(patch: pytest.MonkeyPatch) -> None:
    """Rule 12: what happened before the first record, or in a gap, is taken for nothing."""
    patch.setattr(KeyFloors, "raise_start", lambda self, version: None)


def rewrite_forgets_what_a_barrier_saves(patch: pytest.MonkeyPatch) -> None:
    """Rule 4: entries that a barrier took and that are not on disk yet."""

    def flush(self: EntryPartition) -> list[list[Any]]:
        groups = _flush_entries(self)
        self.unsaved = {}
        return groups

    patch.setattr(EntryPartition, "flush", flush)


def version_that_was_seen_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Guarantee 1: Redis is ahead of the stream, then falls back behind what it gave."""
    patch.setattr(PartitionView, "accept", lambda self, subject, as_of, given: self.admits(subject, as_of))


PLANTS: tuple[Plant, ...] = (
    reader_ignores_floors,
    fill_is_not_guarded,
    gap_is_ignored,
    lost_log_is_ignored,
    mark_is_raised_before_rows,
    redis_that_lost_data_is_written_on,
    worker_that_is_behind_says_now,
    skew_is_forgotten,
    tag_floor_is_forgotten,
    life_counts_from_the_replay,
    own_write_is_not_noted,
    start_does_not_raise_the_ring,
)

# They need two faults at the same moment.
RARE: tuple[Plant, ...] = (
    recovery_takes_any_owner,
    ring_forgets_what_falls_out,
    rewrite_forgets_what_a_barrier_saves,
    version_that_was_seen_is_forgotten,
)
