"""Frames on their way: kept in order, bounded while unacknowledged, failures told to the caller."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from models.errors import PublishFailed
from streams.kafka.frames import PackedFrame
from streams.settings import Settings
from streams.topics import FRAMES


@dataclass
class SenderStats:
    """What was handed to Kafka so far; `n_bytes` is before compression, `acked` counts ticks."""

    ticks: int = 0
    frames: int = 0
    n_bytes: int = 0
    acked: int = 0


class FrameSender:
    """Sends packed frames; at most `publisher.buffer_ticks` ticks are unacknowledged, beyond that `send` waits.

    A frame that Kafka refuses (too large, not allowed) breaks the sender for good: what came after it would arrive
    without it. A broker that is away does not: frames stay queued, calls raise until acks come again.

    Args:
        settings: topic prefix, `publisher.buffer_ticks`, `publisher.delivery_timeout_s`.
        producer: a started idempotent producer; its owner stops it.

    Attributes:
        stats: what was handed over and acknowledged.
        offsets: partition -> offset of its newest acknowledged frame.
    """

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self.stats = SenderStats()
        self.offsets: dict[int, int] = {}
        self.topic = settings.topics.prefix + FRAMES
        self._producer = producer
        self._bootstrap = settings.kafka.bootstrap
        self._buffer_ticks = settings.publisher.buffer_ticks
        self._patience_s = settings.publisher.delivery_timeout_s
        self._queued: deque[PackedFrame] = deque()
        self._waiting: Counter[int] = Counter()  # partition -> ticks queued or unacknowledged
        self._progress = asyncio.Event()
        self._progress_at = 0.0  # loop time of the last ack, or of leaving idleness
        self._failure: PublishFailed | None = None

    def __repr__(self) -> str:
        return f"<FrameSender {self.topic}: {self.stats}>"

    @property
    def unacknowledged(self) -> int:
        """Ticks that were given and not acknowledged yet."""
        return self._waiting.total()

    def check(self) -> None:
        """Raises: PublishFailed when a frame was refused, or no ack came for `publisher.delivery_timeout_s`."""
        self._check_refused()
        if self.unacknowledged and _loop_time() - self._progress_at > self._patience_s:
            raise self._stalled(self._patience_s)

    async def wait_for_room(self, n_ticks: int, patience_s: float | None = None) -> None:
        """Return once `n_ticks` more fit, or nothing is on its way.

        Args:
            patience_s: how long to wait for the next ack; None = `publisher.delivery_timeout_s`.

        Raises:
            PublishFailed: a frame was refused, or no ack came.
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        while self.unacknowledged and self.unacknowledged + n_ticks > self._buffer_ticks and self._failure is None:
            self._progress.clear()
            try:
                await asyncio.wait_for(self._progress.wait(), patience_s)
            except TimeoutError:
                raise self._stalled(patience_s) from None
        self._check_refused()

    async def send(self, frames: Iterable[PackedFrame]) -> None:
        """Hand frames to the producer. Not to be called twice at once: a partition's frames keep their order.

        If it raises or is cancelled, what did not reach the producer is sent by the next call.

        Raises:
            PublishFailed: see `check`.
        """
        if not self.unacknowledged:
            self._progress_at = _loop_time()
        for frame in frames:
            self._waiting[frame.partition] += frame.n_ticks
            self._queued.append(frame)
        while self._queued:
            frame = self._queued[0]
            try:
                async with asyncio.timeout(self._patience_s):
                    ack = await self._producer.send(self.topic, frame.data, partition=frame.partition)
            except TimeoutError:
                raise self._stalled(self._patience_s) from None
            except KafkaError as exc:
                raise self._refused(frame, exc) from exc
            self._queued.popleft()
            self.stats.ticks += frame.n_ticks
            self.stats.frames += 1
            self.stats.n_bytes += len(frame.data)
            ack.add_done_callback(partial(self._on_ack, frame))

    async def drain(self, deadline_s: float) -> None:
        """Wait until everything is acknowledged. Raises: PublishFailed."""
        try:
            async with asyncio.timeout(deadline_s):
                while self.unacknowledged and self._failure is None:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            raise self._stalled(deadline_s) from None
        self._check_refused()

    def _check_refused(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _on_ack(self, frame: PackedFrame, ack: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if ack.cancelled() else ack.exception()
        if error is None:
            self.stats.acked += frame.n_ticks
            self.offsets[frame.partition] = ack.result().offset
            self._waiting[frame.partition] -= frame.n_ticks
            self._progress_at = _loop_time()
        else:
            self._refused(frame, error)
        self._progress.set()

    def _refused(self, frame: PackedFrame, error: BaseException) -> PublishFailed:
        if self._failure is None:
            self._failure = PublishFailed(
                f"{frame.n_ticks} ticks to {self.topic} partition {frame.partition} at {self._bootstrap} were refused "
                f"({type(error).__name__}: {error}), {self.stats.acked} ticks before them are acknowledged: "
                "open a new publisher and send the rest again"
            )
        return self._failure

    def _stalled(self, waited_s: float) -> PublishFailed:
        partitions = sorted(partition for partition, n in self._waiting.items() if n)
        return PublishFailed(
            f"{self.topic} at {self._bootstrap} acknowledged nothing for {waited_s:g} s: {self.unacknowledged} ticks "
            f"wait for partitions {partitions}; they leave when the broker is back (`marketprism status`), "
            "until then call again later"
        )


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
