"""A plan of faults applied to a stream of rows: the same rows come out for the same plan, however they were batched.

Faults of the market's side (reorder, delay, clock skew, disconnect, halt) change what is received and when, and happen
before rows are numbered. Faults of the way to the log (drop, duplicate) concern numbered rows: a dropped row's position
is missing afterwards. A control row (docs/wire.md) tells of each just before the rows it concerns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.days.draws import mix
from models.days.plan import (
    ClockSkew,
    Delay,
    Disconnect,
    Drop,
    Duplicate,
    Fault,
    FaultPlan,
    Halt,
    Reorder,
)
from models.days.received import Arrivals, Fate, Pool
from models.days.state import MarketState
from models.market.instruments import Instrument
from models.market.tick import TICK, Action, Flag, Kind, TickArray

_MS = 1_000_000
_HALTED = [int(kind) for kind in (Kind.TRADE, Kind.QUOTE, Kind.BOOK, Kind.ORDER, Kind.LIQUIDATION, Kind.BAR)]
_STANDS_AGAIN = [int(Kind.QUOTE), int(Kind.BOOK), int(Kind.ORDER)]
_PER_ROW = 4  # places in the order of rows received at the same instant: a row's own, and those before it
_OWN = 2
_TO_COME = -(2**63)  # a control row's positions are known when rows are numbered


class _Events(NamedTuple):
    """Events of a batch, one element each; an event is received with its last row."""

    lengths: NDArray[np.int64]  # rows
    arrival_ns: NDArray[np.int64]
    ids: NDArray[np.int32]
    kind: NDArray[np.uint8]
    seq: NDArray[np.uint64]  # of the last row


class FaultStream:
    """Applies a plan. Faulty rows cost about 1 us each.

    Args:
        instruments: what the rows' `instrument_id` indexes.
        first_ns: when the stream's first row is received; the plan's windows count from it.

    Attributes:
        n_events, n_rows: what each fault of the plan has concerned so far, int64[faults].

    Raises:
        InvalidFaultPlan: the plan names what the stream does not have.
    """

    def __init__(self, plan: FaultPlan, instruments: Sequence[Instrument], first_ns: int) -> None:
        self.plan = plan
        self.n_events = np.zeros(len(plan.faults), np.int64)
        self.n_rows = np.zeros(len(plan.faults), np.int64)
        self._hashes = np.array([i.hash for i in instruments], np.uint64).view(np.int64)
        self._targets = [fault.targets(instruments) for fault in plan.faults]
        self._windows = [fault.window_ns(first_ns) for fault in plan.faults]
        self._state = MarketState() if any(isinstance(f, Disconnect | Halt) for f in plan.faults) else None
        borders = [
            (at, end, number)
            for number, (fault, window) in enumerate(zip(plan.faults, self._windows, strict=True))
            if not isinstance(fault, Drop | Duplicate | Reorder)
            for end, at in enumerate(window)
        ]
        self._borders = sorted(borders, reverse=True)  # instants at which a fault begins (0) or ends (1), last first
        self._missed = np.zeros((len(plan.faults), len(instruments)), np.int64)  # rows not received, by instrument
        self._held = Pool.empty()
        self._seq = 0  # numbers given

    def apply(self, ticks: TickArray) -> Arrivals:
        """Take the next rows of the stream: TICK[n], whole events in order, `seq` dense from 1."""
        ends = np.flatnonzero(ticks["flags"] & np.uint8(Flag.LAST))
        arrival = ticks["ts_recv"][ends]
        lengths = np.diff(ends, prepend=-1)
        events = _Events(lengths, arrival, *(ticks[name][ends] for name in ("instrument_id", "kind", "seq")))
        gone = self._gone(events)
        pools = [self._held]
        begin = 0
        while self._borders and self._borders[-1][0] <= int(arrival[-1]):
            at, end, number = self._borders.pop()
            cut = int(np.searchsorted(arrival, at, "left"))
            row = int(ends[cut - 1]) + 1 if cut else 0
            if self._state is not None and row > begin:
                self._state.update(ticks[begin:row])
                begin = row
            pools += self._border(number, at, bool(end))
        if self._state is not None:
            self._state.update(ticks[begin:])
        pools += self._concern(ticks.copy(), events, gone)
        ready, self._held = Pool.joined(pools).until(int(arrival[-1]))
        return self._numbered(ready)

    def finish(self) -> Arrivals:
        """What is still on its way."""
        ready, self._held = self._held, Pool.empty()
        return self._numbered(ready)

    # -- what each fault does ------------------------------------------------------------------------------------------

    def _concern(self, ticks: TickArray, events: _Events, gone: NDArray[np.bool_]) -> list[Pool]:
        """The rows with every fault's effect on them, and the control rows that tell of single events."""
        late, fate = np.zeros(len(events.ids), np.int64), np.zeros(len(events.ids), np.uint8)
        told: list[tuple[int, NDArray[np.bool_]]] = []
        for number, fault in enumerate(self.plan.faults):
            if isinstance(fault, Disconnect | Halt):
                continue
            start, stop = self._windows[number]
            wanted = self._targets[number][events.ids] & ~gone & (events.arrival_ns >= start)
            hit = wanted & (events.arrival_ns < stop)
            match fault:
                case Delay():
                    delay = int(fault.delay_ms * _MS)
                    behind = wanted & ~hit & (events.arrival_ns < stop + delay)
                    late += np.where(hit, delay, np.where(behind, stop + delay - events.arrival_ns, 0))
                    hit |= behind
                case ClockSkew():
                    drift = ((events.arrival_ns - start) * (fault.drift_ppm / 1e6)).astype(np.int64)
                    skew = np.where(hit, int(fault.skew_ms * _MS) + drift, 0)
                    ticks["ts_event" if fault.clock == "venue" else "ts_recv"] += np.repeat(skew, events.lengths)
                case Reorder():
                    hit &= self._chosen(number, fault.share, events.seq)
                    late += np.where(hit, 1 + self._below(number, int(fault.within_ms * _MS), events.seq), 0)
                    told.append((number, hit))
                case Drop():
                    hit &= self._chosen(number, fault.share, events.seq)
                    fate[hit] = Fate.LOST
                    told.append((number, hit))
                case Duplicate():
                    hit &= self._chosen(number, fault.share, events.seq) & (fate != Fate.LOST)
                    fate[hit] = Fate.TWICE
                    told.append((number, hit))
            self._count(number, events, hit)
        ticks["ts_recv"] += np.repeat(late, events.lengths)
        arrival_ns, order = events.arrival_ns + late, events.seq.astype(np.int64) * _PER_ROW
        pools = [self._tell(number, hit, events.ids, arrival_ns, order) for number, hit in told]
        event = np.repeat(np.arange(len(gone)), events.lengths)  # of each row
        kept = ~gone[event]
        event = event[kept]
        rows = Pool(ticks[kept], events.ids[event], arrival_ns[event], order[event] + _OWN, fate[event])
        return [*pools, rows]

    def _gone(self, events: _Events) -> NDArray[np.bool_]:
        """Events that are never received."""
        gone = np.zeros(len(events.ids), np.bool_)
        for number, fault in enumerate(self.plan.faults):
            if not isinstance(fault, Disconnect | Halt):
                continue
            start, stop = self._windows[number]
            hit = self._targets[number][events.ids] & (events.arrival_ns >= start) & (events.arrival_ns < stop) & ~gone
            if isinstance(fault, Halt):
                hit &= np.isin(events.kind, _HALTED)
            gone |= hit
            np.add.at(self._missed[number], events.ids[hit], events.lengths[hit])
            self._count(number, events, hit)
        return gone

    def _count(self, number: int, events: _Events, hit: NDArray[np.bool_]) -> None:
        self.n_events[number] += int(hit.sum())
        self.n_rows[number] += int(events.lengths[hit].sum())

    def _tell(
        self,
        number: int,
        hit: NDArray[np.bool_],
        ids: NDArray[np.int32],
        arrival_ns: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> Pool:
        """A control row before each event that was hit."""
        rows = self._controls(number, ids[hit])
        rows["ts_event"] = rows["ts_recv"] = arrival_ns[hit]
        return Pool(rows, ids[hit], arrival_ns[hit], order[hit], None)

    def _border(self, number: int, at: int, end: bool) -> Iterator[Pool]:
        """A fault of a window begins or ends: a control row an instrument, and what the venue tells at this moment."""
        fault = self.plan.faults[number]
        ids = np.flatnonzero(self._targets[number]).astype(np.int32)
        rows = self._controls(number, ids)
        rows["ts_event"] = rows["ts_recv"] = at
        rows["price"] = not end
        rows["size"] = self._missed[number][ids] if end and isinstance(fault, Disconnect | Halt) else _amount(fault)
        yield Pool(rows, ids, np.full(len(ids), at), np.zeros(len(ids), np.int64), None)
        told = np.empty(0, TICK)
        if self._state is not None and isinstance(fault, Halt):
            told = self._state.rows(at, ids.tolist())
            told = told[np.isin(told["kind"], _STANDS_AGAIN)]
            told = told if end else _withdrawn(told)
        elif self._state is not None and isinstance(fault, Disconnect) and end and fault.snapshot:
            told = self._state.rows(at, ids.tolist())
        if len(told):
            yield Pool(told, told["instrument_id"].copy(), np.full(len(told), at), np.zeros(len(told), np.int64), None)

    def _controls(self, number: int, ids: NDArray[np.int32]) -> TickArray:
        """Control rows about a fault, counted from 0 here and from 1 on the wire; positions are still to come."""
        rows = np.zeros(len(ids), TICK)
        rows["instrument_id"], rows["kind"], rows["action"] = -1, Kind.CONTROL, Action.ADD
        rows["side"], rows["flags"] = self.plan.faults[number].code, Flag.LAST
        rows["venue_seq"], rows["ref_id"], rows["size"] = number + 1, self._hashes[ids], _TO_COME
        return rows

    def _chosen(self, number: int, share: float, seq: NDArray[np.uint64]) -> NDArray[np.bool_]:
        chosen: NDArray[np.bool_] = self._draw(number, 0, seq) < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        return chosen

    def _below(self, number: int, bound: int, seq: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (self._draw(number, 1, seq) % np.uint64(bound)).astype(np.int64)

    def _draw(self, number: int, use: int, seq: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """64 random bits for each row: by its number, so that batches do not matter."""
        stream = mix(np.array([self.plan.seed], np.uint64) + np.uint64(2 * number + use + 1))
        return mix(seq + stream)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _numbered(self, pool: Pool) -> Arrivals:
        n = len(pool.ticks)
        ticks = pool.ticks
        ticks["seq"] = np.arange(self._seq + 1, self._seq + n + 1, dtype=np.uint64)
        self._seq += n
        fate = np.zeros(n, np.uint8) if pool.fate is None else pool.fate
        single = np.flatnonzero((ticks["kind"] == Kind.CONTROL) & (ticks["size"] == _TO_COME))
        if len(single):
            market = np.flatnonzero(ticks["kind"] != Kind.CONTROL)
            first = market[np.searchsorted(market, single)]
            ends = np.flatnonzero(ticks["flags"] & np.uint8(Flag.LAST))
            last = ends[np.searchsorted(ends, first)]
            ticks["price"][single], ticks["size"][single] = ticks["seq"][first], ticks["seq"][last]
        return Arrivals(ticks, pool.owner, pool.arrival_ns, fate)


def _amount(fault: Fault) -> int:
    """What a window's control row says of how much, ns."""
    match fault:
        case Delay():
            return int(fault.delay_ms * _MS)
        case ClockSkew():
            return int(fault.skew_ms * _MS)
    return 0


def _withdrawn(standing: TickArray) -> TickArray:
    """What a venue sends when a halt begins: both sides of each quote empty, each book and all orders cleared."""
    rows: TickArray = standing[(standing["kind"] == Kind.QUOTE) | (standing["action"] == Action.CLEAR)].copy()
    rows["price"] = rows["size"] = 0
    rows["action"] = np.where(rows["kind"] == Kind.QUOTE, Action.DELETE, Action.CLEAR)
    rows["flags"][rows["kind"] == Kind.BOOK] |= np.uint8(Flag.LAST)
    return rows
