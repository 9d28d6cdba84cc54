"""The comparison with other engines: its oracle, its ratios, its reading of their durable state, its environment."""

from __future__ import annotations

import json
import pickle
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agents.bench.peers import environment
from agents.bench.peers.durable import (
    bytewax_last,
    bytewax_offsets,
    bytewax_state,
    digest_of_pages,
    plain,
    quix_last,
    quix_pages,
)
from agents.bench.peers.environment import LOCK, locked_versions, peers_folder, peers_python
from agents.bench.peers.jobs.by_hand import copy_bars, no_bars, take_trade
from agents.bench.peers.jobs.market import Market
from agents.bench.peers.jobs.task import BAR_S, GRACE_S, Bar, PeerTask
from agents.bench.peers.measure import Figures
from agents.bench.peers.oracle import Bars, check_bars, check_last, expected_bars
from agents.bench.peers.scenario import JOBS, RATIOS, UNITS, metrics_of
from models.errors import MarketPrismError, ServiceSetupError
from models.market.digest import digest
from models.market.fold import OfflineFold
from models.market.frame import encode
from models.market.instruments import INSTRUMENT_REF, Instrument
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from models.perf.ticks import SeededTicks
from models.windows.window import GRACE_NS, INTERVALS_S, SECOND_NS

_NS = 10**9
_ROOT = Path(__file__).resolve().parents[2]


def _trades(*rows: tuple[int, float, int, int]) -> TickArray:
    """Instrument, event time in s, price and size, both in whole units; heard at once."""
    ticks = np.zeros(len(rows), TICK)
    for tick, (who, at_s, price, size) in zip(ticks, rows, strict=True):
        tick["instrument_id"], tick["ts_event"], tick["ts_recv"] = who, round(at_s * _NS), round(at_s * _NS)
        tick["price"], tick["size"], tick["kind"], tick["action"] = price * _NS, size * _NS, Kind.TRADE, Action.TRADE
        tick["side"], tick["flags"] = Side.BID, Flag.LAST
    ticks["seq"] = np.arange(1, len(rows) + 1)
    return ticks


def _fold_by_hand(ticks: TickArray, texts: list[str]) -> list[Bar]:
    closed: list[Bar] = []
    states = [no_bars() for _ in texts]
    for tick in ticks[ticks["kind"] == Kind.TRADE]:
        who = int(tick["instrument_id"])
        price, size = int(tick["price"]) / _NS, int(tick["size"]) / _NS
        assert take_trade(states[who], texts[who], int(tick["ts_event"]) // 1_000_000, price, size, closed)
    return closed


def test_the_peers_make_the_windows_that_we_make() -> None:
    assert BAR_S == INTERVALS_S
    assert GRACE_S * SECOND_NS == GRACE_NS


def test_a_bar_is_expected_once_the_newest_trade_of_its_clock_is_the_grace_behind_its_end() -> None:
    ticks = _trades((0, 0.1, 5, 1), (0, 0.9, 7, 2), (1, 1.0, 3, 4), (0, 1.5, 4, 1), (1, 1.9, 9, 1), (1, 2.0, 8, 1))
    shared = expected_bars(ticks, ["a", "b"], np.array([0, 0]))
    assert shared == {("a", 1, 0): Bar("a", 1, 0, 5.0, 7.0, 5.0, 7.0, 3.0)}
    assert expected_bars(ticks, ["a", "b"], np.array([0, 1])) == {}
    assert expected_bars(ticks[:-1], ["a", "b"], np.array([0, 0])) == {}


def test_a_longer_bar_is_expected_once_a_shorter_one_begins_behind_it() -> None:
    seconds = [0, 3, 12, 14, 61, 75, 78, 140]
    ticks = _trades(*((0, at, 10 + at, 1) for at in seconds))
    bars = expected_bars(ticks, ["a"], np.array([0]))
    assert [start for _, length, start in bars if length == 1] == seconds[:-1]
    assert [start for _, length, start in bars if length == 10] == [0, 10, 60]
    assert bars["a", 10, 10] == Bar("a", 10, 10, 22.0, 24.0, 22.0, 24.0, 2.0)
    assert bars["a", 60, 0] == Bar("a", 60, 0, 10.0, 24.0, 10.0, 24.0, 4.0)
    assert [length for _, length, _ in expected_bars(_trades((0, 9, 1, 1), (0, 11, 1, 1)), ["a"], np.array([0]))] == [1]


def test_bars_by_hand_are_those_that_the_oracle_expects() -> None:
    source = SeededTicks(3, seed=3)
    ticks = np.concatenate([source.opening(), *source.batches(60_000)])
    ticks["ts_event"] = ticks["ts_event"] * 1  # a copy of its own
    since = ticks["ts_recv"] - ticks["ts_recv"][0]
    ticks["ts_recv"] += since * 199  # a second and a half becomes some minutes
    ticks["ts_event"] = ticks["ts_recv"] // 1_000_000 * 1_000_000
    texts = [instrument.text for instrument in source.instruments]
    expected = expected_bars(ticks, texts, np.arange(3))
    assert {length for _, length, _ in expected} == {1, 10, 60}
    check_bars("hand", _fold_by_hand(ticks, texts), expected)


def test_bars_by_hand_take_an_earlier_second_until_it_is_closed() -> None:
    closed: list[Bar] = []
    bars = no_bars()
    for at_ms, price in ((2_500, 6.0), (1_000, 5.0), (1_999, 9.0), (500, 7.0)):
        taken = take_trade(bars, "a", at_ms, price, 1.0, closed)
        assert taken == (at_ms != 500)
    kept = copy_bars(bars)
    assert take_trade(bars, "a", 3_000, 1.0, 1.0, closed)
    assert closed == [Bar("a", 1, 1, 5.0, 9.0, 5.0, 9.0, 2.0)]
    assert kept[0] == 2_500
    assert [window[0] for window in kept[1]] == [1, 2]


def test_wrong_missing_and_repeated_bars_do_not_count() -> None:
    right = Bar("a", 1, 0, 1.0, 2.0, 0.5, 1.5, 0.3)
    expected: Bars = {("a", 1, 0): right}
    rounded = msgspec.structs.replace(right, volume=0.1 + 0.2)
    check_bars("peer", [right], expected)
    check_bars("peer", [rounded], expected)
    wrong: Iterable[list[Bar]] = ([], [right, right], [msgspec.structs.replace(right, high=2.1)],
                                  [msgspec.structs.replace(right, volume=0.31)])  # fmt: skip
    for found in wrong:
        with pytest.raises(MarketPrismError, match="peer ended with 1 wrong bars"):
            check_bars("peer", found, expected)


def test_late_trades_are_no_oracle() -> None:
    with pytest.raises(ValueError, match="late"):
        expected_bars(_trades((0, 5, 1, 1), (0, 1, 1, 1)), ["a"], np.array([0]))


def _line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


TRADE = _line(data_type="trade", ts_ms=7, price="1.5", quantity="2", side="sell", trade_id="9")
QUOTE = _line(data_type="quote", ts_ms=8, bid_price="1.4", bid_quantity="3", ask_price="1.6", ask_quantity="4",
              last_update_id=11)  # fmt: skip


def _finals() -> OfflineFold:
    fold = OfflineFold(["v.spot.A-B"])
    ticks = np.zeros(3, TICK)
    ticks["seq"], ticks["ts_event"] = [1, 2, 3], [7_000_000, 8_000_000, 8_000_000]
    ticks["kind"], ticks["side"] = [Kind.TRADE, Kind.QUOTE, Kind.QUOTE], [Side.ASK, Side.BID, Side.ASK]
    ticks["price"], ticks["size"] = [1_500_000_000, 1_400_000_000, 1_600_000_000], [2 * _NS, 3 * _NS, 4 * _NS]
    ticks["ref_id"], ticks["venue_seq"] = [9, 0, 0], [0, 11, 11]
    fold.update(ticks)
    return fold


def test_the_last_ticks_of_a_changelog_are_compared_number_by_number() -> None:
    state = {b'"v.spot.A-B"|"trade"': TRADE, b'"v.spot.A-B"|"quote"': QUOTE, b'"v.spot.A-B"|"bars"': b"[0,[],[],[]]"}
    last = quix_last([{}, state])
    check_last("quix", last, _finals().finals())
    for changed in (
        state | {b'"v.spot.A-B"|"trade"': TRADE.replace(b"1.5", b"1.6")},
        state | {b'"v.spot.A-B"|"quote"': QUOTE.replace(b"11", b"12")},
        {b'"v.spot.A-B"|"trade"': TRADE},
        state | {b'"v.spot.C-D"|"trade"': TRADE},
    ):
        with pytest.raises(MarketPrismError, match="quix ended with 1 wrong last values"):
            check_last("quix", quix_last([changed]), _finals().finals())


def test_the_last_ticks_of_snapshots_are_read_in_both_forms() -> None:
    by_hand = ({"trade": TRADE, "quote": QUOTE}, no_bars())
    read = {"trade": json.loads(TRADE), "quote": json.loads(QUOTE)}
    for snapshot in (by_hand, read):
        check_last("bytewax", bytewax_last({"v.spot.A-B": snapshot}), _finals().finals())


def _recovery(folder: Path, rows: list[tuple[str, str, int, object]], frontier: int) -> Path:
    with closing(sqlite3.connect(folder / "part-0.sqlite3")) as db:
        db.execute("CREATE TABLE snaps (step_id TEXT, state_key TEXT, snap_epoch INTEGER, ser_change BLOB)")
        db.execute("CREATE TABLE fronts (ex_num INTEGER, worker_index INTEGER, worker_frontier INTEGER)")
        db.execute("INSERT INTO fronts VALUES (0, 0, ?)", (frontier,))
        db.executemany("INSERT INTO snaps VALUES (?, ?, ?, ?)", [(*row[:3], pickle.dumps(row[3])) for row in rows])
        db.commit()
    return folder


def test_a_snapshot_is_durable_once_its_epoch_is_over(tmp_path: Path) -> None:
    rows: list[tuple[str, str, int, object]] = [
        ("peer.log", "0-run.x.json", 4, 100), ("peer.log", "0-run.x.json", 5, 200), ("peer.log", "1-run.x.json", 3, 7),
        ("peer.log", "2-other", 3, 999), ("peer.last", "A", 4, {"trade": TRADE}), ("peer.last", "A", 5, {}),
    ]  # fmt: skip
    folder = _recovery(tmp_path, rows, frontier=5)
    assert bytewax_offsets(folder, "run.x.json") == {0: 100, 1: 7}
    assert bytewax_state(folder) == {"A": {"trade": TRADE}}
    assert bytewax_offsets(tmp_path / "none", "run.x.json") == {}


def test_a_pickle_of_anything_but_plain_values_is_refused() -> None:
    assert plain(pickle.dumps((1, {"a": [b"b"]}))) == (1, {"a": [b"b"]})
    with pytest.raises(pickle.UnpicklingError, match="no plain value"):
        plain(pickle.dumps(Path("/etc")))


def test_pages_that_a_peer_made_durable_hold_what_was_sent() -> None:
    instruments = (Instrument("v", "spot", "A-B"), Instrument("v", "spot", "C-D"))
    ticks = _trades((0, 1.0, 5, 1), (1, 1.5, 6, 2), (0, 9.0, 7, 3))
    refs = np.zeros(2, INSTRUMENT_REF)
    refs["hash"] = [instrument.hash for instrument in instruments]
    refs["price_exp"] = refs["size_exp"] = -9
    fold = OfflineFold([instrument.text for instrument in instruments])
    fold.update(ticks)
    market = Market(instruments)
    market.apply(0, [(0, 0, encode(ticks[:2], refs, source=1))])
    first = dict(market.changed_pages(0))
    market.apply(0, [(1, 0, encode(ticks[2:], refs, source=1))])
    changed = dict(market.changed_pages(0))
    state = {b'null|"' + key.hex().encode() + b'"': body for key, body in (first | changed).items()}
    assert digest_of_pages([quix_pages(state)]) == digest(fold.finals())
    assert digest_of_pages([market.all_pages(0)]) == digest(fold.finals())
    assert digest_of_pages([first.items()]) != digest(fold.finals())


def test_frames_that_are_refused_end_the_job() -> None:
    with pytest.raises(ValueError, match="refused"):
        refs = np.zeros(1, INSTRUMENT_REF)
        refs["hash"], refs["price_exp"], refs["size_exp"] = Instrument("v", "spot", "A-B").hash, -2, -2
        Market([Instrument("v", "spot", "A-B")]).apply(3, [(0, 0, encode(_trades((0, 1, 1, 1)), refs, source=1))])


def test_ratios_are_against_the_cheaper_of_a_peers_ways() -> None:
    per_cpu_s = {"ours_record": 600.0, "quix_record": 100.0, "quix_hand": 150.0, "bytewax_record": 200.0,
                 "bytewax_hand": 120.0, "ours_frames": 50.0, "quix_frames": 100.0, "bytewax_frames": 40.0}  # fmt: skip
    metrics = metrics_of({name: Figures(value, 1e6 / value, 0.5) for name, value in per_cpu_s.items()})
    assert metrics["ratio_quix_record"] == 4.0
    assert metrics["ratio_bytewax_record"] == 3.0
    assert metrics["ratio_quix_windows"] == 6.0
    assert metrics["ratio_bytewax_windows"] == 3.0
    assert metrics["ratio_quix_frames"] == 0.5
    assert metrics["ratio_bytewax_frames"] == 1.25
    assert metrics["quix_hand_cpu_us_per_record"] == pytest.approx(1e6 / 150)
    assert metrics["ours_frames_cpu_us_per_tick"] == pytest.approx(1e6 / 50)
    assert metrics.keys() == UNITS.keys()
    assert RATIOS == ("ratio_quix_record", "ratio_bytewax_record", "ratio_quix_frames", "ratio_bytewax_frames")
    assert sum(map(len, JOBS.values())) == 8


def test_the_lock_names_the_peers_and_the_versions_of_what_our_kernels_need() -> None:
    locked = locked_versions()
    ours = dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", (_ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {"quixstreams", "bytewax", "orjson"} <= locked.keys()
    assert [locked[name] for name in ("numba", "llvmlite", "msgspec")] == [
        ours[name] for name in ("numba", "llvmlite", "msgspec")
    ]
    text = LOCK.read_text()
    assert text.count("--hash=sha256:") >= len(locked)
    assert "://" not in text


def test_the_jobs_import_nothing_of_ours_that_a_peers_environment_lacks() -> None:
    """In a fresh process, because this one has everything."""
    allowed = {"numpy", "numba", "llvmlite", "msgspec", "orjson", "typing_extensions", "models", "agents"}
    code = (
        "import sys, agents.bench.peers.jobs.market, agents.bench.peers.jobs.by_hand, agents.bench.peers.jobs.task;"
        "print(*{n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT).stdout
    foreign = {name for name in out.split() if not name.startswith("_") and not name.startswith("cython")}
    assert foreign <= allowed


def test_an_environment_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    peers_folder(tmp_path).mkdir()
    told: list[object] = []
    assert peers_python(tmp_path, lambda *step: told.append(step)) == peers_folder(tmp_path) / "bin" / "python"
    assert told == []


def test_an_install_that_fails_says_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("no-such-package==1.0 --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # no network in a unit test
    cache = tmp_path / "cache"
    with pytest.raises(ServiceSetupError, match=r"no-such-package==1\.0.*check the network"):
        peers_python(cache, lambda *_: None)
    assert list(cache.iterdir()) == []


def test_a_task_reaches_the_peers_process_as_it_was_given() -> None:
    task = PeerTask("b:1", "t", "g", "/f", 0.5, (Instrument("v", "spot", "A-B"),))
    assert msgspec.json.decode(msgspec.json.encode(task), type=PeerTask) == task
