"""What a replay tells: where it paused, and what it sent."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

LATENESS_BOUND_MS = 20.0  # a few windows of `publisher.frame_ms`, and the turns of a busy loop


@dataclass(frozen=True)
class Pause:
    """Everything up to row `seq` is acknowledged; `offsets` has the newest offset of each partition."""

    seq: int
    offsets: dict[int, int]


@dataclass
class Sent:
    """What left; the control rows that begin and end a run are not counted, nor their frames.

    Attributes:
        rows: of the market, each once.
        frames: with those of repetitions and of control rows about faults.
        rows_lost, rows_repeated: by faults.
        gaps: how often a consumer of the frames finds that something before is missing.
        lateness_ns: by frame, from when its last row was due to when it was handed to Kafka.
    """

    rows: int = 0
    frames: int = 0
    rows_lost: int = 0
    rows_repeated: int = 0
    gaps: int = 0
    lateness_ns: array[int] = field(default_factory=lambda: array("q"))


class FaultDone(msgspec.Struct, frozen=True):
    """What fault `number` (from 1) of the plan did."""

    number: int
    fault: str
    events: int
    rows: int


@dataclass(frozen=True)
class ReplayReport:
    """What was sent.

    Attributes:
        rows: rows of the market that this process sent, each once; control rows are not counted.
        frames: frames they took, with those of faults.
        seconds: from the first row to the last acknowledgement, pauses left out.
        lateness_p50_ms, lateness_p99_ms, lateness_max_ms: over frames, from when a frame's last row was due to when it
            was handed to Kafka; 0 at maximum speed, where nothing has a due time.
        digest: what the stream ends in (models.market.digest); None if it was not asked for.
        offsets: partition -> offset of its last frame, the one that ends the run.
        prefix: of the run's topics and keys.
        valid: whether the 99th percentile of lateness kept its bound: otherwise the run says nothing about latencies.
        state: `done`, or `stopped` before the end.
        rounds: how often the stream was sent to its end.
        rows_lost, rows_repeated, gaps: by faults: rows that no frame has, rows that two frames have, and how often a
            consumer finds a hole in the positions.
        faults: what each fault of the plan did.
    """

    run_id: str
    prefix: str
    rows: int
    frames: int
    seconds: float
    rows_per_s: float
    lateness_p50_ms: float
    lateness_p99_ms: float
    lateness_max_ms: float
    digest: str | None
    offsets: dict[int, int]
    lateness_bound_ms: float = LATENESS_BOUND_MS
    valid: bool = True
    state: Literal["done", "stopped"] = "done"
    rounds: int = 1
    rows_lost: int = 0
    rows_repeated: int = 0
    gaps: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls, sent: Sent, *, seconds: float, offsets: Mapping[int, int], lateness_bound_ms: float,
        faults: Sequence[FaultDone], **told: Any,
    ) -> ReplayReport:  # fmt: skip
        """From what left; `told` are the other fields."""
        late = np.percentile(sent.lateness_ns, (50, 99, 100)) / 1e6 if sent.lateness_ns else np.zeros(3)
        p50, p99, highest = late.round(3).tolist()
        return cls(
            rows=sent.rows,
            frames=sent.frames,
            seconds=round(seconds, 6),
            rows_per_s=round(sent.rows / seconds, 1),
            lateness_p50_ms=p50,
            lateness_p99_ms=p99,
            lateness_max_ms=highest,
            offsets=dict(sorted(offsets.items())),
            lateness_bound_ms=lateness_bound_ms,
            valid=p99 <= lateness_bound_ms,
            rows_lost=sent.rows_lost,
            rows_repeated=sent.rows_repeated,
            gaps=sent.gaps,
            faults=[msgspec.to_builtins(done) for done in faults],
            **told,
        )
