"""A publisher process paced open loop: a tick is due at its place in time, whatever became of those before it."""

from __future__ import annotations

import asyncio
import gc
import sys

import numpy as np
import orjson
from numpy.typing import NDArray

from agents.bench.child import hear_parent, tell_parent
from agents.cli.output import run
from models.market.tick import Flag, TickArray
from models.perf.latency import as_live, due_times
from models.perf.ticks import SeededTicks
from streams.client.publisher import TickPublisher
from streams.clock import now_ns
from streams.settings import Settings, load_settings

_STEP_S = 0.001  # what fell due since is handed to the publisher, as a venue's connection would
_HEAD_START_NS = 250_000_000  # the ticks get their times meanwhile


async def produce(settings: Settings, *, instruments: int, seed: int, rate: int, ticks: int) -> None:
    """Publish the opening, wait for the word, then `ticks` ticks at `rate` a second; tells offsets and lateness."""
    source = SeededTicks(instruments, seed=seed)
    async with TickPublisher(settings) as publisher:
        ids = await publisher.define(source.instruments)
        if ids != list(range(instruments)):
            raise ValueError("a run begins with empty topics")
        await publisher.publish(source.opening())
        await publisher.flush()
        rows = np.concatenate(list(source.batches(ticks)))
        gc.collect()
        gc.freeze()
        tell_parent(offsets=publisher.offsets)
        await hear_parent()
        start_ns = now_ns() + _HEAD_START_NS
        tell_parent(start_ns=start_ns)
        due_ns = due_times(start_ns, rate, ticks)
        late_ns = await _pace(publisher, as_live(rows, due_ns), due_ns, rate)
        await publisher.flush()
        late_ms = np.percentile(late_ns, [50, 99, 100]) / 1e6
        tell_parent(offsets=publisher.offsets, late_ms=late_ms.tolist())
        await hear_parent()


async def _pace(publisher: TickPublisher, rows: TickArray, due_ns: NDArray[np.int64], rate: int) -> list[int]:
    """Hand over whole events once their last row is due; how late the first row of each step was, ns."""
    ends = np.append(0, np.flatnonzero(rows["flags"] & np.uint8(Flag.LAST)) + 1)
    start_ns = int(due_ns[0])
    late_ns: list[int] = []
    sent = 0
    while sent < len(rows):
        now = now_ns()
        n_due = max((now - start_ns) * rate // 1_000_000_000 + 1, 0)
        end = int(ends[np.searchsorted(ends, n_due, side="right") - 1])
        if end > sent:
            late_ns.append(now - int(due_ns[sent]))
            await publisher.publish(rows[sent:end], due_ns=due_ns[sent:end])
            sent = end
        await asyncio.sleep(_STEP_S)
    return late_ns


if __name__ == "__main__":
    run(produce(load_settings(), **orjson.loads(sys.argv[1])))
