"""A process that answers thousands of open sessions out of one reader, open loop: each request is due at its time."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from agents.bench.child import hear_parent, tell_parent
from agents.bench.heard import wait_synced
from agents.cli.output import run
from models.cache.keys import Space
from models.cache.policy import Reason
from models.errors import MarketPrismError
from models.perf.sessions import Ask, Asks, ReaderSessions, busiest_s
from models.perf.ticks import SeededTicks
from streams.client.reader import MarketCache
from streams.settings import Settings, load_settings

_DETAIL = ("quote", "trade")
_DRAIN_S = 30.0
_TURN_S = 0.001  # uvloop's timers count whole milliseconds: a shorter sleep is none, and the loop would spin


@dataclass
class Answers:
    """What became of the requests.

    Attributes:
        late_ns: of each one that counts, answered less due.
        empty: keys that had no value although every instrument has one.
        failed: requests that raised.
    """

    late_ns: list[int] = field(default_factory=list)
    n_keys: int = 0
    empty: int = 0
    failed: int = 0


class Desk:
    """Answers requests when they are due, whatever became of those before."""

    def __init__(self, cache: MarketCache, sessions: ReaderSessions, texts: Sequence[str]) -> None:
        self._cache = cache
        self._lists = [
            tuple(f"md:{texts[instrument]}:quote" for instrument in row[row >= 0].tolist()) for row in sessions.lists
        ]
        self._details = [tuple(f"md:{text}:{facet}" for facet in _DETAIL) for text in texts]
        self._tasks: set[asyncio.Task[None]] = set()
        self.answers = Answers()

    async def serve(self, asks: Asks, start_s: float, start_ns: int | None = None) -> None:
        """All of them; returns when all are answered.

        Args:
            start_s: in the time of the requests.
            start_ns: the same instant of `time.monotonic_ns`; None = when all requests are laid out, which takes some
                20 ms that nobody asked for.
        """
        keys = [
            self._lists[session] if kind == Ask.LIST else self._details[instrument]
            for session, kind, instrument in zip(
                asks.session.tolist(), asks.kind.tolist(), asks.instrument.tolist(), strict=True
            )
        ]
        start_ns = time.monotonic_ns() if start_ns is None else start_ns
        due_ns = (start_ns + (asks.due_s - start_s) * 1e9).astype(np.int64).tolist()
        done = 0
        while done < len(due_ns):
            now_ns = time.monotonic_ns()
            while done < len(due_ns) and due_ns[done] <= now_ns:
                task = asyncio.create_task(self._answer(keys[done], due_ns[done]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                done += 1
            if done < len(due_ns):
                await asyncio.sleep(max(_TURN_S, (due_ns[done] - time.monotonic_ns()) / 1e9))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_DRAIN_S)

    async def _answer(self, keys: Sequence[str], due_ns: int) -> None:
        answers = self.answers
        entries = await self._cache.get_many(keys)
        if any(isinstance(entry, MarketPrismError) for entry in entries):
            answers.failed += 1
            return
        answers.late_ns.append(time.monotonic_ns() - due_ns)
        answers.n_keys += len(keys)
        answers.empty += entries.count(None)


async def poll(
    settings: Settings, *, sessions: int, instruments: int, seconds: float, warm_up_s: float, seed: int
) -> None:
    """Open the sessions, wait for the word, answer them for so long; tell how late the answers were."""
    workload = ReaderSessions(sessions, instruments, seed=seed)
    start_s = busiest_s()
    warm_up, counted = workload.asks(start_s - warm_up_s, start_s), workload.asks(start_s, start_s + seconds)
    texts = [instrument.text for instrument in SeededTicks(instruments).instruments]
    async with MarketCache(settings) as cache:
        await wait_synced(cache, (Space.MARKET,), settings.kafka.partitions)
        desk = Desk(cache, workload, texts)
        gc.collect()
        gc.freeze()
        tell_parent(polls=int((counted.kind == Ask.LIST).sum()), looks=int((counted.kind == Ask.DETAIL).sum()))
        await hear_parent()
        await desk.serve(warm_up, start_s - warm_up_s)
        tell_parent(warm=True)
        desk.answers = answers = Answers()
        stats = cache.memory.stats
        hits, requests, evicted = stats.hits, stats.requests, stats.left[Reason.CAPACITY]
        used, began = time.process_time(), time.monotonic()
        await desk.serve(counted, start_s)
        used, took = time.process_time() - used, time.monotonic() - began
        late_ms = np.percentile(answers.late_ns, [50, 99, 99.9, 100]) / 1e6 if answers.late_ns else np.zeros(4)
        tell_parent(
            due=len(counted.due_s), answered=len(answers.late_ns), failed=answers.failed, empty=answers.empty,
            late_ms=late_ms.tolist(), keys=answers.n_keys, hits=stats.hits - hits, requests=stats.requests - requests,
            evicted=stats.left[Reason.CAPACITY] - evicted, bytes=cache.memory.bytes, held=len(cache.memory),
            cpu_s=used, seconds=took,
        )  # fmt: skip
        await hear_parent()


if __name__ == "__main__":
    run(poll(load_settings(), **orjson.loads(sys.argv[1])))
