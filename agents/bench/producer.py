"""Frames of invented ticks into a run's log, and what the worker must make of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from models.market.digest import InstrumentFinal
from models.market.fold import OfflineFold
from models.market.instruments import instrument_hash
from models.market.tick import TickArray
from models.perf.ticks import SeededTicks
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.frame_sender import FrameSender
from streams.kafka.frames import FramePacker
from streams.kafka.instruments import InstrumentDirectory
from streams.settings import Settings


@dataclass
class TickLog:
    """Writes ticks of one dense source to `md.frames.v1` and folds the same ticks itself.

    Attributes:
        source: of the ticks.
        sender: knows how much was sent, and the newest offset of each partition.
        cpu_s: CPU of this process that packing, compressing and sending took; making and folding ticks is left out.
    """

    source: SeededTicks
    sender: FrameSender
    packer: FramePacker
    patience_s: float
    cpu_s: float = 0.0
    _fold: OfflineFold = field(init=False)

    def __post_init__(self) -> None:
        self._fold = OfflineFold([instrument.text for instrument in self.source.instruments])

    async def send_opening(self) -> None:
        """A trade and a quote of every instrument. Raises: PublishFailed."""
        await self._send([self.source.opening()])

    async def send(self, n_ticks: int) -> None:
        """Exactly so many further ticks; returns once Kafka has all of them. Raises: PublishFailed."""
        await self._send(self.source.batches(n_ticks))

    async def hand_over(self, n_ticks: int) -> None:
        """As `send`, but returns once they are on their way. Raises: PublishFailed."""
        await self._send(self.source.batches(n_ticks), drain=False)

    async def send_rows(self, ticks: TickArray) -> None:
        """These rows, whose positions follow those sent before. Raises: PublishFailed."""
        await self._send([ticks])

    def expected(self) -> list[InstrumentFinal]:
        """What every instrument looks like after all that was sent."""
        return self._fold.finals()

    async def _send(self, batches: Iterable[TickArray], *, drain: bool = True) -> None:
        began, apart_s = time.process_time(), 0.0
        batches = iter(batches)
        while True:
            at = time.thread_time()
            ticks = next(batches, None)
            if ticks is not None:
                self._fold.update(ticks)
            apart_s += time.thread_time() - at
            if ticks is None:
                break
            for frame in self.packer.pack(ticks):
                await self.sender.wait_for_room(frame.n_ticks)
                await self.sender.send([frame])
        if drain:
            await self.sender.drain(self.patience_s)
        self.cpu_s += time.process_time() - began - apart_s


@asynccontextmanager
async def tick_log(settings: Settings, source: SeededTicks, *, frame_ticks: int) -> AsyncIterator[TickLog]:
    """A log of the run that `settings` names, whose topics exist.

    Raises:
        ServiceUnavailable, PublishFailed: Kafka is away, or refuses.
    """
    producer = await start_producer(settings.kafka)
    try:
        async with InstrumentDirectory(settings, producer=producer) as directory:
            ids = await directory.define(source.instruments)
            if not np.array_equal(ids, np.arange(len(ids))):
                raise ValueError(f"{settings.topics.prefix} has instruments already: a run begins with empty topics")
            packer = FramePacker(
                directory.registry,
                source=instrument_hash(f"pub/bench/{settings.topics.prefix}"),
                n_partitions=settings.kafka.partitions,
                frame_ticks=frame_ticks,
                dense=True,
            )
            yield TickLog(source, FrameSender(settings, producer), packer, settings.publisher.delivery_timeout_s)
    finally:
        await stop_client(producer)
