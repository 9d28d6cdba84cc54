"""The persist agent: `cache.writes.v1` becomes entries on disk and in Redis, and invalidations."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import ConsumerRecord

from models.cache.keys import Space
from models.cache.partition import EntryChange
from models.cache.version import version
from models.cache.write import CacheWrite, decode_write
from models.errors import WriteRefused
from models.market import pages
from streams import metrics
from streams.cache.coherence import Coherence
from streams.cache.steps import Step, entry_step
from streams.kafka.deadletter import DeadLetter, DeadLetters, letter_of
from streams.kafka.owned import OwnedPartition
from streams.kafka.ownership import Ownership
from streams.kafka.table import PageTable
from streams.kafka.transport import Round, Rounds


class PersistAgent:
    """Applies rounds of `cache.writes.v1`.

    Args:
        table: pages of entries that are not in memory, for writes that depend on what a key holds.
    """

    def __init__(
        self, *, ownership: Ownership, coherence: Coherence, rounds: Rounds, dead: DeadLetters, table: PageTable
    ) -> None:
        self._ownership = ownership
        self._coherence = coherence
        self._rounds = rounds
        self._dead = dead
        self._table = table

    async def process(self, round_: Round) -> None:
        """Apply -> Redis -> invalidations -> processed; a write that breaks the wire's bounds is a dead letter."""
        letters: list[DeadLetter] = []
        async with self._ownership.lock:
            steps: list[Step] = []
            for number, records in round_.records.items():
                if (owned := self._ownership.partitions.get(number)) is None:
                    continue
                changes = self._apply(owned, records, letters)
                owned.entries.advance(version(owned.epoch, records[-1].offset))
                owned.append_ns[Space.GENERIC] = records[-1].timestamp * 1_000_000
                steps.append(entry_step(owned, changes))
            if letters:
                await self._dead.put(letters)
            if steps:
                await self._coherence.publish(steps)
            for step in steps:
                number = step.owned.number
                self._rounds.processed(round_.topic, number, round_.records[number][-1].offset)

    def _apply(
        self, owned: OwnedPartition, records: Sequence[ConsumerRecord], letters: list[DeadLetter]
    ) -> list[EntryChange]:
        def page(key: str) -> bytes | None:
            return self._table.page(owned.number, pages.ENTRY + key.encode())

        changes: list[EntryChange] = []
        for record in records:
            try:
                write = decode_write(record.value or b"")
            except WriteRefused as exc:
                letters.append(letter_of(record, exc.reason, exc.detail))
                continue
            at = version(owned.epoch, record.offset)
            change = owned.entries.apply(write, version=at, append_ms=record.timestamp, stored=page)
            _count(write, change)
            if change is None:
                continue
            changes.append(change)
            if change.outcome is not None and (refusal := change.outcome.refusal):
                letters.append(letter_of(record, WriteRefused.REASON, refusal))
        return changes


def _count(write: CacheWrite, change: EntryChange | None) -> None:
    metrics.WRITES.labels(write.op).inc()
    if change is None or not change.changes:
        metrics.WITHOUT_EFFECT.labels(write.op).inc()
