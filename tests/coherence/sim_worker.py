"""A worker process of a simulation: the real agents, ownership, coherence and Redis writer over a simulated network.

What is Faust's (the group, the fetch, the commit) and RocksDB's is said again here in a few lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from agents.duties import HEARTBEAT_S, SETTLE_S, at_end
from agents.market import MarketAgent
from agents.persist import PersistAgent
from models.cache.keys import Space
from models.errors import PublishFailed
from models.market import pages
from models.market.registry import InstrumentRegistry
from streams.cache.coherence import Coherence
from streams.cache.redis import PartitionWriter
from streams.kafka.fetch import FETCH_MAX_WAIT_MS
from streams.kafka.ownership import SOURCE_TOPICS, Ownership
from streams.kafka.table import PageTable, Sent
from streams.kafka.transport import Round, Rounds, to_go_back
from streams.settings import Settings
from streams.topics import FRAMES, WRITES
from tests.coherence.fake_kafka import FakeKafka, FakeProducer, Record
from tests.coherence.fake_redis import FakeRedis, RedisServer
from tests.coherence.network import Process

CHANGELOG = "changelog"
BARRIER_S = 0.25
ACK_S = 3.0


@dataclass
class Disk:
    """One partition's pages as RocksDB keeps them; what `FencedStore` does with the changelog's records."""

    pages: dict[bytes, bytes] = field(default_factory=dict)
    offset: int = -1
    token: int = -1
    rewrite: bool = False

    def apply(self, records: Sequence[Any]) -> None:
        for record in records:
            if record.key == pages.OWNER:
                self.token = max(self.token, pages.owner_token(record.value, record.offset))
            elif (token := pages.writer_token(record.value, record.headers)) is not None and token < self.token:
                self.rewrite = True
            elif record.value is None:
                self.pages.pop(record.key, None)
            else:
                self.pages[record.key] = record.value
            self.offset = record.offset


class SimTable:
    """`PageTable` over disks in memory: taking and sending are its own."""

    changelog_topic_name = CHANGELOG
    take = PageTable.take
    send = PageTable.send

    def __init__(self, disks: dict[int, Disk]) -> None:
        self.disks = disks
        self.data = SimpleNamespace(
            newest_token=lambda number: self.disks[number].token,
            offset=lambda number: self.disks[number].offset,
            must_rewrite=lambda number: self.disks[number].rewrite,
            apply=lambda number, records: self.disks[number].apply(records),
        )

    def pages(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        stored = self.disks[partition].pages
        return iter([(key, pages.split_token(stored[key])[1]) for key in sorted(stored)])

    def pages_from(self, partition: int, start: bytes, n_pages: int, max_bytes: int) -> list[tuple[bytes, bytes]]:
        return list(islice((page for page in self.pages(partition) if page[0] >= start), n_pages))

    def page(self, partition: int, key: bytes) -> bytes | None:
        value = self.disks[partition].pages.get(key)
        return None if value is None else pages.split_token(value)[1]

    def own(self, partition: int, token: int) -> None:
        self.disks[partition].token = token

    async def store(self, partition: int, sent: Sent, *, rewrite: bool) -> None:
        disk = self.disks[partition]
        for key, value in sent.records:
            if value is None:
                disk.pages.pop(key, None)
            else:
                disk.pages[key] = value
        disk.offset, disk.rewrite = sent.offsets[-1][-1], rewrite

    async def checkpoint(self, partition: int) -> None:
        pass


@dataclass
class Group:
    """The consumer group: who may commit, and what was committed."""

    generation: int = 0
    committed: dict[TP, int] = field(default_factory=dict)


class SimWorker(Process):
    """One worker identity; it keeps its disks when it is killed.

    Attributes:
        ownership: of the run under way, None = it is not assigned.
    """

    def __init__(
        self, name: str, random: Random, *, settings: Settings, kafka: FakeKafka, redis: RedisServer, group: Group,
        registry: InstrumentRegistry,
    ) -> None:  # fmt: skip
        super().__init__(name, kafka.clock, random)
        self.settings = settings
        self.kafka = kafka
        self.redis = redis
        self.group = group
        self.registry = registry
        self.disks = {number: Disk() for number in range(settings.kafka.partitions)}
        self.ownership: Ownership | None = None
        self.ends: dict[TP, tuple[int, int]] = {}

    def start(self) -> None:
        """Join as the only member: all partitions, and a new generation."""
        self.failure = None
        self.group.generation += 1
        self.ends = {}
        self.spawn(self._run(self.group.generation))

    async def kill(self) -> None:
        await super().kill()
        self.ownership = None

    def lose_disks(self) -> None:
        self.disks = {number: Disk() for number in self.disks}

    async def _run(self, generation: int) -> None:
        await asyncio.sleep(0.05 * self.random.random())
        table: Any = SimTable(self.disks)
        producer: Any = FakeProducer(self.kafka, self)
        redis: Any = FakeRedis(self.redis, self)
        writer = PartitionWriter(redis, url="redis://simulated:1", clock=self.now_ns)
        coherence = Coherence(writer=writer, producer=producer, table=table, prefix="", deadline_s=ACK_S)
        ownership = Ownership(self.settings, table=table, producer=producer, coherence=coherence)
        for number, disk in self.disks.items():
            disk.apply(self.kafka.logs[CHANGELOG, number].records[disk.offset + 1 :])
        await self.running()
        await ownership.assign(self.disks)
        self.ownership = ownership
        rounds = Rounds(ownership.barrier, ownership.needed)
        dead: Any = SimpleNamespace(put=_no_letters)
        directory: Any = SimpleNamespace(registry=self.registry)
        market = MarketAgent(
            ownership=ownership, coherence=coherence, rounds=rounds, directory=directory, dead=dead,
            producer=producer, prefix="", carried_rows=self.settings.worker.invalidation_rows,
        )  # fmt: skip
        ownership.before_flush = market.announce
        persist = PersistAgent(ownership=ownership, coherence=coherence, rounds=rounds, dead=dead, table=table)
        await asyncio.sleep(self.trip_s())
        await self.running()
        # The coordinator tells them to members of old generations too.
        positions = {
            TP(topic, n): self.group.committed.get(TP(topic, n), 0) for topic in (FRAMES, WRITES) for n in self.disks
        }
        positions |= to_go_back(positions, rounds.needed())
        self.spawn(self._rounds(FRAMES, market, positions, generation))
        self.spawn(self._rounds(WRITES, persist, positions, generation))
        self.spawn(self._heartbeats(ownership, coherence))
        self.spawn(self._settle(ownership, coherence))
        self.spawn(self._barriers(rounds, generation))

    async def _rounds(self, topic: str, agent: Any, positions: dict[TP, int], generation: int) -> None:
        """Fetch and hand over, until the group says that this is an old generation."""
        while True:
            await self.running()
            asked_ns = self.now_ns()
            records: dict[int, list[Record]] = {}
            if all(self.kafka.logs[topic, n].end <= positions[TP(topic, n)] for n in self.disks):
                await self.kafka.wait(topic, FETCH_MAX_WAIT_MS / 1000)
            await asyncio.sleep(self.trip_s())
            for number in self.disks:
                log, tp = self.kafka.logs[topic, number], TP(topic, number)
                if found := log.records[positions[tp] :][:50]:
                    records[number] = found
                    positions[tp] = found[-1].offset + 1
                self.ends[tp] = asked_ns, log.end
            await self.running()
            if records:
                behind = any(self.kafka.logs[topic, n].end > positions[TP(topic, n)] for n in records)
                await agent.process(Round(topic, generation, records, {}, behind))

    async def _heartbeats(self, ownership: Ownership, coherence: Coherence) -> None:
        """As `Worker._heartbeats`."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self.running()
            async with ownership.lock:
                owned = ownership.partitions
                proven = {
                    (space, number): self.ends[tp][0]
                    for space, name in SOURCE_TOPICS.items()
                    for number in owned
                    if (tp := TP(name, number)) in self.ends
                    and at_end(owned[number].next_offset(space), self.ends[tp][1])
                }
                await coherence.heartbeat(list(owned.values()), proven)

    async def _settle(self, ownership: Ownership, coherence: Coherence) -> None:
        """As `Worker._settle`."""
        while True:
            await coherence.unsettled.wait()
            await asyncio.sleep(SETTLE_S)
            await self.running()
            coherence.unsettled.clear()
            async with ownership.lock:
                await coherence.settle(ownership.partitions.values())

    async def _barriers(self, rounds: Rounds, generation: int) -> None:
        while True:
            await asyncio.sleep(BARRIER_S)
            await self.running()
            offsets = {tp: at for tp in rounds.tps() if (at := rounds.next_offset(tp)) is not None}
            await rounds.barrier(offsets)
            await self.running()
            if generation != self.group.generation:
                raise PublishFailed("the group has another generation: somebody else owns the partitions")
            self.group.committed |= offsets

    def applied(self, space: Space) -> dict[int, int]:
        owned = self.ownership.partitions if self.ownership else {}
        return {number: o.applied(space) for number, o in owned.items()}


async def _no_letters(letters: Sequence[Any]) -> None:
    raise AssertionError(f"{len(letters)} records were refused, and a simulation sends none that are wrong")
