"""The worker: thin Faust agents over rounds, the page table, and the parts that they share."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from faust.exceptions import ConsistencyError
from faust.types import TP

from agents.assignment import Assignment
from agents.audit import AuditAgent
from agents.duties import Duties
from agents.gateway import GatewayAgent
from agents.health import HealthServer
from agents.market import MarketAgent
from agents.persist import PersistAgent
from agents.rounds import RoundAgents
from models.errors import DeadlineExceeded, ServiceUnavailable
from streams.age import process_age_s
from streams.cache.audit import Auditor
from streams.cache.coherence import Coherence
from streams.cache.connect import connect_redis
from streams.cache.redis import PartitionWriter
from streams.failstop import FailStop
from streams.kafka.admin import ensure_topics, topic_ids
from streams.kafka.app import discard_foreign_store, disown_store, page_table, run_folder, worker_app
from streams.kafka.checkpoint import Checkpoints
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.deadletter import DeadLetters
from streams.kafka.instruments import InstrumentDirectory
from streams.kafka.ownership import Ownership
from streams.kafka.recovery import Phase, Recovery
from streams.kafka.room import Room
from streams.kafka.transport import Rounds, RoundTransport
from streams.lag import LoopLag
from streams.log import event
from streams.settings import Settings
from streams.topics import FRAMES, JSON_TICKS, TOPICS, WRITES, changelog
from streams.warm import compile_worker
from streams.watchdog import Watchdog

log = logging.getLogger(__name__)

WATCH_S = 0.2
STOP_S = 10.0  # Faust's own stop is given this long; state is durable before it begins


class Worker:
    """One worker process: `async with Worker(settings) as worker: await worker.failed()`.

    Fail-stop: an error in a round or a barrier ends the worker, because the log has everything that it did not commit.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.failstop = FailStop(self._commit_nothing)
        self._began = time.monotonic()
        self._lag = LoopLag()
        self._passed: dict[str, float] = {}

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start; returns before partitions are assigned (`ready` tells).

        Raises:
            ServiceUnavailable: Kafka does not answer.
            ServiceSetupError: the port is taken.
            DiskFull: there is no room for tables.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        self._pass("imported")
        self.health = HealthServer(settings.worker.port, self.report)
        await self.health.start()
        compiling = asyncio.create_task(asyncio.to_thread(compile_worker))  # while Kafka answers
        # Faust would make the changelog too, but an assignor that does not see it yet assigns nothing, for good.
        await ensure_topics(settings, [*TOPICS, changelog(settings.worker.id)])
        prefix = settings.topics.prefix
        self.producer: AIOKafkaProducer = await start_producer(settings.kafka)
        self.directory = InstrumentDirectory(settings, producer=self.producer)
        await self.directory.start()
        self._pass("connected")
        self.redis = connect_redis(settings.redis)
        self.app = worker_app(settings)
        self.table = page_table(self.app, settings)
        writer = PartitionWriter(self.redis, url=settings.redis.url, prefix=prefix)
        self.coherence = Coherence(
            writer=writer,
            producer=self.producer,
            table=self.table,
            prefix=prefix,
            deadline_s=settings.kafka.request_timeout_s,
        )
        self.ownership = Ownership(settings, table=self.table, producer=self.producer, coherence=self.coherence)
        auditor = Auditor(
            self.ownership, self.coherence, self.table, self.redis, url=settings.redis.url, prefix=prefix
        )  # fmt: skip
        self.audit = AuditAgent(auditor, settings.audit.keys_per_s, ready=self._serves)
        self.watchdog = Watchdog(settings.worker.stall_timeout_s)
        self.recovery = Recovery(
            self.app, self.table, settings, watchdog=self.watchdog, n_owned=lambda: len(self.ownership.partitions)
        )
        self.rounds = Rounds(self._barrier, self.ownership.needed)
        self.app.transport = RoundTransport(self.app.conf.broker, self.app, self.rounds)
        self.agents = RoundAgents(self.app, self.rounds, prefix=prefix, watchdog=self.watchdog, failstop=self.failstop)
        await self._add_agents()
        self.assignment = Assignment(
            self.app, settings, table=self.table, ownership=self.ownership, recovery=self.recovery,
            failstop=self.failstop, passed=self._pass,
        )  # fmt: skip
        self.app.finalize()
        discard_foreign_store(self.app, await self.assignment.changelog_id())
        self._pass("prepared")
        self.table.data.on_failure = self.failstop.fail
        self.room = Room(Path(self.app.conf.tabledir), settings.worker.disk_reserve_mb << 20)
        if settings.worker.checkpoint_dir:
            folder = Path(settings.worker.checkpoint_dir) / run_folder(settings)
            self.table.data.checkpoints = Checkpoints(
                folder, settings.worker.checkpoint_interval_s, await self.assignment.changelog_id() or ""
            )
        await compiling
        self._pass("compiled")
        self.recovery.enter(Phase.JOINING)
        lasting = self.failstop.lasting
        self._tasks = [asyncio.create_task(lasting(self._watch()))]  # Faust waits for its group while it starts
        with self.watchdog.watching("the start of Faust"):
            await self.failstop.unless_failed(self.app.start())
        duties = Duties(
            ownership=self.ownership, coherence=self.coherence, watchdog=self.watchdog, prefix=prefix,
            log_ends=lambda: self.app.consumer.log_ends, serves=self._serves, may_write=lambda: not self.room.full,
        )  # fmt: skip
        works = (*duties.all(), self._watch_app(), self.audit.run())
        self._tasks += [asyncio.create_task(lasting(work)) for work in works]
        await self._lag.__aenter__()
        event(log, "worker_started", id=settings.worker.id, port=self.health.port, prefix=prefix)

    async def stop(self) -> None:
        """Finish the round in flight, make its state durable, commit, leave the group.

        A worker that failed commits nothing; one whose last barrier does not come to an end commits nothing either.
        """
        began = time.monotonic()
        if hasattr(self, "_tasks"):
            if self.failstop.reason is None:
                await self._bounded("last_barrier", self._finish(), self.settings.kafka.request_timeout_s)
            for task in self._tasks:
                task.cancel()
            await self._bounded("faust_stop", self.app.stop(), STOP_S)
        await self._lag.__aexit__()
        for part in ("directory", "producer", "redis", "health"):
            await self._bounded(f"{part}_stop", self._close(part), STOP_S)
        event(log, "worker_stopped", seconds=round(time.monotonic() - began, 3))

    async def _finish(self) -> None:
        async with self.ownership.lock:
            self.agents.draining = True
        await self.app.consumer.maybe_wait_for_commit_to_finish()  # it may have begun before the last round
        await self.app.consumer.commit()

    async def _bounded(self, what: str, waited: Awaitable[None], seconds: float) -> None:
        """Wait for a part of the stop; what it meets is logged, because the other parts have to stop too."""
        part = asyncio.ensure_future(waited)
        await asyncio.wait({part}, timeout=seconds)  # wait_for would also wait for the end of a cancelled part
        if not part.done():
            part.cancel()
            event(log, f"{what}_overdue", level=logging.WARNING, seconds=seconds)
        elif not part.cancelled() and (exc := part.exception()) is not None:
            event(log, f"{what}_failed", level=logging.WARNING, detail=str(exc))

    async def failed(self) -> BaseException:
        """Wait until the worker cannot go on; the reason."""
        return await self.failstop.failed()

    def report(self) -> dict[str, Any]:
        """What `/health` says."""
        owned = self.ownership.partitions if hasattr(self, "ownership") else {}
        behind = sorted({f"{space.value}/{o.number}" for o in owned.values() for space in o.redis_behind})
        full = hasattr(self, "room") and self.room.full
        ready, failed = self._ready, self.failstop.reason is not None
        status = "unhealthy" if failed or full else "degraded" if behind or not ready else "healthy"
        return {
            "status": status,
            "ready": ready and not failed,
            "pid": os.getpid(),
            "partitions": sorted(owned),
            "instruments": sum(len(o.market.slots) for o in owned.values()),
            "redis_behind": behind,
            "start_s": self._passed,
            "disk_full": full,
            "recovery": self.recovery.report() if hasattr(self, "recovery") else None,
            "uptime_s": round(time.monotonic() - self._began, 1),
        }

    def _pass(self, step: str) -> None:
        """Note when a step of the first start had been done, in seconds since the process began."""
        if step not in self._passed:
            self._passed[step] = round(process_age_s(), 3)

    @property
    def _ready(self) -> bool:
        return hasattr(self, "assignment") and self.assignment.ready

    def _serves(self) -> bool:
        return self._ready and self.failstop.reason is None

    async def _add_agents(self) -> None:
        settings, prefix = self.settings, self.settings.topics.prefix
        dead = DeadLetters(settings, producer=self.producer)
        ids = await topic_ids(settings, [prefix + JSON_TICKS])
        market = MarketAgent(
            ownership=self.ownership, coherence=self.coherence, rounds=self.rounds, directory=self.directory,
            dead=dead, producer=self.producer, prefix=prefix, carried_rows=settings.worker.invalidation_rows,
        )  # fmt: skip
        self.ownership.before_flush = market.announce
        gateway = GatewayAgent(
            settings, rounds=self.rounds, directory=self.directory, dead=dead, producer=self.producer,
            topic_id=ids[prefix + JSON_TICKS] or "",
        )  # fmt: skip
        persist = PersistAgent(
            ownership=self.ownership, coherence=self.coherence, rounds=self.rounds, dead=dead, table=self.table
        )
        self.agents.add("market", FRAMES, market.process)
        self.agents.add("gateway", JSON_TICKS, gateway.process, columnar=True)
        self.agents.add("persist", WRITES, persist.process)

    async def _barrier(self, commit_offsets: Mapping[TP, int]) -> None:
        await self.room.wait(lambda: self.agents.is_over or self.app.rebalancing)
        with self.watchdog.watching(f"a barrier of partitions {sorted({tp.partition for tp in commit_offsets})}"):
            await self.ownership.barrier(commit_offsets)

    def _commit_nothing(self) -> None:
        """Faust commits when it stops: a worker that failed, or was fenced, must not."""
        self.rounds.forget()

    async def _watch(self) -> None:
        """Each 200 ms: how far a recovery is, and whether anything stands still."""
        while self.failstop.reason is None:
            await asyncio.sleep(WATCH_S)
            self.recovery.look()
            if (overdue := self.watchdog.overdue()) is None:
                continue
            why = ""
            with contextlib.suppress(ServiceUnavailable, TimeoutError):
                async with asyncio.timeout(STOP_S):
                    why = await self.recovery.explain()
            self.failstop.fail(DeadlineExceeded(overdue + why))

    async def _watch_app(self) -> None:
        await self.app._crashed.wait()
        if isinstance(self.app.crash_reason, ConsistencyError):
            disown_store(self.app)
        self.failstop.fail(self.app.crash_reason or RuntimeError("Faust stopped without a reason"))

    async def _close(self, part: str) -> None:
        match part, getattr(self, part, None):
            case _, None:
                return
            case "producer", producer:
                await stop_client(producer)
            case "redis", redis:
                await redis.aclose()
            case _, service:
                await service.stop()
