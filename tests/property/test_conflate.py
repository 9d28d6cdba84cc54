"""A partition holds what a dict would that is fed row after row, however the rows were framed, cut and repeated."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.market.conflate import OWN_BAR
from models.market.facets import FACETS, N_ROWS, TS_RECV, VERSION
from models.market.partition import MarketPartition
from tests.books import check_structure, sides
from tests.feeds import BUSY, INSTRUMENTS, Producer, Sent, Venue, log_of

BARS = {1: "ohlcv:1s", 10: "ohlcv:10s", 60: "ohlcv:1m", 300: "ohlcv:5m", 900: "ohlcv:15m", 3600: "ohlcv:1h"}
BARS[86400] = "ohlcv:1d"

State = dict[tuple[str, str], list[int]]  # by instrument text and facet: version, ts_event, ts_recv, n, v0..v5


class Dict:
    """The tables of docs/wire.md, row by row, on dicts; books as far as their update ids are in order."""

    def __init__(self) -> None:
        self.rows: State = {}
        self.books: dict[str, dict[str, object]] = {}
        self.positions: dict[int, int] = {}
        self.n_rows = 0

    def apply(self, version: int, sent: Sent) -> None:
        for row in sent.rows:
            if int(row["seq"]) > self.positions.get(sent.source, 0):
                if row["instrument_id"] >= 0:
                    self.n_rows += 1
                    self._row(version, INSTRUMENTS[row["instrument_id"]].text, row)
                elif row["action"] == 4:
                    self._forget([INSTRUMENTS[i].text for i in sent.ids])
        self.positions[sent.source] = max(int(sent.rows["seq"][-1]), self.positions.get(sent.source, 0))

    def _forget(self, texts: list[str]) -> None:
        self.rows = {key: row for key, row in self.rows.items() if key[0] not in texts}
        for text in texts:
            self.books.pop(text, None)

    def _row(self, version: int, text: str, row: np.void) -> None:
        kind, action, side = int(row["kind"]), int(row["action"]), int(row["side"])
        price, size, ref_id, venue_seq = (int(row[name]) for name in ("price", "size", "ref_id", "venue_seq"))
        match kind:
            case 1 | 7:
                facet, values = "trade" if kind == 1 else "liquidation", dict(enumerate([price, size, side, ref_id]))
            case 2:
                facet, first = "quote", 0 if side == 1 else 2
                values = {first: price if action != 3 else 0, first + 1: size if action != 3 else 0, 4: venue_seq}
            case 3:
                self._book(text, action, side, price, size, venue_seq)
                return
            case 5:
                facet, values = "funding", {side: price} | ({3: ref_id} if side == 0 else {})
            case 6:
                facet, values = "open_interest", {0: size} if side == 0 else {1: price}
            case 8:
                facet, values = "volatility", {0: price}
            case 10:
                facet = "lsr_top" if action == 1 else "lsr_all"
                values = {side: price} | ({3: ref_id} if side == 0 else {})
            case 11 if ref_id in BARS:
                facet, values = BARS[ref_id], {side: price} | ({4: size, 5: venue_seq} if side == 3 else {})
            case _:
                return
        kept = self.rows.setdefault((text, facet), [0] * 10)
        kept[:4] = version, int(row["ts_event"]), int(row["ts_recv"]), kept[3] + 1
        for at, value in values.items():
            kept[4 + at] = value

    def _book(self, text: str, action: int, side: int, price: int, size: int, venue_seq: int) -> None:
        book = self.books.setdefault(text, {"sides": ({}, {}), "n": 0, "last": 0})
        book["n"] += 1  # type: ignore[operator]
        book["last"] = venue_seq
        if action == 4:
            book["sides"] = ({}, {})
        elif side:
            levels = book["sides"][side - 1]  # type: ignore[index]
            levels[price] = size
            if action == 3:
                del levels[price]


def rows_of(market: MarketPartition, *, own_bars: bool = False) -> State:
    """Every row that is present, by names; bars that were made of trades on demand."""
    found: State = {}
    for plane, facet in enumerate(market.rows.facet_of):
        for slot in np.flatnonzero(market.rows.rows[plane, :, N_ROWS]).tolist():
            row = market.rows.rows[plane, slot].tolist()
            if own_bars or row[TS_RECV] != OWN_BAR:
                found[market.slots.instruments[slot].text, FACETS[facet]] = row
    return found


def books_of(market: MarketPartition) -> dict[str, dict[str, object]]:
    check_structure(market.books)
    found: dict[str, dict[str, object]] = {}
    for slot, instrument in enumerate(market.slots.instruments):
        header = market.books.header(slot)
        if header.n_rows:
            found[instrument.text] = {
                "sides": sides(market.books, slot), "n": header.n_rows, "last": header.last_update_id
            }  # fmt: skip
    return found


def fresh_partition() -> MarketPartition:
    market = MarketPartition()
    market.add(INSTRUMENTS)
    return market


def apply_in_rounds(market: MarketPartition, log: Sequence[Sent], random: Random) -> int:
    """Apply a log in rounds of several frames; returns how many rows counted."""
    frames = [sent.opened(version) for version, sent in enumerate(log)]
    counted = 0
    while frames:
        n = random.choice([1, 3, 20])
        applied = market.apply(frames[:n])
        assert applied.refused == []
        counted += applied.n_rows
        frames = frames[n:]
    return counted


def assert_equal(market: MarketPartition, expected: Dict) -> None:
    assert rows_of(market) == expected.rows
    assert books_of(market) == expected.books
    assert {source: known.position for source, known in market.sources.items()} == expected.positions


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_partition_equals_a_dict_fed_row_by_row(seed: int) -> None:
    log = log_of(seed, n_frames=60)
    market, expected = fresh_partition(), Dict()
    counted = apply_in_rounds(market, log, Random(seed))
    for version, sent in enumerate(log):
        expected.apply(version, sent)
    assert_equal(market, expected)
    assert counted == expected.n_rows
    assert market.applied == len(log) - 1


def without_versions(rows: State) -> State:
    return {key: row[VERSION + 1 :] for key, row in rows.items()}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_borders_of_frames_and_rounds_change_nothing_but_versions(seed: int) -> None:
    random = Random(seed)
    producer = Producer(Venue(random), source=5)
    list(producer.more(80))
    markets = []
    for lengths in ([1], [80], [2, 3, 7, 20]):
        log, events = [], list(producer.events)
        while events:
            n = random.choice(lengths)
            log.append(producer.frame(events[:n]))
            events = events[n:]
        markets.append(fresh_partition())
        apply_in_rounds(markets[-1], log, random)
    first, *others = markets
    for other in others:
        assert without_versions(rows_of(other)) == without_versions(rows_of(first))
        assert books_of(other) == books_of(first)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_rounds_name_exactly_the_instruments_and_facets_of_their_rows(seed: int) -> None:
    random = Random(seed)
    producer = Producer(Venue(random), source=5)
    market = fresh_partition()
    for version, sent in enumerate(producer.more(40)):
        known = market.sources[5].position if market.sources else 0
        alone = Dict()
        alone.positions[5] = known
        alone.apply(version, sent)
        expected: dict[int, int] = {}
        for text, facet in [*alone.rows, *((text, "book") for text in alone.books)]:
            slot = next(i for i in BUSY if INSTRUMENTS[i].text == text)
            expected[slot] = expected.get(slot, 0) | 1 << FACETS.index(facet)
        market.apply([sent.opened(version)])
        slots, bits = market.rows.take_touched()
        own_bars = 0b111 << FACETS.index("ohlcv:1s")  # they close when they close
        named = {s: b & ~own_bars | expected.get(s, 0) for s, b in zip(slots.tolist(), bits.tolist(), strict=True)}
        assert {slot: bits for slot, bits in named.items() if bits} == expected
        assert market.rows.take_touched()[0].tolist() == []
