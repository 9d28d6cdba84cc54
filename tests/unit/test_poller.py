"""The desk that answers sessions: everything is asked for, and late counts from the due time."""

from __future__ import annotations

import time

import pytest

from agents.bench.poller import Desk
from models.cache.coherence import PartitionView
from models.cache.keys import locate
from models.perf.sessions import Ask, ReaderSessions, busiest_s
from models.perf.ticks import SeededTicks
from streams.cache.held import Held
from streams.client.reader import MarketCache
from streams.settings import Settings

N = 60


@pytest.fixture
def cache() -> MarketCache:
    """All quotes and trades are in memory, so no service is asked."""
    cache, view = MarketCache(Settings()), PartitionView(8)
    for instrument in SeededTicks(N).instruments:
        for facet in ("quote", "trade"):
            at = locate(f"md:{instrument.text}:{facet}", prefix="", n_partitions=4)
            cache.memory.put(
                Held(at, view, 5, 5, row=(1).to_bytes(8, "little") * 8 + bytes((0, 0, at.key.facet)) + bytes(5))
            )
    return cache


async def test_every_request_is_answered_and_late_by_when_it_was_due(cache: MarketCache) -> None:
    sessions = ReaderSessions(50, N, seed=1)
    asks = sessions.asks(busiest_s(), busiest_s() + 3)
    desk = Desk(cache, sessions, [instrument.text for instrument in SeededTicks(N).instruments])
    began_ns = time.monotonic_ns() - 20 * 10**9  # as if all of it had waited behind a stall
    await desk.serve(asks, busiest_s(), began_ns)
    answers = desk.answers
    assert len(answers.late_ns) == len(asks.due_s) > 50
    assert (answers.failed, answers.empty) == (0, 0)
    sizes = (sessions.lists >= 0).sum(1)
    polls = asks.kind == Ask.LIST
    assert answers.n_keys == sizes[asks.session[polls]].sum() + 2 * (~polls).sum()
    first_s = 20 - (asks.due_s.max() - busiest_s())
    assert min(answers.late_ns) > first_s * 1e9
    assert max(answers.late_ns) > (20 - (asks.due_s.min() - busiest_s())) * 1e9
