"""What a reader of invalidations has heard, and what it must not believe: fencing, gaps, proven freshness.

Rules 1, 11 and 12 of the protocol, decided without I/O; one `Continuity` serves all partitions of a reader.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from models.cache.invalidation import Invalidation, Source


class Verdict(Enum):
    IN_ORDER = "in_order"  # also when it overlaps what was heard: normal after a take-over
    GAP = "gap"  # something between the own position and the record's start was never heard
    FENCED = "fenced"  # an owner that lost its partition speaks: not to be believed


class Heard(msgspec.Struct):
    """What was heard of one source topic in one partition.

    Attributes:
        token: newest owner token.
        position: version up to which every change was heard; None when the log lost records and any start is good.
    """

    token: int
    position: int | None


class Continuity:
    """State by (partition, source). `judge` reads it, `advance` writes it once the reader has dealt with the record.

    Args:
        max_skew_ns: a watermark further than this ahead of the reader's clock voids what was proven before.
    """

    def __init__(self, max_skew_ns: int) -> None:
        self._max_skew_ns = max_skew_ns
        self._heard: dict[tuple[int, Source], Heard] = {}
        self._watermark_ns: dict[tuple[int, Source], int] = {}

    def __repr__(self) -> str:
        return f"Continuity({', '.join(f'p{p}/{s.name}: {h}' for (p, s), h in self._heard.items())})"

    def judge(self, partition: int, record: Invalidation) -> Verdict:
        """Whether the record may be believed and follows what was heard; the first one heard always does."""
        heard = self._heard.get((partition, record.source))
        if heard is None:
            return Verdict.IN_ORDER
        if record.token < heard.token:
            return Verdict.FENCED
        if heard.position is not None and record.from_version > heard.position:
            return Verdict.GAP
        return Verdict.IN_ORDER

    def advance(self, partition: int, record: Invalidation, now_ns: int) -> None:
        """Take in a record that was judged, is not fenced and has been dealt with.

        Args:
            now_ns: the reader's clock, UTC ns.
        """
        at = (partition, record.source)
        heard = self._heard.get(at)
        if heard is None:
            self._heard[at] = Heard(record.token, record.to_version)
        else:
            heard.token = record.token
            heard.position = record.to_version if heard.position is None else max(heard.position, record.to_version)
        if record.watermark_ns > now_ns + self._max_skew_ns:
            self._watermark_ns.pop(at, None)
        elif record.watermark_ns > 0:
            # once everything up to a moment was heard that stays so, whatever a slower next owner says
            self._watermark_ns[at] = max(record.watermark_ns, self._watermark_ns.get(at, 0))

    def position(self, partition: int, source: Source) -> int | None:
        """Version up to which every change was heard; None while there is none to compare with."""
        heard = self._heard.get((partition, source))
        return heard.position if heard else None

    def freshness_ns(self, partition: int, source: Source) -> int | None:
        """UTC ns up to which everything the source partition held is known to have been heard; None = not proven."""
        return self._watermark_ns.get((partition, source))

    def doubt(self, partition: int) -> None:
        """A gap: nothing about this partition is proven until a later record proves it."""
        for source in Source:
            self._watermark_ns.pop((partition, source), None)

    def forget(self, partition: int) -> None:
        """Records of the log itself were lost: no position is worth comparing with, only the tokens still count."""
        self.doubt(partition)
        for source in Source:
            if heard := self._heard.get((partition, source)):
                heard.position = None

    def snapshot(self, partition: int) -> dict[str, Heard]:
        """What `restore` needs, by name of the source. Watermarks stay out: a proof does not outlive its process."""
        return {s.name: Heard(h.token, h.position) for (p, s), h in self._heard.items() if p == partition}

    def restore(self, partition: int, heard: dict[str, Heard]) -> None:
        """Go on from a snapshot.

        Raises:
            KeyError: it names a source that does not exist.
        """
        for name, state in heard.items():
            self._heard[partition, Source[name]] = Heard(state.token, state.position)
