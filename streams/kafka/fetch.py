"""Faust's consumer thread, which asks the broker in turns: few answers that bring much, instead of many small ones.

A socket send costs 50-100 us of CPU, and each answer begins a round with three sends of its own. A fetch therefore
waits until `GATHER_S` after the one before it was sent, while the broker gathers what comes for all partitions. It
does not wait while the log holds more than was read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import uvloop
from aiokafka import ConsumerRecord
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.clock import now_ns

GATHER_S = 0.004  # uvloop's timers count in ms
FETCH_BYTES = 8 << 20  # a partition's share of one fetch
FETCH_MAX_WAIT_MS = 100  # Faust hard-codes 1.5 s; on a quiet log each answer proves that nothing came (rule 11)


class FetchThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread with Faust's Kafka client, on uvloop: asyncio's own loop was a seventh of a paced worker's CPU.

    Attributes:
        ends: by partition: when a fetch was sent, UTC ns, and the log's end that its answer told. Everything the log
            held at that moment lies before that end.
    """

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, thread_loop=uvloop.new_event_loop(), **kwargs)
        self._close_thread_loop_on_stop = True  # it is this thread's own
        self.ends: dict[TP, tuple[int, int]] = {}
        self._next_at: dict[int, float] = {}  # by broker, loop time
        self._drained = True
        self._ask: Any

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        consumer._fetch_min_bytes = 1
        consumer._fetch_max_bytes = 8 * FETCH_BYTES
        return consumer

    async def on_start(self) -> None:
        await super().on_start()
        fetcher = self._consumer._fetcher
        self._ask, fetcher._proc_fetch_request = fetcher._proc_fetch_request, self._ask_in_turn

    async def on_thread_stop(self) -> None:
        # A static member that stops does not leave its group: others would wait for the session timeout.
        if self._consumer is not None:
            self._consumer._coordinator._group_instance_id = None
        await super().on_thread_stop()

    async def _ask_in_turn(self, assignment: Any, broker: int, request: Any) -> bool:
        loop = asyncio.get_running_loop()
        if self._drained and (wait_s := self._next_at.get(broker, 0.0) - loop.time()) > 0:
            try:
                await asyncio.sleep(wait_s)
            except asyncio.CancelledError:  # as the client's own: nobody wants the answer any more
                return False
        self._next_at[broker] = loop.time() + GATHER_S
        states = {
            TP(topic, partition): assignment.state_value(TP(topic, partition))
            for topic, partitions in request.topics
            for partition, *_ in partitions
        }
        for state in states.values():
            state.timestamp = None  # an answer for the partition sets it, together with the log's end
        sent_ns = now_ns()
        new: bool = await self._ask(assignment, broker, request)
        for tp, state in states.items():
            if state.timestamp is not None:
                self.ends[tp] = sent_ns, state.highwater
        return new

    async def _fetch_records(
        self, consumer: Any, active_partitions: set[TP], timeout: float, max_records: int | None = None
    ) -> Mapping[TP, list[ConsumerRecord]]:
        """As Faust's, but a rebalance ends it: aiokafka's own would wait for the new assignment and read on in it."""
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise driver.ConsumerStoppedError
        records = await self._fetched(fetcher, active_partitions, max_records)
        if not records:
            waiter = fetcher._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=timeout)
            if waiter.done():
                waiter.result()
            waiter.cancel()
            records = await self._fetched(fetcher, active_partitions, max_records)
        return records

    async def _fetched(
        self, fetcher: Any, active_partitions: set[TP], max_records: int | None
    ) -> Mapping[TP, list[ConsumerRecord]]:
        """What lies ready; never waits."""
        if not self.consumer.flow_active or fetcher._subscriptions.reassignment_in_progress:
            return {}
        with fetcher._subscriptions.fetch_context():
            records: Mapping[TP, list[ConsumerRecord]] = await fetcher.fetched_records(
                active_partitions, timeout=0, max_records=max_records
            )
        if records:
            ends = self.ends
            self._drained = not any(tp in ends and found[-1].offset + 1 < ends[tp][1] for tp, found in records.items())
        return records
