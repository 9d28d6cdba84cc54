"""What a reader of invalidations is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from models.cache.invalidation import Invalidation, Source


class GapReason(StrEnum):
    VERSIONS = "versions"  # a record starts after what was heard: announcements between them never came (rule 12)
    LOG_CUT = "log_cut"  # retention took invalidations that were not read yet
    RECREATED = "recreated"  # the topic of invalidations is another one than the positions belong to
    CORRUPT = "corrupt"  # a record cannot be read, so what it named is unknown


@dataclass(frozen=True, slots=True)
class Changed:
    """Keys changed. `offset` is the record's own, in the topic of invalidations."""

    partition: int
    offset: int
    record: Invalidation


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing changed since; the record's version is applied and its watermark proven."""

    partition: int
    offset: int
    record: Invalidation


@dataclass(frozen=True, slots=True)
class Gap:
    """Something was missed: drop what is held of this partition, or read it back.

    Attributes:
        source: the source topic that was missed, None for both.
        expected: where the reader stood: a version for reason `versions`, else an offset in the invalidations.
        got: where it goes on, likewise.
    """

    partition: int
    source: Source | None
    expected: int
    got: int
    reason: GapReason


Event = Changed | Heartbeat | Gap


@dataclass
class Counts:
    """What a consumer met since it started."""

    records: int = 0  # all that were read
    changes: int = 0
    heartbeats: int = 0
    keys: int = 0  # instruments and generic keys, tags and namespaces that were named
    gaps: int = 0
    fenced: int = 0  # dropped: an owner that lost its partition
    corrupt: int = 0
