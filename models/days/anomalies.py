"""Anomalies that are planted into a generated day, and the labels that tell where: the truth for a detector."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from models.days import trading
from models.days.draws import Draws, Ints

KINDS = ("price_spike", "volume_burst", "spread_blowout", "stale_feed", "crossed_book", "sequence_gap")
_MS, _S = 10**6, 10**9
_GAPS_STALE = 60  # a feed is stale when it is silent for so many usual gaps between its messages


class Label(msgspec.Struct, frozen=True):
    """One planted anomaly.

    Attributes:
        start_ns, end_ns: venue time (ts_event), ns UTC, both included up to the grid of the venue's clock.
        rows: how many rows it made; a stale feed makes none.
        first_seq, last_seq: of those rows, which other instruments' rows may lie between; 0 = none.
        parameters: by kind, see docs/days.md.
    """

    instrument: str
    kind: str
    start_ns: int
    end_ns: int
    rows: int
    first_seq: int
    last_seq: int
    parameters: dict[str, int | float]


@dataclass(frozen=True)
class Planted:
    """A plan: steps are (ns, command of the kernel, value); between `mute` the market's own messages are left out.

    All times are ns since the day's start.
    """

    kind: str
    who: int
    start: int
    end: int
    parameters: dict[str, int | float]
    steps: tuple[tuple[int, int, int], ...]
    mute: tuple[int, int] | None = None


def plan(n: int, counts: Ints, duration_s: int, draws: Draws) -> list[Planted]:
    """Plan n anomalies: each in an equal part of the day, kinds in turn, symbols among the busiest quarter."""
    begin = duration_s * _S // 20  # nothing is planted in the first and last twentieth of the day
    part = duration_s * 900 // max(n, 1) * _MS
    planted = []
    first_kind = draws.between(0, len(KINDS) - 1)
    for number in range(n):
        kind = KINDS[(first_kind + number) % len(KINDS)]
        who = draws.between(0, (len(counts) - 1) // 4)
        start = begin + number * part + draws.between(0, part // 4 // _MS) * _MS
        room = part // 2
        usual_gap = duration_s * 1000 // max(int(counts[who]), 1) * _MS
        planted.append(_PLANS[kind](who, start, room, usual_gap, draws))
    return planted


def _price_spike(who: int, start: int, room: int, usual_gap: int, draws: Draws) -> Planted:
    """Prints far from the market, which itself does not move."""
    n = draws.between(3, 8)
    length = min(draws.between(50, 500) * _MS, room)
    off = draws.between(200, 800) * (1 if draws.between(0, 1) else -1)
    at = sorted({0, length, *(draws.below(length, n - 2).tolist())})
    steps = tuple((start + t, trading.PRINT, off) for t in at)
    return Planted("price_spike", who, start, start + length, {"deviation": off / 10_000, "prints": len(at)}, steps)


def _volume_burst(who: int, start: int, room: int, usual_gap: int, draws: Draws) -> Planted:
    n, factor = draws.between(40, 120), draws.between(4, 10)
    length = min(draws.between(1_000, 5_000) * _MS, room)
    at = sorted({0, length, *(draws.below(length, n - 2).tolist())})
    steps = tuple((start + t, trading.BURST, factor) for t in at)
    return Planted("volume_burst", who, start, start + length, {"orders": len(at), "size_factor": factor}, steps)


def _spread_blowout(who: int, start: int, room: int, usual_gap: int, draws: Draws) -> Planted:
    factor = draws.between(10, 25)
    length = min(draws.between(2_000, 20_000) * _MS, room)
    steps = ((start, trading.WIDEN, factor), (start + length, trading.NARROW, 0))
    return Planted("spread_blowout", who, start, start + length, {"spread_factor": factor}, steps)


def _stale_feed(who: int, start: int, room: int, usual_gap: int, draws: Draws) -> Planted:
    length = min(max(60 * _S, _GAPS_STALE * usual_gap), room)
    end = start + length
    return Planted("stale_feed", who, start, end, {"seconds": length / _S}, (), mute=(start, end))


def _crossed_book(who: int, start: int, room: int, usual_gap: int, draws: Draws) -> Planted:
    ticks = draws.between(1, 5)
    length = min(draws.between(20, 500) * _MS, room)
    end = start + length
    steps = ((start, trading.CROSS, ticks), (end, trading.UNCROSS, 0))
    return Planted("crossed_book", who, start, end, {"ticks": ticks}, steps, mute=(start, end))


def _sequence_gap(who: int, start: int, room: int, usual_gap: int, draws: Draws) -> Planted:
    """Diffs get lost; the next one shows it; a snapshot comes after a while."""
    n = draws.between(3, 20)
    length = min(draws.between(100, 2_000) * _MS, room)
    steps = ((start, trading.LOSE, n), (start, trading.SHOW, 0), (start + length, trading.SNAPSHOT, 0))
    return Planted("sequence_gap", who, start, start + length, {"lost_diffs": n}, steps)


_PLANS = {
    "price_spike": _price_spike,
    "volume_burst": _volume_burst,
    "spread_blowout": _spread_blowout,
    "stale_feed": _stale_feed,
    "crossed_book": _crossed_book,
    "sequence_gap": _sequence_gap,
}
