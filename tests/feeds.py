"""Made-up feeds: events of every kind as rows, and logs of frames with what at-least-once producers do to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from models.market.frame import encode
from models.market.instruments import INSTRUMENT_REF, Instrument
from models.market.partition import IncomingFrame, open_frame
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from tests.books import diff, snapshot

# More than one page of slots; the feeds name a few of them, on both pages.
INSTRUMENTS = [Instrument("venue", "spot", f"C{i}-USDT", price_exp=-9, size_exp=-8) for i in range(70)]
BUSY = [0, 1, 2, 63, 64, 69]
INTERVALS_S = [1, 10, 60, 300, 900, 3600, 86400, 7]  # nobody keeps bars of 7 seconds


def refs_of(ids: Sequence[int]) -> np.ndarray:
    refs = np.zeros(len(ids), INSTRUMENT_REF)
    for ref, i in zip(refs, ids, strict=True):
        instrument = INSTRUMENTS[i]
        ref["hash"], ref["price_exp"], ref["size_exp"] = instrument.hash, instrument.price_exp, instrument.size_exp
    return refs


def event(kind: int, rows: Sequence[dict[str, int]]) -> TickArray:
    """An event of rows that differ in the given fields."""
    ticks = np.zeros(len(rows), TICK)
    ticks["kind"] = kind
    for tick, fields in zip(ticks, rows, strict=True):
        for name, value in fields.items():
            tick[name] = value
    ticks["flags"][-1] |= Flag.LAST
    return ticks


@dataclass
class Venue:
    """Draws events; books have update ids that are in order, or lie on demand."""

    random: Random
    gaps: bool = False
    clock: int = 0
    update_ids: dict[int, int] = field(default_factory=dict)

    def event(self) -> TickArray:
        """The rows of one event of any kind, of a busy instrument (an index into INSTRUMENTS)."""
        random, instrument = self.random, self.random.choice(BUSY)
        kind = random.choice([1, 1, 1, 2, 2, 3, 3, 3, 4, 5, 6, 7, 8, 10, 11])
        rows = self._book(instrument) if kind == Kind.BOOK else self._fields(kind)
        # Steps that now and then skip seconds or a minute; venues' clocks that lag, or lead by more than windows allow.
        self.clock += random.choice([1, 10**6, random.randint(1, 4 * 10**8), random.randint(1, 2 * 10**10)])
        lag = random.choice([0, 10**6, random.randint(-6 * 10**9, 3 * 10**9)])
        rows["ts_event"], rows["ts_recv"] = self.clock - lag, self.clock + random.randint(0, 50)
        rows["instrument_id"] = instrument
        return rows

    def _number(self) -> int:
        return self.random.choice([0, 1, -1, self.random.randint(-(10**6), 10**6), 2**63 - 1, -(2**63)])

    def _fields(self, kind: int) -> TickArray:
        random = self.random
        some = {"price": self._number(), "size": self._number(), "ref_id": self._number()}
        match kind:
            case Kind.TRADE | Kind.LIQUIDATION | Kind.VOLATILITY | Kind.ORDER:
                return event(kind, [{**some, "action": Action.TRADE, "side": random.randint(0, 2)}])
            case Kind.QUOTE:
                sides = random.choice([[Side.BID], [Side.ASK], [Side.BID, Side.ASK]])
                actions = [random.choice([Action.UPDATE, Action.UPDATE, Action.DELETE]) for _ in sides]
                return event(
                    kind,
                    [
                        {"side": side, "action": action, "price": self._number(), "size": 7, "venue_seq": self.clock}
                        for side, action in zip(sides, actions, strict=True)
                    ],
                )
            case Kind.FUNDING | Kind.OPEN_INTEREST:
                sides = random.sample(range(3 if kind == Kind.FUNDING else 2), random.randint(1, 2))
                return event(kind, [{**some, "side": side, "price": self._number()} for side in sides])
            case Kind.LONG_SHORT:
                action = random.randint(1, 2)
                return event(
                    kind,
                    [{"action": action, "side": side, "price": self._number(), "ref_id": 300} for side in range(3)],
                )
            case _:
                interval, start = random.choice(INTERVALS_S), random.randint(0, 10**9)
                bar = {"ref_id": interval, "venue_seq": start, "size": 5}
                return event(kind, [{**bar, "side": side, "price": self._number()} for side in range(4)])

    def _book(self, instrument: int) -> TickArray:
        random, last = self.random, self.update_ids.get(instrument, 0)
        bids = {random.randint(1, 90): random.randint(1, 9) for _ in range(random.choice([0, 1, 3, 80]))}
        asks = {random.randint(91, 180): random.randint(1, 9) for _ in range(random.choice([0, 1, 3, 80]))}
        if not last or random.random() < 0.15:
            self.update_ids[instrument] = last + 1
            return snapshot(last + 1, bids, asks)
        if random.random() < 0.5:
            bids = dict.fromkeys(bids, 0)
        skipped = 2 if self.gaps and random.random() < 0.15 else 0
        self.update_ids[instrument] = last + skipped + 1
        return diff(last + skipped, last + skipped + 1, bids, asks)


@dataclass(frozen=True)
class Sent:
    """What a producer sent as one frame; `ids` are indices into INSTRUMENTS, as in the rows."""

    source: int
    rows: TickArray
    ids: list[int]
    prev_position: int = 0
    dense: bool = False

    def opened(self, version: int, append_ms: int = 0) -> IncomingFrame:
        """The frame as the log gives it to a worker."""
        rows = self.rows.copy()
        local = {i: k for k, i in enumerate(self.ids)} | {-1: -1}
        rows["instrument_id"] = [local[i] for i in rows["instrument_id"].tolist()]
        data = encode(rows, refs_of(self.ids), source=self.source, prev_position=self.prev_position, dense=self.dense)
        return open_frame(version, append_ms, data)


@dataclass
class Producer:
    """Numbers its events, cuts them into frames, and begins again somewhere earlier with other borders at times."""

    venue: Venue
    source: int
    events: list[TickArray] = field(default_factory=list)
    position: int = 0

    def more(self, n_events: int) -> Iterator[Sent]:
        """Frames of `n_events` new events, after a few old ones that nobody knows to be acknowledged."""
        random = self.venue.random
        n_again = random.choice([0, 0, 1, 3]) if self.events else 0
        for _ in range(n_events):
            rows = self.venue.event()
            rows["seq"] = np.arange(self.position + 1, self.position + 1 + len(rows))
            self.position += len(rows)
            self.events.append(rows)
        events = self.events[-(n_events + n_again) :]
        while events:
            n = random.choice([1, 2, 5])
            yield self.frame(events[:n])
            events = events[n:]

    def frame(self, events: Sequence[TickArray]) -> Sent:
        rows = np.concatenate(events)
        ids = list(dict.fromkeys(rows["instrument_id"].tolist()))
        return Sent(self.source, rows, self.venue.random.sample(ids, len(ids)), int(rows["seq"][0]) - 1, True)

    def start_of_a_run(self, ids: list[int]) -> Sent:
        """A control frame: these instruments begin anew."""
        row = event(Kind.CONTROL, [{"action": Action.CLEAR, "instrument_id": -1, "seq": self.position + 1}])
        self.position += 1
        self.events.clear()  # a frame before the start is not sent again after it
        for instrument in ids:
            self.venue.update_ids.pop(instrument, None)
        return Sent(self.source, row, ids, self.position - 1, True)


def log_of(seed: int, n_frames: int, *, gaps: bool = False) -> list[Sent]:
    """A partition's log: three sources, one of which comes back under a new name, repeated frames, starts of runs."""
    random = Random(seed)
    venue = Venue(random, gaps)
    producers = [Producer(venue, source) for source in (11, 2**64 - 1, 33)]
    log: list[Sent] = []
    while len(log) < n_frames:
        what = random.random()
        if what < 0.05:
            producers[0] = Producer(venue, random.randint(100, 10**6))  # a new incarnation counts from 1 again
        elif what < 0.12:
            log.append(random.choice(producers).start_of_a_run(random.sample(BUSY, random.randint(0, 4))))
        elif what < 0.2 and log:
            log += log[-random.randint(1, 3) :]
        else:
            log += random.choice(producers).more(random.randint(1, 6))
    return log[:n_frames]
