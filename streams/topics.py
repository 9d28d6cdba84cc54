"""The one table of topics: names, partitions, policies; and their explicit creation (auto-creation is off)."""

from __future__ import annotations

from dataclasses import dataclass, field

HOUR_MS = 3_600_000
MAX_RECORD_BYTES = 8 << 20


@dataclass(frozen=True)
class Topic:
    """One topic. `partitioned` ones have P partitions, the others one."""

    name: str
    partitioned: bool = True
    config: dict[str, str] = field(default_factory=dict)


def _delete(hours: int, **more: str) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(hours * HOUR_MS),
        "max.message.bytes": str(MAX_RECORD_BYTES),
        "message.timestamp.type": "LogAppendTime",  # rule 11: a watermark needs the broker's clock
        **{k.replace("_", "."): v for k, v in more.items()},
    }


def _compact() -> dict[str, str]:
    # min.compaction.lag: rule 1, a record that recovery must prefer over a zombie's newer one has to be there still
    return {"cleanup.policy": "compact", "min.compaction.lag.ms": "600000", "max.message.bytes": str(MAX_RECORD_BYTES)}


FRAMES = "md.frames.v1"
JSON_TICKS = "md.json.v1"
INSTRUMENTS = "md.instruments.v1"
DEAD = "md.dead.v1"
REQUESTS = "md.requests.v1"
WRITES = "cache.writes.v1"
INVALIDATIONS = "cache.invalidations.v1"
LATE = "md.late.v1"
WINDOWS = "metrics.windows.v1"

TOPICS = (
    Topic(FRAMES, config=_delete(24, retention_bytes=str(8 << 30))),
    Topic(JSON_TICKS, config=_delete(24)),
    Topic(INSTRUMENTS, partitioned=False, config=_compact()),
    Topic(DEAD, partitioned=False, config=_delete(7 * 24)),
    Topic(REQUESTS, partitioned=False, config=_delete(1)),
    Topic(WRITES, config=_delete(7 * 24)),
    Topic(INVALIDATIONS, config=_delete(1)),
    Topic(LATE, config=_delete(7 * 24)),
    Topic(WINDOWS, config=_delete(24, retention_bytes=str(8 << 30))),
)


def changelog(worker_id: str) -> Topic:
    """State pages of a group of workers, under the name that Faust gives its tables' changelogs."""
    return Topic(f"{worker_id}-pages-changelog", config=_compact())
