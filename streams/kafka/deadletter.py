"""Dead letters: records that were refused, kept as they came with the reason, and the way back to their topic.

A letter that was sent again is marked by a further record in the same topic: no value, headers `reason = resubmitted`
and `letter` = the letter's own offset. A crash between the two leaves the letter unmarked: it is sent at least once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Self

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from models.errors import DeadlineExceeded, ServiceUnavailable
from models.market.instruments import partition_of
from streams import metrics
from streams.clock import now_ns
from streams.kafka.clients import Outgoing, send_acknowledged, start_consumer, start_producer, stop_client
from streams.kafka.record_columns import Record
from streams.settings import Settings
from streams.topics import DEAD, JSON_TICKS, WRITES

RESUBMITTED = "resubmitted"
NOWHERE = "-"  # the letter's origin when it never was in a topic
_RECORDS_A_STEP = 500
_STEP_BYTES = 16 << 20
_POLL_MS = 200
_LISTED_BYTES = 4096

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True)
class DeadLetter:
    """One refused record.

    Attributes:
        value: its bytes as they came.
        reason: machine word of docs/wire.md; `detail` is for people.
        topic, partition, offset: where it came from; `-`, -1, -1 when it never was in a topic.
        ts_ms: when it was refused, ms UTC.
        letter: its own offset in `md.dead.v1`, -1 before it is there.
    """

    value: bytes
    reason: str
    detail: str
    ts_ms: int
    topic: str = NOWHERE
    partition: int = -1
    offset: int = -1
    letter: int = -1

    def headers(self) -> Headers:
        return [
            ("reason", self.reason.encode()),
            ("detail", self.detail.encode()),
            ("topic", self.topic.encode()),
            ("partition", b"%d" % self.partition),
            ("offset", b"%d" % self.offset),
            ("ts_ms", b"%d" % self.ts_ms),
        ]


def letter_of(record: ConsumerRecord | Record, reason: str, detail: str) -> DeadLetter:
    """The letter of a record that is refused now."""
    at_ms = now_ns() // 1_000_000
    return DeadLetter(record.value or b"", reason, detail, at_ms, record.topic, record.partition, record.offset)


@dataclass(frozen=True)
class Resubmission:
    """What `DeadLetters.resubmit` did: letters sent again, and those that no topic can take back."""

    sent: int
    unfit: int


class _Named(msgspec.Struct):
    exchange: str
    market_type: str
    symbol: str


class DeadLetters:
    """`md.dead.v1`: put letters in, list them, send them again.

    Args:
        settings: broker, topic prefix, delivery deadline.
        producer: shared with its owner; without one it starts its own when the first letter is sent.
    """

    def __init__(self, settings: Settings, *, producer: AIOKafkaProducer | None = None) -> None:
        self._settings = settings
        self._prefix = settings.topics.prefix
        self._topic = self._prefix + DEAD
        self._producer = producer
        self._owns_producer = producer is None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._owns_producer and self._producer is not None:
            await stop_client(self._producer)
            self._producer = None

    async def put(self, letters: Iterable[DeadLetter]) -> None:
        """Send letters and wait until Kafka has them.

        Raises:
            PublishFailed: not acknowledged within `publisher.delivery_timeout_s`.
        """
        waiting = list(letters)
        await self._send([Outgoing(self._topic, 0, letter.value, headers=letter.headers()) for letter in waiting])
        for letter in waiting:
            metrics.DEAD.labels(letter.reason).inc()

    async def read(self, *, reason: str | None = None, deadline_s: float = 60.0) -> AsyncIterator[DeadLetter]:
        """Letters that are in the topic now, oldest first, one fetch in memory at a time; marks are not letters."""
        async for letter in self._records(deadline_s):
            if letter.reason != RESUBMITTED and reason in (None, letter.reason):
                yield letter

    async def waiting(self, *, reason: str | None = None, max_n: int = 1000) -> tuple[int, list[DeadLetter]]:
        """How many letters were not sent again yet, and the newest `max_n` of them (first 4 KiB of each value)."""
        marked = await self._marked()
        newest: deque[DeadLetter] = deque(maxlen=max_n)
        count = 0
        async for letter in self.read(reason=reason):
            if letter.letter not in marked:
                count += 1
                newest.append(replace(letter, value=letter.value[:_LISTED_BYTES]))
        return count, list(newest)

    async def resubmit(self, *, reason: str | None = None, letter: int | None = None) -> Resubmission:
        """Send waiting letters to the topic they came from, and mark them.

        JSON ticks and cache writes go back to their partition; a JSON line that never was in a topic goes to
        `md.json.v1`. Frames do not: their positions have passed (protocol rule 2), their publisher has to send the
        rows anew.

        Args:
            reason: only letters refused for this reason.
            letter: only the letter with this offset in `md.dead.v1`.

        Raises:
            PublishFailed: Kafka did not acknowledge; letters sent until then are marked.
        """
        marked = await self._marked()
        step: list[DeadLetter] = []
        sent = unfit = size = 0
        async for candidate in self.read(reason=reason):
            if candidate.letter in marked or letter not in (None, candidate.letter):
                continue
            if self._destination(candidate) is None:
                unfit += 1
                continue
            step.append(candidate)
            size += len(candidate.value)
            if len(step) == _RECORDS_A_STEP or size > _STEP_BYTES:
                sent += await self._resubmit_step(step)
                step, size = [], 0
        sent += await self._resubmit_step(step)
        return Resubmission(sent, unfit)

    async def _resubmit_step(self, letters: list[DeadLetter]) -> int:
        back: list[Outgoing] = []
        marks: list[Outgoing] = []
        for letter in letters:
            if destination := self._destination(letter):
                topic, partition, key = destination
                back.append(Outgoing(topic, partition, letter.value, key))
                headers = [("reason", RESUBMITTED.encode()), ("letter", b"%d" % letter.letter)]
                marks.append(Outgoing(self._topic, 0, b"", headers=headers))
        await self._send(back)
        await self._send(marks)
        return len(back)

    def _destination(self, letter: DeadLetter) -> tuple[str, int, bytes | None] | None:
        """Topic, partition and key a letter goes back to, None if it cannot."""
        if letter.topic in (self._prefix + WRITES, WRITES):
            return self._prefix + WRITES, letter.partition, None
        is_line = letter.topic == NOWHERE and letter.value.lstrip()[:1] == b"{"
        if not is_line and letter.topic not in (self._prefix + JSON_TICKS, JSON_TICKS):
            return None
        key = tick_key(letter.value)
        partition = letter.partition
        if partition < 0:
            partition = partition_of(key or b"", self._settings.kafka.partitions)
        return self._prefix + JSON_TICKS, partition, key

    async def _marked(self) -> set[int]:
        return {mark.offset async for mark in self._records(60.0) if mark.reason == RESUBMITTED}

    async def _records(self, deadline_s: float) -> AsyncIterator[DeadLetter]:
        consumer = await start_consumer(self._settings.kafka, self._topic)
        tp = TopicPartition(self._topic, 0)
        try:
            end = (await asyncio.wait_for(consumer.end_offsets([tp]), deadline_s))[tp]
            heard = monotonic()
            while await consumer.position(tp) < end:
                batch = await consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=_RECORDS_A_STEP)
                if not batch and monotonic() - heard > deadline_s:
                    raise DeadlineExceeded(f"{self._topic} gave no record for {deadline_s} s before its end {end}")
                for record in batch.get(tp, ()):
                    if record.offset < end:
                        yield _letter(record)
                heard = monotonic() if batch else heard
        except (KafkaError, TimeoutError) as exc:
            raise ServiceUnavailable(f"reading {self._topic} at {self._settings.kafka.bootstrap}: {exc!r}") from exc
        finally:
            await stop_client(consumer)

    async def _send(self, records: list[Outgoing]) -> None:
        if not records:
            return
        if self._producer is None:
            self._producer = await start_producer(self._settings.kafka)
        await send_acknowledged(self._producer, records, deadline_s=self._settings.publisher.delivery_timeout_s)


def tick_key(line: bytes) -> bytes | None:
    """Instrument text of a JSON tick, the key of its record; None when the line does not name one."""
    try:
        named = msgspec.json.decode(line, type=_Named)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return f"{named.exchange}.{named.market_type}.{named.symbol}".encode()


def _letter(record: ConsumerRecord[bytes, bytes]) -> DeadLetter:
    headers = {name: value.decode(errors="replace") for name, value in record.headers if value is not None}
    if headers.get("reason") == RESUBMITTED:
        return DeadLetter(b"", RESUBMITTED, "", record.timestamp, offset=_number(headers.get("letter")))
    return DeadLetter(
        value=record.value or b"",
        reason=headers.get("reason", ""),
        detail=headers.get("detail", ""),
        ts_ms=_number(headers.get("ts_ms")),
        topic=headers.get("topic", NOWHERE),
        partition=_number(headers.get("partition")),
        offset=_number(headers.get("offset")),
        letter=record.offset,
    )


def _number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        return -1
