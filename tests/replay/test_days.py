"""Recorded days: what importers make of real captures, and that no damage to a day stays unseen."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from agents.cli.main import cli
from models.errors import CorruptDay, InvalidInstrument
from models.market.digest import digest
from models.market.fold import OfflineFold
from models.market.registry import InstrumentRegistry
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from streams.days import parquet
from streams.days.day import Day
from streams.days.importers.binance import import_binance
from streams.days.importers.lean import import_lean
from streams.days.importers.report import Terms
from streams.days.manifest import MANIFEST, TICKS, Manifest, Origin, file_entry
from streams.days.merge import merge
from streams.days.sample import make_sample
from streams.days.verify import verify_day
from streams.days.writer import DayWriter
from streams.kafka.frames import FramePacker
from tests.replay.conftest import Imported

REPLAY_DATA = Path(__file__).parents[2] / "replay_data"
GOLDEN = json.loads((REPLAY_DATA / "sample-day.golden.json").read_text())


def rows_of(day: Day) -> TickArray:
    return np.concatenate(list(day.batches()))


def fold(day: Day, batch: int = 65_536) -> str:
    whole = OfflineFold([instrument.text for instrument in day.instruments])
    for ticks in day.batches(batch):
        whole.update(ticks)
    return digest(whole.finals())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def sample(tmp_path: Path) -> Day:
    """A sample day that a test may damage."""
    return make_sample(tmp_path / "sample", 7)


# -- the sample day ----------------------------------------------------------------------------------------------------


def test_the_committed_sample_day_has_its_golden_rows_and_digest() -> None:
    day = Day.open(REPLAY_DATA / "sample-day")
    assert verify_day(day.path).problems == []
    assert {"seed": day.manifest.origin.seed, "rows": day.rows, "digest": fold(day)} == GOLDEN
    assert sum(path.stat().st_size for path in day.path.iterdir()) < 1_000_000


def test_the_generator_makes_the_committed_day_of_its_seed_again(sample: Day, tmp_path: Path) -> None:
    assert (sample.rows, fold(sample)) == (GOLDEN["rows"], GOLDEN["digest"])
    assert bytes_of(sample.path) == bytes_of(make_sample(tmp_path / "again", 7).path)
    assert fold(make_sample(tmp_path / "other", 8)) != GOLDEN["digest"]


def test_the_sample_day_holds_every_kind_that_venues_send(sample: Day) -> None:
    assert set(sample.manifest.kinds) == {kind.name.lower() for kind in Kind} - {"order", "control", "bar"}


def test_the_sample_books_need_their_early_diffs_and_are_never_crossed(sample: Day) -> None:
    rows = rows_of(sample)
    books = rows[rows["kind"] == Kind.BOOK]
    for index in range(len(sample.instruments)):
        of = books[books["instrument_id"] == index]
        cut = int(np.argmax(of["action"] == Action.CLEAR))
        early, snapshot_id = of[:cut], of["venue_seq"][cut]
        assert bool(len(early)) == (index % 3 == 0)
        if len(early):
            assert early["ref_id"][-1] == snapshot_id < early["venue_seq"][-1]
    whole = OfflineFold([instrument.text for instrument in sample.instruments])
    whole.update(rows)
    for final in whole.finals():
        assert final.quote is not None and len(final.bids) == len(final.asks) == 10
        assert final.bids[0, 0] < final.asks[0, 0]
        assert final.quote[:4] == (*final.bids[0].tolist(), *final.asks[0].tolist())


# -- reading and writing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [17, 1000, 65_536])
def test_batches_end_where_events_end_and_lose_nothing(batch: int) -> None:
    day = Day.open(REPLAY_DATA / "sample-day")
    batches = list(day.batches(batch))
    assert all(ticks["flags"][-1] & Flag.LAST for ticks in batches)
    assert np.array_equal(np.concatenate(batches), rows_of(day))
    assert max(map(len, batches)) <= batch + 24  # the longest event, a snapshot, has 21 rows


def test_a_failed_write_leaves_nothing_behind(sample: Day, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), DayWriter(tmp_path / "new", name="new", origin=Origin()) as writer:
        writer.append(rows_of(sample))
        raise KeyboardInterrupt
    with (
        pytest.raises(ValueError, match="order of ts_recv"),
        DayWriter(tmp_path / "new", name="n", origin=Origin()) as w,
    ):
        w.append(rows_of(sample)[::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_a_day_is_never_overwritten(sample: Day) -> None:
    with pytest.raises(FileExistsError), DayWriter(sample.path, name="new", origin=Origin()):
        pass
    assert verify_day(sample.path).ok


def test_merging_orders_by_receipt_and_keeps_events_whole() -> None:
    def source(instrument: int, *recv: int) -> list[TickArray]:
        rows = np.zeros(len(recv), TICK)
        rows["ts_recv"], rows["instrument_id"], rows["flags"] = recv, instrument, Flag.LAST
        return [rows[:2], rows[2:3], rows[3:]]

    merged = np.concatenate(list(merge([source(0, 1, 5, 5, 9), source(1, 2, 5, 7, 7), source(2)])))
    assert merged["ts_recv"].tolist() == [1, 2, 5, 5, 5, 7, 7, 9]
    assert merged["instrument_id"].tolist() == [0, 1, 0, 0, 1, 1, 1, 0]
    # an instant that fills many arrays is handed on as it comes
    instant = [source(0, 5, 5, 5, 5)[0] for _ in range(100)]
    assert max(map(len, merge([[*instant], source(1, 5, 5)]))) <= 4
    # a receiving clock that steps back does not reorder what was received
    back = np.concatenate(list(merge([source(0, 4, 3, 6, 2)])))
    assert back["ts_recv"].tolist() == [4, 4, 6, 6]
    assert (back["flags"] & Flag.BAD_TS_RECV).astype(bool).tolist() == [False, True, False, True]


# -- verification ------------------------------------------------------------------------------------------------------


def reseal(folder: Path, **changes: object) -> None:
    """Write a manifest whose own checksum is right, so that only the rows can tell."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    manifest = msgspec.structs.replace(manifest, files=(file_entry(folder / TICKS),), **changes)
    (folder / MANIFEST).write_bytes(manifest.encode())


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    table = pq.read_table(folder / TICKS)
    columns = {name: table.column(name).to_numpy().copy() for name in table.schema.names}
    change(columns)
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    pq.write_table(type(table).from_pydict(arrays, schema=table.schema), folder / TICKS)
    reseal(folder)


def swap(columns: dict[str, np.ndarray]) -> None:
    columns["ts_recv"][[40_000, 40_001]] = columns["ts_recv"][[40_050, 39_999]]


def skip(columns: dict[str, np.ndarray]) -> None:
    columns["seq"][30_000:] += 1


def strange(columns: dict[str, np.ndarray]) -> None:
    columns["instrument_id"][123] = 16


def shorten(columns: dict[str, np.ndarray]) -> None:
    for name in columns:
        columns[name] = columns[name][:-40]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (swap, "ts_recv goes back (first at row 40002)"),
        (skip, "seq is not dense 1..N (first at row 30001)"),
        (strange, "instrument_id is not in the manifest (first at row 124)"),
        (shorten, "rows 49340, the manifest says 49380"),
    ],
)
def test_verify_names_wrong_rows_where_they_begin(
    sample: Day, change: Callable[[dict[str, np.ndarray]], None], named: str
) -> None:
    rewrite(sample.path, change)
    problems = verify_day(sample.path).problems
    assert f"{TICKS}: {named}" in problems, problems


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_verify_finds_one_flipped_byte_of_the_rows(sample: Day, share: float) -> None:
    path = sample.path / TICKS
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x10
    path.write_bytes(data)
    result = verify_day(sample.path)
    assert not result.ok
    assert any("ticks.parquet: SHA-256" in problem for problem in result.problems)


def test_reading_stops_at_a_flipped_byte_even_without_verify(sample: Day) -> None:
    path = sample.path / TICKS
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(CorruptDay, match=r"ticks\.parquet: cannot be read"):
        rows_of(sample)


def test_a_row_group_that_would_fill_the_memory_is_not_read(sample: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 1 << 20)
    with pytest.raises(CorruptDay, match=r"ticks\.parquet: a row group unpacks to 1[0-9]{6} bytes, and 1048576 are"):
        list(sample.batches())
    assert not verify_day(sample.path).ok


def test_verify_finds_any_edited_value_of_the_manifest(sample: Day) -> None:
    path = sample.path / MANIFEST
    text = path.read_text()
    for old, new in (('"sample-7"', '"sample-9"'), (f'"rows": {sample.rows}', '"rows": 1'), (' "seed"', '"seed"')):
        path.write_text(text.replace(old, new, 1))
        assert not verify_day(sample.path).ok, f"{old} -> {new}"
    path.write_text(text)
    assert verify_day(sample.path).ok


@pytest.mark.parametrize("missing", [TICKS, MANIFEST])
def test_verify_names_a_missing_file_and_the_command_fails(sample: Day, missing: str) -> None:
    (sample.path / missing).unlink()
    outcome = CliRunner().invoke(cli, ["day", "verify", str(sample.path), "--json"])
    assert outcome.exit_code == 1
    answer = json.loads(outcome.stdout.splitlines()[-1])
    assert answer["ok"] is False and f"{missing}: missing" in answer["problems"][0]


def test_verify_of_a_whole_day_answers_ok(sample: Day) -> None:
    outcome = CliRunner().invoke(cli, ["day", "verify", str(sample.path), "--json"])
    assert (outcome.exit_code, json.loads(outcome.stdout)) == (0, {"ok": True, "rows": 49_380, "problems": []})


# -- importers on lines made here --------------------------------------------------------------------------------------

SNAPSHOT = b'10 {"lastUpdateId":7,"T":3,"bids":[["1.5","2"]],"asks":[["1.6","0.001"]]}'
DIFF = (
    b'20 {"stream":"btcusdt@depth@0ms","data":{"e":"depthUpdate","E":5,"T":4,"s":"BTCUSDT","U":8,"u":9,"pu":6,'
    b'"b":[["1.5","0"]],"a":[]}}'
)
EMPTY = b'21 {"stream":"btcusdt@depth@0ms","data":{"E":5,"s":"BTCUSDT","U":10,"u":11,"b":[],"a":[]}}'
QUOTE = b'22 {"stream":"btcusdt@bookTicker","data":{"u":12,"s":"BTCUSDT","b":"1.5","B":"0","a":"1.6","A":"3"}}'
TRADE = b'23 {"stream":"btcusdt@trade","data":{"s":"BTCUSDT","t":5,"p":"1.55","q":"0.000000001","T":6,"m":true}}'


def capture(folder: Path, *lines: bytes, name: str = "usdm_btcusdt_20240808.gz") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    return path


def test_binance_lines_become_the_rows_of_the_wire(tmp_path: Path) -> None:
    day, report = import_binance([capture(tmp_path, SNAPSHOT, DIFF, EMPTY, QUOTE, TRADE)], tmp_path / "day")
    assert (report.n_records, report.n_unreadable, day.name) == (5, 0, "binance-20240808")
    assert [i.text for i in day.instruments] == ["binance.perpetual.BTC-USDT"]
    fields = ["ts_recv", "ts_event", "venue_seq", "ref_id", "kind", "action", "side", "price", "size", "flags"]
    book, snap, ms, one = Flag.MBP, Flag.MBP | Flag.SNAPSHOT, 1_000_000, 1_000_000_000
    assert rows_of(day)[fields].tolist() == [
        (10, 3 * ms, 7, 0, Kind.BOOK, Action.CLEAR, 0, 0, 0, snap),
        (10, 3 * ms, 7, 0, Kind.BOOK, Action.ADD, Side.BID, 15 * one // 10, 2 * one, snap),
        (10, 3 * ms, 7, 0, Kind.BOOK, Action.ADD, Side.ASK, 16 * one // 10, one // 1000, snap | Flag.LAST),
        (20, 4 * ms, 9, 6, Kind.BOOK, Action.DELETE, Side.BID, 15 * one // 10, 0, book | Flag.LAST),
        (21, 5 * ms, 11, 9, Kind.BOOK, Action.UPDATE, 0, 0, 0, book | Flag.LAST),
        (22, 22, 12, 0, Kind.QUOTE, Action.DELETE, Side.BID, 15 * one // 10, 0, Flag.TOB),
        (22, 22, 12, 0, Kind.QUOTE, Action.UPDATE, Side.ASK, 16 * one // 10, 3 * one, Flag.TOB | Flag.LAST),
        (23, 6 * ms, 0, 5, Kind.TRADE, Action.TRADE, Side.ASK, 155 * one // 100, 1, Flag.LAST),
    ]


def test_bad_binance_lines_are_counted_and_named_and_nothing_is_guessed(tmp_path: Path) -> None:
    bad = [
        b"not a line",
        b"x22 {}",
        DIFF.replace(b'"u":9,', b""),
        DIFF.replace(b'"0"', b'"1e3"'),
        TRADE.replace(b'"0.000000001"', b'"0.0000000001"'),
        TRADE.replace(b"1.55", b"-1.55"),
        QUOTE.replace(b"BTCUSDT", b"ETHUSDT"),
        QUOTE.replace(b"bookTicker", b"markPrice"),
        TRADE.replace(b'"t":5', b'"t":9223372036854775808'),
        TRADE[:-4],
        b"",
    ]
    terms = Terms(max_rejects=0.9)
    day, report = import_binance([capture(tmp_path, SNAPSHOT, *bad, TRADE)], tmp_path / "day", terms=terms)
    assert (report.n_records, report.n_unreadable, day.rows) == (2, len(bad), 4)
    numbers = sorted(int(problem.split(":")[1]) for problem in report.problems)
    assert numbers == list(range(2, len(bad) + 2))
    assert all(problem.startswith("usdm_btcusdt_20240808.gz:") for problem in report.problems)


@pytest.mark.parametrize(("line", "before"), [(DIFF, 9), (TRADE, 5)])
def test_an_update_or_trade_that_is_there_twice_is_refused_the_second_time(
    tmp_path: Path, line: bytes, before: int
) -> None:
    terms = Terms(max_rejects=0.5)
    day, report = import_binance([capture(tmp_path, SNAPSHOT, line, QUOTE, line)], tmp_path / "day", terms=terms)
    assert (day.rows, report.n_records, report.n_unreadable) == (6, 3, 1)
    assert report.problems == [f"usdm_btcusdt_20240808.gz:4: id {before} does not rise, {before} was there before"]
    (reject,) = map(json.loads, (tmp_path / "day.rejects.ndjson").read_bytes().splitlines())
    assert reject["text"] == line.decode()


def test_coin_margined_contracts_have_a_venue_of_their_own(tmp_path: Path) -> None:
    path = capture(tmp_path, TRADE.replace(b"BTCUSDT", b"BTCUSD_PERP"), name="cm_btcusd_perp_20240808.gz")
    day, _ = import_binance([path], tmp_path / "day")
    assert [i.text for i in day.instruments] == ["binance-cm.perpetual.BTC-USD"]
    with pytest.raises(InvalidInstrument, match="ends in none of"):
        import_binance([capture(tmp_path, name="spot_btcxyz_20240808.gz")], tmp_path / "other")


def lean_zip(folder: Path, text: str, name: str = "20131010_ibm_Quote_Tick.csv") -> Path:
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return path


def test_lean_lines_become_quotes_and_trades_at_new_york_time(tmp_path: Path) -> None:
    quotes = "14400874,1801700,400,0,0,P,1,0\n14400875,0,0,1848300,300,P,1,0\n14400876,1,1,2,2,,1,0\n"
    trades = "14400875,1801800,100,N,20002020,0\n"
    sources = [lean_zip(tmp_path, quotes), lean_zip(tmp_path, trades, "20131010_ibm_Trade_Tick.csv")]
    day, report = import_lean(sources, tmp_path / "day")
    assert (report.n_records, report.n_unreadable) == (4, 0)
    assert [i.text for i in day.instruments] == ["us-p.spot.IBM-USD", "us-unknown.spot.IBM-USD", "us-n.spot.IBM-USD"]
    four_o_clock = 1_381_392_000 * 10**9  # 2013-10-10T08:00Z is 04:00 in New York
    rows = rows_of(day)
    assert ((rows["ts_recv"] - four_o_clock) // 10**6).tolist() == [874, 875, 875, 876, 876]
    fields = ["instrument_id", "kind", "side", "price", "size", "flags"]
    one, tob = 10**9, Flag.TOB
    assert rows[fields].tolist() == [
        (0, Kind.QUOTE, Side.BID, 180_170_000_000, 400 * one, tob | Flag.LAST),
        (0, Kind.QUOTE, Side.ASK, 184_830_000_000, 300 * one, tob | Flag.LAST),
        (2, Kind.TRADE, Side.NONE, 180_180_000_000, 100 * one, Flag.LAST),
        (1, Kind.QUOTE, Side.BID, 100_000, one, tob),
        (1, Kind.QUOTE, Side.ASK, 200_000, 2 * one, tob | Flag.LAST),
    ]


def test_bad_lean_lines_are_counted_and_named(tmp_path: Path) -> None:
    good = "14400874,1801700,400,0,0,P,1,0"
    bad = [
        "",
        "14400874",
        good.replace("400", "4.5"),
        good.replace("P", "PQ"),
        "99999999" + good[8:],
        good + ",1",
        "x" + good,
    ]
    terms = Terms(max_rejects=0.9)
    day, report = import_lean([lean_zip(tmp_path, "\n".join([good, *bad, good, ""]))], tmp_path / "day", terms=terms)
    assert (day.rows, report.n_records, report.n_unreadable) == (2, 2, len(bad))
    rejects = [json.loads(line) for line in (tmp_path / "day.rejects.ndjson").read_text().splitlines()]
    assert [(reject["line"], reject["text"]) for reject in rejects] == list(enumerate(bad, 2))


# -- importers on real captures ----------------------------------------------------------------------------------------


@pytest.mark.data
def test_every_frame_of_the_binance_captures_is_read(binance: Imported) -> None:
    day, report = binance
    assert (report.n_records, report.n_unreadable) == (524_627, 0)
    assert verify_day(day.path).problems == []
    assert day.manifest.kinds["quote"] == 2 * 335_931
    assert [i.text for i in day.instruments] == [
        "binance-cm.perpetual.BTC-USD",
        "binance-cm.perpetual.ETH-USD",
        "binance.perpetual.BTC-USDT",
        "binance.perpetual.ETH-USDT",
        "binance.spot.BTC-USDT",
        "binance.spot.ETH-USDT",
    ]


@pytest.mark.data
def test_the_binance_books_have_no_gap_and_end_uncrossed_near_the_last_quote(binance: Imported) -> None:
    day, _ = binance
    rows = rows_of(day)
    books = rows[rows["kind"] == Kind.BOOK]
    whole = OfflineFold([instrument.text for instrument in day.instruments])
    whole.update(rows)
    for index, final in enumerate(whole.finals()):
        heads = books[books["instrument_id"] == index]
        events = heads[np.append(True, (heads["flags"][:-1] & Flag.LAST) != 0)]
        diffs = events[events["action"] != Action.CLEAR]
        assert (diffs["ref_id"][1:] == diffs["venue_seq"][:-1]).all()
        assert len(events) == len(diffs) + 1  # one snapshot serves both days
        assert final.quote is not None and final.bids[0, 0] < final.asks[0, 0]
        assert abs(final.bids[0, 0] - final.quote[0]) < final.quote[0] // 10_000


@pytest.mark.data
def test_every_lean_row_is_read_and_times_never_go_back(lean: Imported) -> None:
    day, report = lean
    assert (report.n_records, report.n_unreadable, day.rows) == (2_763_220, 0, 2_763_220)
    assert len(day.instruments) == 51
    assert verify_day(day.path).problems == []  # order included
    prices = rows_of(day)["price"]
    assert (prices[prices > 0] % 10**5 == 0).all()


@pytest.mark.data
def test_two_imports_of_the_same_files_are_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    sources = list((shared / "market_data" / "us_equity_ticks" / "ibm").glob("*.zip"))
    first, _ = import_lean(sources, tmp_path / "first")
    second, _ = import_lean(sources[::-1], tmp_path / "second")
    assert bytes_of(first.path) == bytes_of(second.path)


@pytest.mark.data
def test_the_digest_does_not_depend_on_the_size_of_batches(lean: Imported) -> None:
    assert fold(lean[0]) == fold(lean[0], 4_001)


@pytest.mark.parametrize("name", ["binance", "lean"])
def test_full_frames_of_real_days_take_at_most_32_bytes_a_tick_before_compression(
    name: str, request: pytest.FixtureRequest
) -> None:
    day, _ = request.getfixturevalue(name)
    registry = InstrumentRegistry()
    for instrument in day.instruments:
        registry.add(instrument)
    packer = FramePacker(registry, source=1, n_partitions=4, dense=True)
    frames = [frame for ticks in day.batches() for frame in packer.pack(ticks)]
    n_ticks = sum(frame.n_ticks for frame in frames)
    assert n_ticks == day.rows
    assert sum(len(frame.data) for frame in frames) / n_ticks <= 32
