"""Invented ticks as JSON records of `md.json.v1`, and what the worker must make of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from models.errors import PublishFailed
from models.market.digest import InstrumentFinal
from models.market.fold import OfflineFold
from models.market.instruments import partition_of
from models.market.tick import TickArray
from models.perf.json_ticks import json_lines
from models.perf.ticks import SeededTicks
from streams.kafka.clients import start_producer, stop_client
from streams.settings import Settings
from streams.topics import JSON_TICKS

_MOST_UNACKNOWLEDGED = 64  # batches


@dataclass
class JsonLog:
    """Writes one JSON tick a record, keyed by its instrument, and folds the same ticks itself.

    Attributes:
        batch_records: records of one Kafka batch, as the clients of a busy producer gather them.
        records, n_bytes: sent so far, and the bytes of their lines.
        offsets: partition -> offset of its newest acknowledged record.
        cpu_s: CPU of this process that batching, compressing and sending took; making and folding lines is left out.
    """

    source: SeededTicks
    producer: AIOKafkaProducer
    topic: str
    n_partitions: int
    batch_records: int
    records: int = 0
    n_bytes: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    cpu_s: float = 0.0
    _fold: OfflineFold = field(init=False)

    def __post_init__(self) -> None:
        texts = [instrument.text for instrument in self.source.instruments]
        self._fold = OfflineFold(texts)
        self._keys = [text.encode() for text in texts]
        self._partition_of = [partition_of(key, self.n_partitions) for key in self._keys]
        self._open: dict[int, list[tuple[bytes, bytes]]] = {n: [] for n in range(self.n_partitions)}
        self._sent: list[tuple[int, int, Any]] = []  # partition, records, ack

    async def send_opening(self) -> None:
        """A trade and a quote of every instrument. Raises: PublishFailed."""
        await self._send([self.source.opening()])

    async def send(self, n_ticks: int) -> None:
        """Exactly so many further ticks (rows); returns once Kafka has all of them. Raises: PublishFailed."""
        await self._send(self.source.batches(n_ticks))

    def expected(self) -> list[InstrumentFinal]:
        """What every instrument looks like after all that was sent."""
        return self._fold.finals()

    async def _send(self, batches: Iterable[TickArray]) -> None:
        for ticks in batches:
            self._fold.update(ticks)
            lines = list(json_lines(ticks, self.source.instruments))
            began = time.process_time()
            for who, line in lines:
                number = self._partition_of[who]
                batch = self._open[number]
                batch.append((self._keys[who], line))
                if len(batch) == self.batch_records:
                    await self._send_batch(number)
            self.cpu_s += time.process_time() - began
        began = time.process_time()
        for number in self._open:
            await self._send_batch(number)
        await self._drain(0)
        self.cpu_s += time.process_time() - began

    async def _send_batch(self, number: int) -> None:
        records, self._open[number] = self._open[number], []
        if not records:
            return
        batch = self.producer.create_batch()
        for key, line in records:
            if batch.append(key=key, value=line, timestamp=None) is None:
                raise ValueError(f"{len(records)} records do not fit one Kafka batch: take fewer")
            self.n_bytes += len(line)
        self._sent.append((number, len(records), await self.producer.send_batch(batch, self.topic, partition=number)))
        self.records += len(records)
        await self._drain(_MOST_UNACKNOWLEDGED)

    async def _drain(self, most: int) -> None:
        while len(self._sent) > most:
            number, n_records, ack = self._sent.pop(0)
            try:
                self.offsets[number] = (await ack).offset + n_records - 1
            except Exception as exc:
                raise PublishFailed(f"{self.topic} partition {number} refused {n_records} records: {exc}") from exc


@asynccontextmanager
async def json_log(settings: Settings, source: SeededTicks, *, batch_records: int) -> AsyncIterator[JsonLog]:
    """A log of the run that `settings` names, whose topics exist.

    Raises:
        ServiceUnavailable: Kafka is away.
    """
    producer = await start_producer(settings.kafka)
    try:
        yield JsonLog(source, producer, settings.topics.prefix + JSON_TICKS, settings.kafka.partitions, batch_records)
    finally:
        await stop_client(producer)
