"""The shape of a day: how bursty one instrument's messages are, at scales from 1 ms to minutes, against a real one's.

A message is an event (one row, or several up to flag LAST), placed by its time of receipt.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.market.tick import Action, Flag, Kind, Side, TickArray

_MS = 1_000_000
WIDTHS_MS = (1, 10, 100, 1_000, 10_000, 60_000, 300_000)
MINUTE_NS = 60_000 * _MS


class BinShape(msgspec.Struct, frozen=True):
    """Messages per bin of one width, counted over all bins from the first message's to the last one's.

    Attributes:
        burst: 99.9th percentile (linear between counts) over the mean.
        empty: share of bins without a message, 0..1.
        fano: variance over mean; 1 at every width for a Poisson process.
        counts: (messages, bins that have so many), rising.
    """

    width_ms: int
    mean: float
    p999: float
    most: int
    burst: float
    empty: float
    fano: float
    counts: tuple[tuple[int, int], ...]


class Spread(msgspec.Struct, frozen=True):
    """Ask minus bid after each quote, as mantissas; `bps` is the mean of spread over middle, in 1/10,000."""

    quotes: int
    p5: float
    median: float
    p95: float
    mean: float
    bps: float


class Shape(msgspec.Struct, frozen=True):
    """What was found. `mix` counts the instrument's events by the kind of their last row, `events_of` everybody's.

    `minutes` has the instrument's messages of each minute from its first one's on.
    """

    instrument_id: int
    events: int
    seconds: float
    bins: tuple[BinShape, ...]
    mix: dict[str, int]
    spread: Spread | None
    first_minute_ns: int
    minutes: tuple[int, ...]
    events_of: tuple[int, ...]


class BinCounts:
    """Histogram of messages per bin, from sorted times that come in batches; memory as there are different counts."""

    def __init__(self, width_ns: int) -> None:
        self._width = width_ns
        self._counts: Counter[int] = Counter()
        self._first = self._open = -1
        self._n_open = 0

    def add(self, times: NDArray[np.int64]) -> None:
        """Count further messages; times in ns, not before the last one."""
        if not len(times):
            return
        bins = times // self._width
        starts = np.flatnonzero(np.append(True, bins[1:] != bins[:-1]))
        sizes = np.diff(np.append(starts, len(bins)))
        if self._first < 0:
            self._first = self._open = int(bins[0])
        if int(bins[0]) == self._open:
            sizes[0] += self._n_open
        elif self._n_open:
            self._counts[self._n_open] += 1
        values, n = np.unique(sizes[:-1], return_counts=True)
        self._counts.update(dict(zip(values.tolist(), n.tolist(), strict=True)))
        self._open, self._n_open = int(bins[-1]), int(sizes[-1])

    def finish(self) -> BinShape:
        """Raises: ValueError when there was no message."""
        if self._first < 0:
            raise ValueError("a shape needs messages")
        counts = self._counts + Counter({self._n_open: 1})
        n_bins = self._open - self._first + 1
        counts[0] = n_bins - counts.total()
        pairs = sorted((count, n) for count, n in counts.items() if n)
        value, n = np.array(pairs, np.float64).T
        mean = float((value * n).sum()) / n_bins
        p999 = quantile(value, n, 0.999)
        variance = float((value * value * n).sum()) / n_bins - mean * mean
        return BinShape(
            self._width // _MS, mean, p999, pairs[-1][0], p999 / mean, counts[0] / n_bins, variance / mean, tuple(pairs)
        )


def quantile(value: NDArray[np.float64], n: NDArray[np.float64], q: float) -> float:
    """Quantile of values (rising) that occur n times each, linear between neighbours as NumPy's default."""
    rank = q * (float(n.sum()) - 1.0)
    ends = np.cumsum(n)
    low, high = (float(value[np.searchsorted(ends, place, side="right")]) for place in (np.floor(rank), np.ceil(rank)))
    return low + (rank - float(np.floor(rank))) * (high - low)


class ShapeOf:
    """Looks at a day's rows, batch by batch, for one instrument; some 30 ns a row, memory bounded.

    Args:
        instrument_id: the instrument whose messages are counted.
        n_instruments: of the day.
    """

    def __init__(self, instrument_id: int, n_instruments: int) -> None:
        self._id = instrument_id
        self._bins = [BinCounts(width * _MS) for width in WIDTHS_MS]
        self._mix = np.zeros(256, np.int64)
        self._events_of = np.zeros(n_instruments, np.int64)
        self._first = self._last = 0
        self._events = 0
        self._minutes = np.zeros(0, np.int64)
        self._spread = _Spread()

    def add(self, ticks: TickArray) -> None:
        ids, ends = ticks["instrument_id"], (ticks["flags"] & Flag.LAST) != 0
        self._events_of += np.bincount(ids[ends & (ids >= 0)], minlength=len(self._events_of))
        ours = ticks[ids == self._id]
        self._spread.add(ours[ours["kind"] == Kind.QUOTE])
        ours = ours[(ours["flags"] & Flag.LAST) != 0]
        if not len(ours):
            return
        times = np.ascontiguousarray(ours["ts_recv"])
        if not self._events:
            self._first = int(times[0])
        self._last = int(times[-1])
        self._events += len(times)
        self._mix += np.bincount(ours["kind"], minlength=256)
        for bins in self._bins:
            bins.add(times)
        minute = times // MINUTE_NS - self._first // MINUTE_NS
        seen = np.bincount(minute, minlength=len(self._minutes))
        seen[: len(self._minutes)] += self._minutes
        self._minutes = seen

    def finish(self) -> Shape:
        """Raises: ValueError when the instrument has no message."""
        return Shape(
            self._id,
            self._events,
            (self._last - self._first) / 1e9,
            tuple(bins.finish() for bins in self._bins),
            {kind.name.lower(): int(self._mix[kind]) for kind in Kind if self._mix[kind]},
            self._spread.finish(),
            self._first // MINUTE_NS * MINUTE_NS,
            tuple(self._minutes.tolist()),
            tuple(self._events_of.tolist()),
        )


class _Spread:
    """Spread after each quote event that leaves both sides; a side stands until its next row."""

    def __init__(self) -> None:
        self._best = {Side.BID: 0, Side.ASK: 0}
        self._counts: Counter[int] = Counter()
        self._bps = 0.0

    def add(self, quotes: TickArray) -> None:
        if not len(quotes):
            return
        bid, ask = (self._standing(quotes, side) for side in (Side.BID, Side.ASK))
        whole = ((quotes["flags"] & Flag.LAST) != 0) & (bid > 0) & (ask > 0)
        bid, ask = bid[whole], ask[whole]
        values, n = np.unique(ask - bid, return_counts=True)
        self._counts.update(dict(zip(values.tolist(), n.tolist(), strict=True)))
        self._bps += float(((ask - bid) / (ask / 2 + bid / 2)).sum()) * 1e4

    def _standing(self, quotes: TickArray, side: Side) -> NDArray[np.int64]:
        """Best price of a side after each row, 0 where there is none."""
        row = np.where(quotes["side"] == side, np.arange(1, len(quotes) + 1), 0)
        gone = (quotes["action"] == Action.DELETE) | (quotes["size"] == 0)
        prices = np.append(self._best[side], np.where(gone, 0, quotes["price"]))
        standing = prices[np.maximum.accumulate(row)]
        self._best[side] = int(standing[-1])
        return np.asarray(standing, np.int64)

    def finish(self) -> Spread | None:
        total = self._counts.total()
        if not total:
            return None
        value, n = np.array(sorted(self._counts.items()), np.float64).T
        p5, median, p95 = (quantile(value, n, q) for q in (0.05, 0.5, 0.95))
        return Spread(total, p5, median, p95, float((value * n).sum()) / total, self._bps / total)


class Deviation(NamedTuple):
    """One number beside the real one; `deviation` is a share of it, for empty bins a difference."""

    name: str
    found: float
    real: float
    deviation: float
    tolerance: float

    @property
    def within(self) -> bool:
        return abs(self.deviation) <= self.tolerance


# AMZN 2012-06-21 09:30 to 16:00, every message down to level 5 (LOBSTER sample), 155,935 of them, 6.66 a second: all of
# these numbers depend on the rate, so they are a measure only for an instrument that is about as busy.
AMZN_EVENTS, AMZN_SECONDS = 155_935, 23_400
_BURST = {1: 300.0, 10: 135.0, 100: 58.0, 1_000: 20.0}
_EMPTY = {1: 0.996, 10: 0.974, 100: 0.840, 1_000: 0.315}
_FANO = {100: 14.5, 1_000: 25.0, 10_000: 51.0}


def against_amzn(shape: Shape) -> list[Deviation]:
    """Burst ratios (within 15 %), empty bins (within 0.02) and Fano factors (within 20 %) beside AMZN's."""
    bins = {entry.width_ms: entry for entry in shape.bins}
    rows = []
    for width, real in _BURST.items():
        found = bins[width].burst
        rows.append(Deviation(f"p99.9 / mean, {_text(width)}", found, real, found / real - 1, 0.15))
    for width, real in _EMPTY.items():
        found = bins[width].empty
        rows.append(Deviation(f"empty bins, {_text(width)}", found, real, found - real, 0.02))
    for width, real in _FANO.items():
        found = bins[width].fano
        rows.append(Deviation(f"Fano factor, {_text(width)}", found, real, found / real - 1, 0.20))
    return rows


def _text(width_ms: int) -> str:
    return f"{width_ms} ms" if width_ms < 1000 else f"{width_ms // 1000} s"
