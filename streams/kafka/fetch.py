"""Faust's consumer thread: its own uvloop, fetches in turns, polls without detours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import uvloop
from aiokafka import ConsumerRecord
from aiokafka.consumer.fetcher import FetchError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.futures import maybe_set_exception, maybe_set_result

from streams.clock import now_ns
from streams.kafka.fetch_codec import use_fast_fetch
from streams.kafka.fetched import keep_fetched
from streams.kafka.record_columns import RecordColumns, take_columns
from streams.kafka.turns import FetchTurns

FETCH_BYTES = 1 << 20  # a partition's share of one fetch: what a round takes of it holds the loop for some 8 ms
FETCH_MAX_WAIT_MS = 100  # Faust hard-codes 1.5 s; on a quiet log each answer proves that nothing came (rule 11)


Fetched = Mapping[TP, list[ConsumerRecord] | RecordColumns]


class FetchThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread with Faust's Kafka client, on uvloop: with asyncio's own loop it took half as much CPU again.

    Attributes:
        turns: when fetches leave, and the ends of the log that their answers told.
    """

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        use_fast_fetch()
        keep_fetched()
        super().__init__(consumer, thread_loop=uvloop.new_event_loop(), **kwargs)
        self._close_thread_loop_on_stop = True  # it is this thread's own
        self.turns = FetchTurns()
        self._ask: Any
        self._polls: set[asyncio.Task[None]] = set()

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
        if wait_s := self.turns.wait_s(broker, time.monotonic()):
            try:
                await asyncio.sleep(wait_s)
            except asyncio.CancelledError:  # as the client's own: nobody wants the answer any more
                return False
        self.turns.asked(broker, time.monotonic())
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
                self.turns.answered(tp, sent_ns, state.highwater)
        return new

    async def getmany(self, active_partitions: set[TP], timeout: float) -> Fetched:
        """Called in Faust's loop: what lies ready, or what comes within `timeout` seconds.

        It goes round the thread's queue of methods, which takes several tasks and events a call.
        """
        answer: asyncio.Future[Fetched] = self.parent_loop.create_future()
        self.thread_loop.call_soon_threadsafe(self._begin_poll, answer, frozenset(active_partitions), timeout)
        return await answer

    def _begin_poll(self, answer: asyncio.Future[Any], active_partitions: frozenset[TP], timeout: float) -> None:
        self._polls.add(poll := self.thread_loop.create_task(self._poll(answer, active_partitions, timeout)))
        poll.add_done_callback(self._polls.discard)

    async def _poll(self, answer: asyncio.Future[Any], active_partitions: frozenset[TP], timeout: float) -> None:
        try:
            records = await self._fetch_records(self._consumer, active_partitions, timeout)
        except asyncio.CancelledError:
            self.parent_loop.call_soon_threadsafe(maybe_set_exception, answer, driver.ConsumerStoppedError())
            raise
        except Exception as exc:
            self.parent_loop.call_soon_threadsafe(maybe_set_exception, answer, exc)
        else:
            self.parent_loop.call_soon_threadsafe(maybe_set_result, answer, records)

    async def _fetch_records(self, consumer: Any, active_partitions: frozenset[TP], timeout: float) -> Fetched:
        """As Faust's, but a rebalance ends it: aiokafka's own would wait for the new assignment and read on in it."""
        if consumer is None or consumer._closed or consumer._fetcher._closed:
            raise driver.ConsumerStoppedError
        fetcher, max_records = consumer._fetcher, consumer._max_poll_records
        records = await self._fetched(fetcher, active_partitions, max_records)
        if not records:
            waiter = fetcher._create_fetch_waiter()
            overdue = self.thread_loop.call_later(timeout, fetcher._notify, waiter)
            try:
                await waiter
            finally:
                overdue.cancel()
            records = await self._fetched(fetcher, active_partitions, max_records)
        return records

    async def _fetched(self, fetcher: Any, active_partitions: frozenset[TP], max_records: int | None) -> Fetched:
        """What lies ready; never waits."""
        if not self.consumer.flow_active or fetcher._subscriptions.reassignment_in_progress:
            return {}
        with fetcher._subscriptions.fetch_context():
            found: dict[TP, list[ConsumerRecord] | RecordColumns] = {}
            rest: set[TP] = set()
            for tp in active_partitions:
                # Errors of fetches are aiokafka's to raise, of whatever topic.
                if tp.topic in self.consumer.rounds.columnar and not isinstance(fetcher._records.get(tp), FetchError):
                    if (columns := _columns(fetcher, tp)) is not None:
                        found[tp] = columns
                else:
                    rest.add(tp)
            if rest:  # none would mean all
                found |= await fetcher.fetched_records(rest, timeout=0, max_records=max_records)
        if found:
            self.turns.read({tp: _last_offset(records) + 1 for tp, records in found.items()})
        return found


def _columns(fetcher: Any, tp: TP) -> RecordColumns | None:
    """What lies ready of one partition."""
    if (result := fetcher._records.get(tp)) is None:
        return None
    columns = take_columns(result, tp)
    if not result.has_more():
        del fetcher._records[tp]
        fetcher._notify(fetcher._wait_consume_future)  # it may fetch on
    return columns


def _last_offset(records: list[ConsumerRecord] | RecordColumns) -> int:
    return int(records.offsets[-1]) if isinstance(records, RecordColumns) else int(records[-1].offset)
