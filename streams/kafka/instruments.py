"""The instrument directory: what `md.instruments.v1` says, and the way to add to it (protocol rule 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import DeadlineExceeded, InstrumentConflict, InvalidInstrument, ServiceUnavailable
from models.market.instruments import Instrument, decode_definition, encode_definition
from models.market.registry import InstrumentRegistry
from streams.kafka.clients import Outgoing, send_acknowledged, start_consumer, start_producer, stop_client
from streams.log import event
from streams.settings import Settings
from streams.topics import INSTRUMENTS

log = logging.getLogger(__name__)

_RECORDS_A_STEP = 2_000  # decoding more at once holds the loop for longer than 5 ms
_POLL_MS = 200


class InstrumentDirectory:
    """The topic of definitions as a registry that grows.

    Reads without a group from the first record. The first definition of a text stands; later ones are ignored.
    Ids are this process's own: on the wire an instrument is its hash.

    Args:
        settings: broker, topic prefix, delivery deadline.
        producer: sends definitions; without one the directory starts its own when it first defines something.
        registry: the registry to fill; a new one by default.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        producer: AIOKafkaProducer | None = None,
        registry: InstrumentRegistry | None = None,
    ) -> None:
        self.registry = registry or InstrumentRegistry()
        self._settings = settings
        self._topic = settings.topics.prefix + INSTRUMENTS
        self._tp = TopicPartition(self._topic, 0)
        self._consumer: AIOKafkaConsumer | None = None
        self._producer = producer
        self._owns_producer = producer is None
        self._standing: dict[str, Instrument] = {}  # as the log has it
        self._acknowledged = 0  # registry ids below this are in the log
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<InstrumentDirectory {self._topic}: {len(self._standing)} defined>"

    async def start(self, deadline_s: float = 30.0) -> None:
        """Read all definitions that are in the topic now.

        Raises:
            ServiceUnavailable: no broker, or no topic.
            DeadlineExceeded: the end was not reached within `deadline_s`.
        """
        self._consumer = await start_consumer(self._settings.kafka, self._topic)
        try:
            await self.catch_up(deadline_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        if self._consumer is not None:
            await stop_client(self._consumer)
            self._consumer = None
        if self._owns_producer and self._producer is not None:
            await stop_client(self._producer)
            self._producer = None

    async def catch_up(self, deadline_s: float = 10.0) -> None:
        """Read on to what is the topic's end at the time of the call. Costs a round trip when nothing is new.

        Raises:
            DeadlineExceeded: the end was not reached within `deadline_s`.
        """
        try:
            async with asyncio.timeout(deadline_s), self._turn:
                await self._read_to_end()
        except TimeoutError as exc:
            raise DeadlineExceeded(
                f"definitions in {self._topic} at {self._settings.kafka.bootstrap} were not read to the end "
                f"within {deadline_s} s ({len(self._standing)} read)"
            ) from exc
        except KafkaError as exc:
            raise ServiceUnavailable(f"reading {self._topic} at {self._settings.kafka.bootstrap}: {exc}") from exc

    async def define(self, instruments: Iterable[Instrument]) -> list[int]:
        """Ids of the instruments in the registry, once all of them are in the log and acknowledged.

        Raises:
            InstrumentConflict: the log has one of them with other exponents.
            PublishFailed: Kafka did not acknowledge within `publisher.delivery_timeout_s`.
        """
        ids = []
        for instrument in instruments:
            id_ = self.registry.add(instrument)
            _check_exponents(self.registry.instruments[id_], instrument)
            ids.append(id_)
        await self.acknowledge()
        return ids

    async def acknowledge(self) -> None:
        """Put into the log what the registry knows and the log does not; returns at once when there is nothing.

        Raises: as `define`.
        """
        if self._acknowledged == len(self.registry):
            return
        upto = len(self.registry)
        if self._missing(upto):
            await self.catch_up()  # somebody else may have been first
        if missing := self._missing(upto):
            await self._send(missing)
            await self.catch_up()
        new = self.registry.instruments[self._acknowledged : upto]
        lost = [i for i in new if not _same_exponents(self._standing[i.text], i)]
        if lost:
            # Compaction keeps a key's last record: say again what stands, so that the loser does not survive.
            await self._send([self._standing[i.text] for i in lost])
            _check_exponents(self._standing[lost[0].text], lost[0])
        self._acknowledged = upto

    def _missing(self, upto: int) -> list[Instrument]:
        return [i for i in self.registry.instruments[self._acknowledged : upto] if i.text not in self._standing]

    async def _read_to_end(self) -> None:
        if self._consumer is None:
            raise ServiceUnavailable(f"the directory of {self._topic} is not started")
        end = (await self._consumer.end_offsets([self._tp]))[self._tp]
        while await self._consumer.position(self._tp) < end:
            batch = await self._consumer.getmany(self._tp, timeout_ms=_POLL_MS, max_records=_RECORDS_A_STEP)
            for record in batch.get(self._tp, ()):
                if record.value is not None:
                    self._apply(record.value, record.offset)

    def _apply(self, value: bytes, offset: int) -> None:
        try:
            instrument = decode_definition(value)
            self.registry.add(instrument)
        except InvalidInstrument as exc:
            event(log, "definition_ignored", level=logging.WARNING, offset=offset, detail=str(exc.args[0]))
        else:
            self._standing.setdefault(instrument.text, instrument)

    async def _send(self, instruments: list[Instrument]) -> None:
        kafka, timeout_s = self._settings.kafka, self._settings.publisher.delivery_timeout_s
        if self._producer is None:
            self._producer = await start_producer(kafka)
        records = [Outgoing(self._topic, 0, encode_definition(i), i.text.encode()) for i in instruments]
        await send_acknowledged(self._producer, records, deadline_s=timeout_s, then="then publish again")


def _same_exponents(a: Instrument, b: Instrument) -> bool:
    return (a.price_exp, a.size_exp) == (b.price_exp, b.size_exp)


def _check_exponents(standing: Instrument, wanted: Instrument) -> None:
    if not _same_exponents(standing, wanted):
        raise InstrumentConflict(
            f"{wanted.text} is defined with exponents {standing.price_exp}/{standing.size_exp} (price/size), not "
            f"{wanted.price_exp}/{wanted.size_exp}: exponents never change; scale the ticks to the definition"
        )
