"""The gateway agent: one JSON tick a record, from any producer, packed into frames at the cost of a batch."""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaProducer

from models.market.instruments import instrument_hash
from models.market.json_lines import Lines
from models.market.json_tick import MAX_ROWS, JsonParser
from streams import metrics
from streams.clock import now_ns
from streams.kafka.clients import Outgoing, send_acknowledged
from streams.kafka.deadletter import DeadLetter, DeadLetters, letter_of
from streams.kafka.frames import FramePacker
from streams.kafka.instruments import InstrumentDirectory
from streams.kafka.transport import Round, Rounds
from streams.settings import Settings
from streams.topics import FRAMES


class GatewayAgent:
    """Turns rounds of `md.json.v1` into frames.

    A row's position follows from its record's offset, so what a crashed gateway sends again in other frames is dropped
    by the worker row by row (rule 2).

    Args:
        topic_id: Kafka's id of `md.json.v1`; it is part of the source's name, so a topic made anew is a new source.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        rounds: Rounds,
        directory: InstrumentDirectory,
        dead: DeadLetters,
        producer: AIOKafkaProducer,
        topic_id: str,
    ) -> None:
        self._settings = settings
        self._rounds = rounds
        self._directory = directory
        self._dead = dead
        self._producer = producer
        self._topic_id = topic_id
        self._topic = settings.topics.prefix + FRAMES
        self._packers: dict[int, FramePacker] = {}
        self._parser = JsonParser(directory.registry, strict=settings.instruments.strict)

    async def process(self, round_: Round) -> None:
        """Parse -> definitions acknowledged -> frames acknowledged -> refusals acknowledged -> processed."""
        letters: list[DeadLetter] = []
        frames: list[Outgoing] = []
        for number, records in round_.columns.items():
            began = time.thread_time()
            batch = self._parser.parse(
                Lines(records.data, records.starts, records.ends),
                received_ns=records.timestamps * 1_000_000,
                positions=records.offsets * MAX_ROWS + 1,
            )
            letters += [letter_of(records.record(r.record), r.reason, r.detail) for r in batch.refused]
            packed = self._packer(number).pack(batch.ticks, sent_ns=now_ns())
            frames += [Outgoing(self._topic, frame.partition, frame.data) for frame in packed]
            metrics.JSON_RECORDS.inc(len(records))
            metrics.GATEWAY_CPU.inc(time.thread_time() - began)
            await asyncio.sleep(0)  # others get the loop between partitions
        await self._directory.acknowledge()
        await send_acknowledged(self._producer, frames, deadline_s=self._settings.kafka.request_timeout_s)
        if letters:
            await self._dead.put(letters)
        for number, records in round_.columns.items():
            self._rounds.processed(round_.topic, number, int(records.offsets[-1]))

    def _packer(self, number: int) -> FramePacker:
        if number not in self._packers:
            source = instrument_hash(f"json/{self._topic_id}/{number}")
            self._packers[number] = FramePacker(
                self._directory.registry, source=source, n_partitions=self._settings.kafka.partitions
            )
        return self._packers[number]
