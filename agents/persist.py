"""The persist agent: `cache.writes.v1` becomes entries on disk and in Redis, and invalidations."""

from __future__ import annotations

from models.cache.keys import Space
from models.cache.partition import EntryChange
from models.cache.version import version
from models.cache.write import decode_write
from models.errors import WriteRefused
from streams import metrics
from streams.cache.coherence import Coherence
from streams.cache.steps import Step, entry_step
from streams.kafka.deadletter import DeadLetter, DeadLetters, letter_of
from streams.kafka.ownership import Ownership
from streams.kafka.transport import Round, Rounds


class PersistAgent:
    """Applies rounds of `cache.writes.v1`."""

    def __init__(self, *, ownership: Ownership, coherence: Coherence, rounds: Rounds, dead: DeadLetters) -> None:
        self._ownership = ownership
        self._coherence = coherence
        self._rounds = rounds
        self._dead = dead

    async def process(self, round_: Round) -> None:
        """Apply -> Redis -> invalidations -> processed; a write that breaks the wire's bounds is a dead letter."""
        letters: list[DeadLetter] = []
        async with self._ownership.lock:
            steps: list[Step] = []
            for number, records in round_.records.items():
                if (owned := self._ownership.partitions.get(number)) is None:
                    continue
                changes: list[EntryChange] = []
                for record in records:
                    try:
                        write = decode_write(record.value or b"")
                    except WriteRefused as exc:
                        letters.append(letter_of(record, exc.reason, exc.detail))
                        continue
                    metrics.WRITES.labels(write.op).inc()
                    at = version(owned.epoch, record.offset)
                    if change := owned.entries.apply(write, version=at, append_ms=record.timestamp):
                        changes.append(change)
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
