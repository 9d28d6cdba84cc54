"""The market agent: a round of frames becomes rows, books and windows, visible in Redis and announced to readers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import orjson
from aiokafka import AIOKafkaProducer, ConsumerRecord

from models.cache.keys import Space
from models.cache.version import offset_of, version
from models.errors import CorruptFrame
from models.market.frame import encode
from models.market.partition import Applied, IncomingFrame, Listed, open_frame, refs_of
from streams import metrics
from streams.cache.coherence import Coherence
from streams.cache.steps import market_step
from streams.clock import now_ns
from streams.kafka.clients import Outgoing
from streams.kafka.deadletter import DeadLetter, DeadLetters, letter_of
from streams.kafka.instruments import InstrumentDirectory
from streams.kafka.owned import OwnedPartition
from streams.kafka.ownership import Ownership
from streams.kafka.transport import Round, Rounds
from streams.log import event
from streams.topics import LATE, REQUESTS, WINDOWS

log = logging.getLogger(__name__)

_HELD_BYTES = 8 << 20  # of records of windows; 100,000 instruments out of a backlog close 30 MB a second


class MarketAgent:
    """Applies rounds of `md.frames.v1`; see `process`.

    Args:
        carried_rows: rows that one invalidation may carry, 0 = none.
    """

    def __init__(
        self,
        *,
        ownership: Ownership,
        coherence: Coherence,
        rounds: Rounds,
        directory: InstrumentDirectory,
        dead: DeadLetters,
        producer: AIOKafkaProducer,
        prefix: str,
        carried_rows: int = 0,
    ) -> None:
        self._ownership = ownership
        self._coherence = coherence
        self._rounds = rounds
        self._directory = directory
        self._dead = dead
        self._producer = producer
        self._prefix = prefix
        self._carried_rows = carried_rows

    async def process(self, round_: Round) -> None:
        """Apply, and tell readers at once; behind the log's end a barrier tells them, for what is told there is old.

        The round counts as processed then; what is not announced or in Redis yet, the barrier settles first.
        """
        letters: list[DeadLetter] = []
        round_applied: list[Applied] = []
        async with self._ownership.lock:
            for number, records in round_.records.items():
                if (owned := self._ownership.partitions.get(number)) is not None:
                    frames = _open(owned, records, letters)
                    round_applied.append(await self._apply(owned, frames, records, letters))
                    self._rounds.processed(round_.topic, number, records[-1].offset)
                    await asyncio.sleep(0)  # others get the loop between partitions: out of a backlog one takes 30 ms
            _count(round_applied)
            if letters:
                await self._dead.put(letters)
            if not round_.behind:
                await self.announce(*self._ownership.partitions.values())
            else:
                await self._bound_windows()

    async def announce(self, *partitions: OwnedPartition) -> None:
        """Tell readers what was applied to these partitions since they were told; under the ownership's lock.

        A barrier names the one that it flushes: behind the log's end the others would be told once more in their turn.
        """
        ahead = [o for o in partitions if o.announced[Space.MARKET] < o.market.applied]
        if ahead:
            steps = [market_step(owned, carried_rows=self._carried_rows) for owned in ahead]
            await self._coherence.publish(steps, beside=[record for owned in ahead for record in owned.windows])
            for owned in ahead:
                owned.windows.clear()

    async def _bound_windows(self) -> None:
        """Let records of windows go before readers are told, when they are many: a crash only sends them once more."""
        owners = self._ownership.partitions.values()
        if sum(len(record.value or b"") for owned in owners for record in owned.windows) > _HELD_BYTES:
            await self._coherence.send([record for owned in owners for record in owned.windows])
            for owned in owners:
                owned.windows.clear()

    async def _listed(self, owned: OwnedPartition, frames: Sequence[IncomingFrame]) -> Listed:
        """Give new instruments slots. Their definitions were acknowledged before the frames were sent (rule 7)."""
        listed = owned.market.listed(frames)
        if not (missing := listed.missing()):
            return listed
        registry = self._directory.registry
        if any(hash_ not in registry.by_hash for hash_ in missing):
            await self._directory.catch_up()
        owned.market.add(registry.instruments[registry.by_hash[h]] for h in missing if h in registry.by_hash)
        return owned.market.listed(frames)

    async def _apply(
        self,
        owned: OwnedPartition,
        frames: Sequence[IncomingFrame],
        records: Sequence[ConsumerRecord],
        letters: list[DeadLetter],
    ) -> Applied:
        listed = await self._listed(owned, frames)
        applied = owned.market.apply(frames, listed, live=not self._prefix)  # a run has days of other times
        owned.market.advance(version(owned.epoch, records[-1].offset))
        owned.append_ns[Space.MARKET] = records[-1].timestamp * 1_000_000
        owned.stamps += [(frame.header.due_ns, frame.header.n_ticks) for frame in frames]
        if applied.gaps or applied.bad_books:
            await self._report(owned, applied)
        if applied.n_closed or applied.late:
            owned.windows += self._windows(owned, applied)
        if applied.refused:
            by_offset = {record.offset: record for record in records}
            letters += [
                letter_of(by_offset[offset_of(frame.version)], why.reason, why.detail) for frame, why in applied.refused
            ]
        return applied

    def _windows(self, owned: OwnedPartition, applied: Applied) -> list[Outgoing]:
        """Records of what closed, and of the trades that came too late for their window."""
        closed = [Outgoing(self._prefix + WINDOWS, owned.number, data) for data in owned.market.closed_windows()]
        late = [
            Outgoing(self._prefix + LATE, owned.number, encode(ticks, refs_of(frame), source=frame.header.source))
            for frame, ticks in applied.late
        ]
        return closed + late

    async def _report(self, owned: OwnedPartition, applied: Applied) -> None:
        for gap in applied.gaps:
            metrics.GAPS.inc()
            event(
                log, "source_gap", level=logging.WARNING, partition=owned.number, source=f"{gap.source:016x}",
                last=gap.last, claimed=gap.claimed,
            )  # fmt: skip
        for slot in applied.bad_books:
            metrics.BAD_BOOKS.inc()
            await self._ask_for_snapshot(owned, slot)

    async def _ask_for_snapshot(self, owned: OwnedPartition, slot: int) -> None:
        awaited = owned.market.books.awaited(slot)
        if awaited is None:
            return
        text = owned.market.slots.instruments[slot].text
        book_update_id, diff_first_id = awaited
        request = {
            "request": "snapshot",
            "instrument": text,
            "book_update_id": book_update_id,
            "diff_first_id": diff_first_id,
            "ts_ns": now_ns(),
        }
        await self._producer.send(self._prefix + REQUESTS, orjson.dumps(request), key=text.encode(), partition=0)
        event(log, "snapshot_requested", instrument=text, book_update_id=book_update_id, diff_first_id=diff_first_id)


def _count(applied: Sequence[Applied]) -> None:
    """Once a round: a counter of Prometheus takes a lock, which costs as much as folding twenty ticks."""
    for counter, n in (
        (metrics.TICKS, sum(a.n_rows for a in applied)),
        (metrics.FRAMES, sum(a.n_frames for a in applied)),
        (metrics.REPEATED, sum(a.n_repeated for a in applied)),
        (metrics.WINDOWS, sum(a.n_closed for a in applied)),
        (metrics.LATE_TRADES, sum(len(ticks) for a in applied for _, ticks in a.late)),
    ):
        if n:
            counter.inc(n)


def _open(owned: OwnedPartition, records: Sequence[ConsumerRecord], letters: list[DeadLetter]) -> list[IncomingFrame]:
    frames = []
    for record in records:
        try:
            frames.append(open_frame(version(owned.epoch, record.offset), record.timestamp, record.value or b""))
        except CorruptFrame as exc:
            letters.append(letter_of(record, "bad_frame", str(exc)))
    return frames
