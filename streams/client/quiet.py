"""Quiet partitions of a live source: they are told how far its time has come, so that their windows close (rule 15)."""

from __future__ import annotations

from collections.abc import Iterable

from models.windows.window import GRACE_NS, INTERVALS_S, SECOND_NS

QUIET_S = 1.0
# Rows received longer ago are of another time: the rest of it may come later, instrument after instrument.
LIVE_NS = 5 * SECOND_NS
# A source that has been silent for this long has nothing left to close.
_SILENT_S = INTERVALS_S[-1] + GRACE_NS / SECOND_NS + 2 * QUIET_S


class QuietPartitions:
    """Remembers when a source last wrote to each partition and how far its rows' `ts_recv` has come.

    Times `at_s` are those of any clock that does not go back.
    """

    def __init__(self, n_partitions: int) -> None:
        self._written_at_s = [float("inf")] * n_partitions  # quiet counts from the source's first row on
        self._recv_ns = 0
        self._recv_at_s = float("-inf")
        self._live = True

    def wrote(self, partitions: Iterable[int], recv_ns: int, *, now_ns: int, at_s: float) -> None:
        """Frames went to these partitions at `now_ns`; `recv_ns` is the newest `ts_recv` in them."""
        self._live = abs(now_ns - recv_ns) <= LIVE_NS
        if self._recv_at_s == float("-inf"):
            self._written_at_s = [at_s] * len(self._written_at_s)
        for partition in partitions:
            self._written_at_s[partition] = at_s
        if recv_ns >= self._recv_ns:
            self._recv_ns, self._recv_at_s = recv_ns, at_s

    def due(self, at_s: float) -> dict[int, int]:
        """Partitions without a frame for QUIET_S, and the watermark that each may have, ns UTC."""
        if not self._live or at_s - self._recv_at_s > _SILENT_S:
            return {}
        watermark_ns = self._recv_ns + int((at_s - self._recv_at_s) * SECOND_NS) - GRACE_NS
        quiet = [n for n, written_at_s in enumerate(self._written_at_s) if at_s - written_at_s >= QUIET_S]
        for partition in quiet:
            self._written_at_s[partition] = at_s
        return dict.fromkeys(quiet, watermark_ns)
