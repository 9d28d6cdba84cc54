"""Faust's transport with rounds: all records that one poll brought, of all partitions, handed over as one event.

Stock Faust makes four asyncio tasks a record (57-74 us of CPU); here the cost of a record is the fetch. Only source
topics take this road: changelogs keep Faust's own, because its recovery waits for them there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.kafka.fetch import Fetched, FetchThread
from streams.kafka.record_columns import RecordColumns
from streams.log import event
from streams.pace import Pace

_RECHECK_S = 0.0005  # stock sleeps a whole second when buffers are full
_POLL_S = 0.2  # a rebalance waits for the end of a poll
_LOOK_S = 0.1  # whether there is anything to commit

log = logging.getLogger(__name__)


class Round(NamedTuple):
    """Records of one topic that one poll brought, offsets rising in each partition."""

    topic: str
    generation: int  # of the consumer group: a round of an older one is void, its partitions may be another's
    records: dict[int, list[ConsumerRecord]]  # by partition
    columns: dict[int, RecordColumns]  # instead of `records`, of a topic that is read so
    behind: bool = False  # one of its logs held more when this was read, so another round follows


RoundSink = Callable[[Round], Awaitable[None]]  # blocks while the consumer of rounds is busy: back-pressure
Barrier = Callable[[Mapping[TP, int]], Awaitable[None]]
Needed = Callable[[], Mapping[TP, int]]


class Rounds:
    """Where rounds go, how far they were processed, and what must be durable before offsets are committed.

    Args:
        barrier: awaited before each commit.
        needed: next offset that the state needs of each partition that has any; nothing later is fetched before it.

    Attributes:
        sinks: by full name of the topic.
        columnar: topics whose rounds bring columns.
        waiting_since: when the first round was processed that no barrier has made durable yet, monotonic s; None: all.
    """

    def __init__(self, barrier: Barrier, needed: Needed = dict) -> None:
        self.barrier = barrier
        self.needed = needed
        self.sinks: dict[str, RoundSink] = {}
        self.columnar: set[str] = set()
        self.waiting_since: float | None = None
        self._processed: dict[TP, int] = {}

    def processed(self, topic: str, partition: int, offset: int) -> None:
        """Everything up to and with `offset` was applied; the next barrier makes it visible, durable and committed."""
        self._processed[TP(topic, partition)] = offset
        if self.waiting_since is None:
            self.waiting_since = time.monotonic()

    def next_offset(self, tp: TP) -> int | None:
        return None if tp not in self._processed else self._processed[tp] + 1

    def tps(self) -> list[TP]:
        return list(self._processed)

    def forget(self) -> None:
        self._processed.clear()
        self.waiting_since = None


class RoundConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, whose drain hands rounds to `transport.rounds`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._polling = asyncio.Lock()  # held from a poll until its records are handed over

    @property
    def rounds(self) -> Rounds:
        rounds: Rounds = self.transport.rounds
        return rounds

    def _new_consumer_thread(self) -> FetchThread:
        return FetchThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def log_ends(self) -> Mapping[TP, tuple[int, int]]:
        """See `FetchTurns.ends`."""
        thread: FetchThread = self._thread
        return thread.turns.ends

    async def perform_seek(self) -> None:
        """To what the group has committed, but not beyond what the state needs next; see `to_go_back`."""
        await super().perform_seek()
        if back := to_go_back(self._read_offset, self.rounds.needed()):
            event(log, "committed_beyond_state", level=logging.WARNING, partitions=sorted(back))
            await self.seek_wait(back)
            self._read_offset.update(back)
            self._committed_offset.update(back)  # else nothing is made durable before something newer comes

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                async with self._polling:
                    records = await self._poll()
                    await asyncio.sleep(0)  # a poll that finds its answer waiting never suspends
                    if self.should_stop:
                        break
                    if records and self.flow_active:
                        await self._hand_over(records)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise
        finally:
            self.set_shutdown()

    async def _poll(self) -> Fetched:
        if not (active := self._fetchable()):
            await asyncio.sleep(_RECHECK_S)
            return {}
        records: Fetched = await self._getmany(active_partitions=active, timeout=_POLL_S)
        return records

    def _fetchable(self) -> set[TP]:
        """Source topics only once a rebalance has ended: Faust resumes them, then seeks, then empties queues."""
        active = self._get_active_partitions()
        return {tp for tp in active if not (self.app.rebalancing and tp.topic in self.rounds.sinks)}

    async def _hand_over(self, records: Fetched) -> None:
        generation, behind = self.app.consumer_generation_id, self._thread.turns.behind
        by_topic: dict[str, Round] = {}
        for tp, found in records.items():
            next_offset = self._read_offset[tp]
            round_ = Round(tp.topic, generation, {}, {}, tp.topic in behind)
            if isinstance(found, RecordColumns):
                if columns := found if next_offset is None else found.since(next_offset):
                    by_topic.setdefault(tp.topic, round_).columns[tp.partition] = columns
                    self._read_offset[tp] = int(columns.offsets[-1]) + 1
                continue
            if tp.topic not in self.rounds.sinks:
                for record in found:
                    if next_offset is None or record.offset >= next_offset:
                        await self.callback(self._to_message(tp, record))
                        self._read_offset[tp] = record.offset
                continue
            # After a seek `_read_offset` is the next offset to read, afterwards the last one read.
            fresh = [r for r in found if next_offset is None or r.offset >= next_offset]
            if fresh:
                by_topic.setdefault(tp.topic, round_).records[tp.partition] = fresh
                self._read_offset[tp] = fresh[-1].offset + 1
        for topic, round_ in by_topic.items():
            putting = asyncio.ensure_future(self.rounds.sinks[topic](round_))
            await asyncio.sleep(0)
            if putting.done():  # the rule; what follows makes four tasks
                putting.result()
            else:
                # A revocation empties the queue without waking who waits for room in it.
                await self.wait_first(putting, self.suspend_flow.wait())

    @driver.Consumer.task  # type: ignore[untyped-decorator]
    async def _commit_handler(self) -> None:
        """Faust's commits each `commit_interval` while rounds come; a barrier that takes long comes less often."""
        pace, rounds = Pace(self.commit_interval), self.rounds
        while not self.should_stop:
            began = time.monotonic()
            since = rounds.waiting_since
            if since is None or (wait_s := pace.wait_s(began, since)):
                await self.sleep(_LOOK_S if since is None else wait_s)
                continue
            rounds.waiting_since = None
            if await self.commit():
                pace.had(began, time.monotonic())
            else:  # nothing new, or the group is between two generations
                rounds.waiting_since = rounds.waiting_since or since
                await self.sleep(_LOOK_S)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        yield from super()._filter_tps_with_pending_acks(topics)
        yield from (tp for tp in self.rounds.tps() if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        if tp.topic in self.rounds.sinks:
            return self.rounds.next_offset(tp)
        offset: int | None = super()._new_offset(tp)
        return offset

    async def _handle_attached(self, commit_offsets: Mapping[TP, int]) -> None:
        await super()._handle_attached(commit_offsets)
        await self.rounds.barrier(commit_offsets)  # an error here stops the commit

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # A poll that were still under way when recovery seeks would move the positions again, and its records be lost.
        self.stop_flow()
        async with self._polling:
            await super().on_partitions_revoked(revoked)
        self.rounds.forget()


def to_go_back(committed: Mapping[TP, int | None], needed: Mapping[TP, int]) -> dict[TP, int]:
    """Where to read on instead of a committed offset beyond the state: another owner went on, or the state is lost.

    Brokers tell committed offsets to members of old generations too. A worker that was frozen between loading its pages
    and asking for offsets would begin where its successor is, and pass over all that lies between.
    """
    return {tp: at for tp, at in needed.items() if (committed.get(tp) or 0) > at}


class RoundTransport(driver.Transport):  # type: ignore[misc]
    """Give an app rounds: `app.transport = RoundTransport(app.conf.broker, app, rounds)`."""

    Consumer = RoundConsumer

    def __init__(self, url: Any, app: Any, rounds: Rounds) -> None:
        super().__init__(url, app)
        self.rounds = rounds
