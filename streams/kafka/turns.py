"""When the next fetch may leave, and what the answers so far prove of the log."""

from __future__ import annotations

from collections.abc import Mapping

from faust.types import TP

GATHER_S = 0.004  # uvloop's timers count in ms; below `publisher.frame_ms`, so a publisher's frames make one round


class FetchTurns:
    """Fetches leave `gather_s` apart, so that the broker gathers what comes meanwhile for all partitions.

    A socket send costs 50-100 us of CPU, and each answer begins a round with three sends of its own. While the log
    holds more than was read nothing waits.

    Attributes:
        ends: by partition: when a fetch was sent, UTC ns, and the log's end that its answer told. Everything the log
            held at that moment lies before that end: whoever applied all of it is as fresh as that (rule 11).
        behind: topics of which a log is known to hold more than was read.
    """

    def __init__(self, gather_s: float = GATHER_S) -> None:
        self.ends: dict[TP, tuple[int, int]] = {}
        self._gather_s = gather_s
        self._next_at: dict[int, float] = {}
        self.behind: frozenset[str] = frozenset()

    def wait_s(self, broker: int, now: float) -> float:
        """How long a fetch from this broker has to wait yet, monotonic seconds; 0 = it may leave."""
        return 0.0 if self.behind else max(0.0, self._next_at.get(broker, 0.0) - now)

    def asked(self, broker: int, now: float) -> None:
        """A fetch leaves."""
        self._next_at[broker] = now + self._gather_s

    def answered(self, tp: TP, sent_ns: int, end: int) -> None:
        """The answer to a fetch that was sent at an instant said where the partition ends (exclusive)."""
        self.ends[tp] = sent_ns, end

    def read(self, next_offsets: Mapping[TP, int]) -> None:
        """Records up to these offsets (exclusive) were taken; whether the log holds more decides about waiting."""
        ends = self.ends
        self.behind = frozenset(tp.topic for tp, offset in next_offsets.items() if tp in ends and offset < ends[tp][1])
