"""Plans of faults: what each does to a day, what control rows tell of it, and that nothing hangs on batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.days.faults import FaultStream
from models.days.plan import FaultCode, FaultPlan
from models.days.received import Arrivals, Fate
from models.errors import InvalidFaultPlan
from models.market.fold import OfflineFold
from models.market.tick import Action, Flag, Kind, TickArray
from streams.days.day import Day
from streams.days.plan_file import read_plan

DAY = Day.open(Path(__file__).parents[2] / "replay_data" / "sample-day")
FIRST_NS = DAY.manifest.ts_recv_min
TEXTS = [instrument.text for instrument in DAY.instruments]
BTC = "binance.spot.BTC-USDT"
S, MS = 10**9, 10**6

EVERYTHING = [
    {"fault": "drop", "share": 0.002},
    {"fault": "duplicate", "share": 0.003},
    {"fault": "reorder", "share": 0.01, "within_ms": 80},
    {"fault": "delay", "delay_ms": 1500, "instruments": [BTC], "from_s": 100, "to_s": 200},
    {"fault": "clock_skew", "skew_ms": 5, "drift_ppm": 100, "venues": ["okx"], "from_s": 50},
    {"fault": "disconnect", "venues": ["bybit"], "from_s": 300, "to_s": 330},
    {"fault": "halt", "instruments": ["okx.spot.BTC-USDT"], "from_s": 400, "to_s": 500},
]


def plan_of(*faults: dict[str, Any], seed: int = 7) -> FaultPlan:
    return msgspec.convert({"seed": seed, "faults": list(faults)}, FaultPlan)


def applied(plan: FaultPlan, size: int = 4096) -> tuple[Arrivals, FaultStream]:
    stream = FaultStream(plan, DAY.instruments, FIRST_NS)
    parts = [*map(stream.apply, DAY.batches(size)), stream.finish()]
    return Arrivals(*(np.concatenate([part[i] for part in parts]) for i in range(4))), stream  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def rows() -> TickArray:
    return np.concatenate(list(DAY.batches()))


def market(arrivals: Arrivals) -> TickArray:
    """The rows that are no control rows."""
    return arrivals.ticks[arrivals.ticks["kind"] != Kind.CONTROL]


def told(arrivals: Arrivals, code: FaultCode) -> TickArray:
    ticks = arrivals.ticks
    return ticks[(ticks["kind"] == Kind.CONTROL) & (ticks["action"] == Action.ADD) & (ticks["side"] == code)]


def test_the_same_plan_gives_the_same_bytes_whatever_the_batches() -> None:
    plan = plan_of(*EVERYTHING)
    whole, stream = applied(plan, 1 << 20)
    for size in (61, 5000):
        again, other = applied(plan, size)
        for mine, its in zip(whole, again, strict=True):
            assert mine is not None and its is not None
            assert mine.tobytes() == its.tobytes()
        assert stream.n_events.tolist() == other.n_events.tolist()
    assert (stream.n_events > 0).all()
    assert whole.ticks.tobytes() != applied(plan_of(*EVERYTHING, seed=8))[0].ticks.tobytes()


def test_rows_are_numbered_densely_and_arrive_in_order_in_whole_events() -> None:
    arrivals, _ = applied(plan_of(*EVERYTHING))
    assert arrivals.ticks["seq"].tolist() == list(range(1, len(arrivals.ticks) + 1))
    assert (np.diff(arrivals.arrival_ns) >= 0).all()
    assert arrivals.fate is not None
    ends = np.flatnonzero(arrivals.ticks["flags"] & Flag.LAST)
    starts = np.append(0, ends[:-1] + 1)
    for column in (arrivals.owner, arrivals.fate, arrivals.arrival_ns):
        assert (column[starts] == column[ends]).all()


def test_a_plan_without_faults_changes_nothing(rows: TickArray) -> None:
    arrivals, _ = applied(plan_of())
    assert arrivals.ticks.tobytes() == rows.tobytes()


@pytest.mark.parametrize(("fault", "fate"), [("drop", Fate.LOST), ("duplicate", Fate.TWICE)])
def test_events_that_are_lost_or_sent_twice_are_told_before_them(rows: TickArray, fault: str, fate: Fate) -> None:
    arrivals, stream = applied(plan_of({"fault": fault, "share": 0.01}))
    fields = [name for name in rows.dtype.names or () if name != "seq"]
    assert np.array_equal(market(arrivals)[fields], rows[fields])
    assert arrivals.fate is not None
    hit = arrivals.ticks[arrivals.fate == fate]
    n_events = int((rows["flags"] & Flag.LAST).astype(bool).sum())
    assert abs(stream.n_events[0] - 0.01 * n_events) < 5 * (0.01 * n_events) ** 0.5
    assert (stream.n_events[0], stream.n_rows[0]) == (int((hit["flags"] & Flag.LAST).astype(bool).sum()), len(hit))
    notes = told(arrivals, FaultCode[fault.upper()])
    spans = [range(int(note["price"]), int(note["size"]) + 1) for note in notes]
    assert [position for span in spans for position in span] == hit["seq"].tolist()
    by_hash = {i.hash: index for index, i in enumerate(DAY.instruments)}
    for note in notes:
        assert note["seq"] + 1 == note["price"] and note["venue_seq"] == 1
        row = arrivals.ticks[int(note["price"]) - 1]
        assert by_hash[int(np.int64(note["ref_id"]).astype(np.uint64))] == row["instrument_id"]


def test_faults_choose_apart_and_what_is_lost_is_not_repeated(rows: TickArray) -> None:
    arrivals, stream = applied(plan_of({"fault": "drop", "share": 0.4}, {"fault": "duplicate", "share": 0.4}))
    assert arrivals.fate is not None
    ends = arrivals.fate[(arrivals.ticks["flags"] & Flag.LAST).astype(bool) & (arrivals.ticks["kind"] != Kind.CONTROL)]
    found = np.bincount(ends, minlength=3)
    assert stream.n_events.tolist() == [found[Fate.LOST], found[Fate.TWICE]]
    assert found[Fate.LOST] / len(ends) == pytest.approx(0.4, abs=0.01)
    assert found[Fate.TWICE] / len(ends) == pytest.approx(0.4 * 0.6, abs=0.01)


def test_reordered_events_come_late_and_later_ones_overtake_them(rows: TickArray) -> None:
    arrivals, stream = applied(plan_of({"fault": "reorder", "share": 0.05, "within_ms": 200}))
    out = market(arrivals)
    assert len(out) == len(rows) and stream.n_events[0] == len(told(arrivals, FaultCode.REORDER))
    late = np.concatenate(
        [arrivals.ticks[int(n["price"]) - 1 : int(n["size"])] for n in told(arrivals, FaultCode.REORDER)]
    )
    fields = ["ts_event", "venue_seq", "price", "size", "ref_id", "instrument_id", "kind", "action", "side"]
    assert sorted(out[fields].tolist()) == sorted(rows[fields].tolist())
    assert (np.diff(out["ts_recv"]) >= 0).all()
    received = {tuple(row): int(recv) for row, recv in zip(rows[fields].tolist(), rows["ts_recv"], strict=True)}
    delays = np.array([int(row["ts_recv"]) - received[tuple(row[fields].tolist())] for row in late])
    assert delays.min() > 0 and delays.max() <= 200 * MS and np.unique(delays).size > 100
    assert (out[fields] != rows[fields]).any()


def test_a_delayed_instrument_is_a_queue_and_leaves_the_others_alone(rows: TickArray) -> None:
    arrivals, stream = applied(
        plan_of({"fault": "delay", "delay_ms": 20_000, "instruments": [BTC], "from_s": 100, "to_s": 200})
    )
    mine = TEXTS.index(BTC)
    before, after = rows[rows["instrument_id"] == mine], market(arrivals)
    others = after[after["instrument_id"] != mine]
    assert np.array_equal(others["ts_recv"], rows[rows["instrument_id"] != mine]["ts_recv"])
    after = after[after["instrument_id"] == mine]
    assert np.array_equal(before["ts_event"], after["ts_event"])  # in order
    since = before["ts_recv"] - FIRST_NS
    late = after["ts_recv"] - before["ts_recv"]
    assert set(late[(since >= 100 * S) & (since < 200 * S)].tolist()) == {20 * S}
    behind = (since >= 200 * S) & (since < 200 * S + 20 * S)
    assert behind.any() and (after["ts_recv"][behind] == FIRST_NS + 200 * S + 20 * S).all()
    assert stream.n_rows[0] == np.count_nonzero(late)
    assert not late[~behind & ((since < 100 * S) | (since >= 200 * S))].any()
    assert [(n["price"], n["size"]) for n in told(arrivals, FaultCode.DELAY)] == [(1, 20 * S), (0, 20 * S)]


@pytest.mark.parametrize(("clock", "field"), [("venue", "ts_event"), ("receiver", "ts_recv")])
def test_a_clock_that_is_wrong_changes_what_it_says_and_not_when_rows_come(
    rows: TickArray, clock: str, field: str
) -> None:
    fault = {"fault": "clock_skew", "clock": clock, "skew_ms": -20, "drift_ppm": 50, "venues": ["okx"], "from_s": 10}
    arrivals, _ = applied(plan_of(fault))
    out = market(arrivals)
    okx = np.array([text.startswith("okx") for text in TEXTS])[rows["instrument_id"]]
    wrong = okx & (rows["ts_recv"] >= FIRST_NS + 10 * S)
    difference = out[field] - rows[field]
    assert not difference[~wrong].any()
    expected = -20 * MS + (rows["ts_recv"][wrong] - FIRST_NS - 10 * S) * 50e-6
    assert np.abs(difference[wrong] - expected).max() <= 1
    other = "ts_recv" if field == "ts_event" else "ts_event"
    assert np.array_equal(out[other], rows[other])


def folded(*parts: TickArray) -> dict[str, tuple[object, ...]]:
    fold = OfflineFold(TEXTS)
    for part in parts:
        fold.update(part)
    return {f.text: (f.quote, f.bids.tolist(), f.asks.tolist()) for f in fold.finals()}


def test_after_a_disconnection_a_snapshot_makes_good_what_was_missed(rows: TickArray) -> None:
    fault = {"fault": "disconnect", "venues": ["binance"], "from_s": 300, "to_s": 400}
    arrivals, stream = applied(plan_of(fault))
    out = market(arrivals)
    binance = np.array([text.startswith("binance") for text in TEXTS])
    since = out["ts_recv"] - FIRST_NS
    assert not (binance[out["instrument_id"]] & (since >= 300 * S) & (since < 400 * S)).any()
    missed = binance[rows["instrument_id"]] & (rows["ts_recv"] >= FIRST_NS + 300 * S)
    missed &= rows["ts_recv"] < FIRST_NS + 400 * S
    assert stream.n_rows[0] == int(missed.sum())
    notes = told(arrivals, FaultCode.DISCONNECT)
    assert int(notes["size"][notes["price"] == 0].sum()) == int(missed.sum())
    assert not notes["size"][notes["price"] == 1].any()
    again = out[since == 400 * S]
    assert (again["flags"] & Flag.SNAPSHOT).all() and set(again["instrument_id"].tolist()) == set(
        np.flatnonzero(binance)
    )
    assert folded(out) == folded(rows)
    without, _ = applied(plan_of({**fault, "snapshot": False}))
    assert len(market(without)) == len(rows) - int(missed.sum())
    assert folded(market(without)) != folded(rows)


def test_a_halt_withdraws_quotes_and_books_until_its_end(rows: TickArray) -> None:
    text = "okx.spot.BTC-USDT"
    arrivals, _ = applied(plan_of({"fault": "halt", "instruments": [text], "from_s": 300, "to_s": 400}))
    out = market(arrivals)
    mine = out["instrument_id"] == TEXTS.index(text)
    since = out["ts_recv"] - FIRST_NS
    during = out[since < 400 * S]
    quote, bids, asks = folded(during)[text]
    assert (quote[:4], bids, asks) == ((0, 0, 0, 0), [], [])  # type: ignore[index]
    assert folded(out) == folded(rows)
    within = out[mine & (since > 300 * S) & (since < 400 * S)]
    assert not set(within["kind"].tolist()) & {Kind.TRADE, Kind.QUOTE, Kind.BOOK}


def test_a_plan_is_read_from_toml_and_json_and_what_is_wrong_is_named(tmp_path: Path) -> None:
    toml, json = tmp_path / "plan.toml", tmp_path / "plan.json"
    toml.write_text('seed = 3\n[[faults]]\nfault = "drop"\nshare = 0.5\n[[faults]]\nfault = "halt"\nto_s = 9\n')
    json.write_bytes(msgspec.json.encode(read_plan(toml)))
    assert (
        read_plan(json)
        == read_plan(toml)
        == plan_of(*[{"fault": "drop", "share": 0.5}, {"fault": "halt", "to_s": 9}], seed=3)
    )
    for text, named in (
        ('{"seed":1,"faults":[{"fault":"drop","share":2}]}', "share"),
        ('{"seed":1,"faults":[{"fault":"melt"}]}', "melt"),
        ('{"seed":1,"faults":[{"fault":"drop","share":0.1,"shares":1}]}', "shares"),
        ('{"seed":1,"faults":[{"fault":"halt","from_s":9,"to_s":9}]}', "not after"),
        ('{"faults":[]}', "seed"),
        ("{", "plan.json"),
    ):
        json.write_text(text)
        with pytest.raises(InvalidFaultPlan, match=named):
            read_plan(json)
    with pytest.raises(InvalidFaultPlan, match="absent"):
        read_plan(tmp_path / "absent.toml")
    with pytest.raises(InvalidFaultPlan, match="kraken"):
        applied(plan_of({"fault": "drop", "share": 0.1, "venues": ["kraken"]}))
