"""Kafka as our code uses it: partition logs with append times, producers that keep their order, consumers that lag.

Invalidations may meet faults that Kafka itself rules out (records lost, repeated, changed in order): rule 12 claims
that readers notice.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from aiokafka import TopicPartition

from tests.coherence.network import Process
from tests.coherence.virtual import VirtualClock


class Sent(NamedTuple):
    """What a producer sends."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    appended_s: float
    headers: Sequence[tuple[str, bytes]] = ()


class Metadata(NamedTuple):
    offset: int
    timestamp: int


@dataclass
class PartitionLog:
    first: int = 0
    records: list[Record] = field(default_factory=list)  # `first` may be above those at the start: retention

    @property
    def end(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class LogFaults:
    """Probabilities, a record."""

    lost: float = 0.0
    repeated: float = 0.0
    swapped: float = 0.0
    corrupt: float = 0.0


class FakeKafka:
    """All topics of a broker.

    Attributes:
        faults: of topics whose records may be mistreated.
        stalled_until_s: nothing is appended before.
    """

    def __init__(self, clock: VirtualClock, random: Random) -> None:
        self.clock = clock
        self.random = random
        self.logs: dict[tuple[str, int], PartitionLog] = defaultdict(PartitionLog)
        self.faults: dict[str, LogFaults] = {}
        self.stalled_until_s = 0.0
        self.counts: dict[str, int] = defaultdict(int)
        self._held: dict[tuple[str, int], Sent] = {}
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = defaultdict(dict)  # in order

    async def wait(self, topic: str, timeout_s: float) -> None:
        """Until something is appended to the topic, or the time is over."""
        loop = asyncio.get_running_loop()
        appended: asyncio.Future[None] = loop.create_future()
        self._waiting[topic][appended] = None
        timer = loop.call_later(timeout_s, _wake, appended)
        try:
            await appended
        finally:
            timer.cancel()
            del self._waiting[topic][appended]

    def append(self, topic: str, partition: int, records: Iterable[Sent]) -> Metadata:
        """Where the first of the records lies."""
        log = self.logs[topic, partition]
        first = Metadata(log.end, self.clock.ms)
        faults = self.faults.get(topic)
        for sent in records:
            if faults is None:
                self._append(log, topic, partition, sent)
            else:
                self._mistreat(faults, log, topic, partition, sent)
        for appended in self._waiting[topic]:
            _wake(appended)
        return first

    def _mistreat(self, faults: LogFaults, log: PartitionLog, topic: str, partition: int, sent: Sent) -> None:
        draw, at = self.random.random(), (topic, partition)
        held = self._held.pop(at, None)
        for name in ("lost", "swapped", "repeated", "corrupt"):
            share = getattr(faults, name)
            if 0 <= draw < share:
                self.counts[name] += 1
                break
            draw -= share
        else:
            name = ""
        if name == "corrupt":
            sent = sent._replace(value=(sent.value or b"")[:-1])
        if name == "swapped" and held is None:
            self._held[at] = sent
        elif name != "lost":
            for _ in range(2 if name == "repeated" else 1):
                self._append(log, topic, partition, sent)
        if held is not None:
            self._append(log, topic, partition, held)

    def _append(self, log: PartitionLog, topic: str, partition: int, sent: Sent) -> None:
        at = self.clock.ms, sent.key, sent.value, self.clock.s, sent.headers
        log.records.append(Record(topic, partition, log.end, *at))


class FakeProducer:
    """Idempotent: a partition's records arrive in the order in which they were sent."""

    def __init__(self, kafka: FakeKafka, process: Process) -> None:
        self._kafka = kafka
        self._process = process
        self._arrived_s: dict[tuple[str, int], float] = defaultdict(float)

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = 0,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> asyncio.Future[Metadata]:
        return await self._send(topic, partition, [Sent(key, value)])

    async def send_and_wait(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int = 0
    ) -> Metadata:
        metadata = await (await self._send(topic, partition, [Sent(key, value)]))
        await self._process.running()
        return metadata

    def create_batch(self) -> _Batch:
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, partition: int) -> asyncio.Future[Metadata]:
        return await self._send(topic, partition, batch.records)

    async def stop(self) -> None:
        pass

    async def _send(self, topic: str, partition: int, records: list[Sent]) -> asyncio.Future[Metadata]:
        await self._process.running()
        loop = asyncio.get_running_loop()
        ack: asyncio.Future[Metadata] = loop.create_future()
        at = topic, partition

        def acknowledge(metadata: Metadata) -> None:
            if not ack.done():
                ack.set_result(metadata)

        def arrive() -> None:
            if (wait_s := self._kafka.stalled_until_s - loop.time()) > 0:
                loop.call_later(wait_s, arrive)  # all wait as long, so their order stays
                return
            metadata = self._kafka.append(topic, partition, records)
            loop.call_later(self._process.trip_s(), acknowledge, metadata)

        self._arrived_s[at] = max(self._arrived_s[at] + 1e-9, loop.time() + self._process.trip_s())
        loop.call_at(self._arrived_s[at], arrive)
        return ack


class _Batch:
    def __init__(self) -> None:
        self.records: list[Sent] = []

    def append(
        self,
        *,
        key: bytes | None,
        value: bytes | None,
        timestamp: int | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> bool:
        self.records.append(Sent(key, value, headers))
        return True


class FakeConsumer:
    """Reads what was appended `lag_s` ago or before; a process that is cut off reads nothing."""

    def __init__(self, kafka: FakeKafka, process: Process, topic: str) -> None:
        self._kafka = kafka
        self._process = process
        self._topic = topic
        self._next: dict[int, int] = {}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._next[tp.partition] = offset

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self._kafka.logs[tp.topic, tp.partition].first for tp in tps}

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self._kafka.logs[tp.topic, tp.partition].end for tp in tps}

    async def getmany(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, list[Record]]:
        end_s = self._kafka.clock.s + timeout_ms / 1000
        while True:
            await self._process.running()
            if found := self._found(max_records):
                return found
            now_s = self._kafka.clock.s
            if now_s >= end_s:
                return {}
            if (seen_s := self._next_seen_s()) > now_s:
                await asyncio.sleep(min(seen_s, end_s) - now_s)
            else:
                await self._kafka.wait(self._topic, end_s - now_s)

    async def stop(self) -> None:
        pass

    def _next_seen_s(self) -> float:
        """When the next record comes to be seen; 0 = none is on its way."""
        if self._process.cut:
            return 0.0
        logs = ((self._kafka.logs[self._topic, number].records, at) for number, at in self._next.items())
        coming = [records[at].appended_s for records, at in logs if at < len(records)]
        return min(coming) + self._lag_s() if coming else 0.0

    def _lag_s(self) -> float:
        return self._process.slow_s + self._process.lag_s + 0.001

    def _found(self, max_records: int) -> dict[TopicPartition, list[Record]]:
        if self._process.cut:
            return {}
        seen_s = self._kafka.clock.s - self._lag_s() + 1e-9
        found: dict[TopicPartition, list[Record]] = {}
        for partition in sorted(self._next):
            log = self._kafka.logs[self._topic, partition]
            start = self._next[partition] = max(self._next[partition], log.first)
            records = [r for r in log.records[start : start + max_records] if r.appended_s <= seen_s]
            if records:
                found[TopicPartition(self._topic, partition)] = records
                self._next[partition] = records[-1].offset + 1
        return found


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
