"""Plain CSV and Parquet files with a map of their columns."""

from __future__ import annotations

import datetime as dt
import gzip
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import UnreadableSource
from models.market.fold import OfflineFold
from models.market.instruments import parse
from models.market.tick import Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.table_csv import import_csv
from streams.days.importers.table_form import TableForm
from streams.days.importers.table_parquet import import_parquet
from streams.days.verify import verify_day

BTC = parse("lab.spot.BTC-USD")
ONE = 10**9
T0 = 1_700_000_000  # 2023-11-14 22:13:20 UTC
HALF = Terms(max_rejects=0.9)
TRADE = TableForm("trade", instrument=BTC, time_unit="s")


def load_csv(folder: Path, text: str, form: TableForm, terms: Terms | None = None) -> tuple[TickArray, ImportReport]:
    path = folder / "x.csv"
    path.write_text(text, newline="")
    day, report = import_csv([path], folder / "day", form=form, terms=terms)
    return rows_of(day), report


def load_parquet(
    folder: Path, columns: dict[str, pa.Array], form: TableForm, terms: Terms | None = None
) -> tuple[TickArray, ImportReport]:
    path = folder / "x.parquet"
    pq.write_table(pa.table(columns), path)
    day, report = import_parquet([path], folder / "day", form=form, terms=terms)
    return rows_of(day), report


def rows_of(day: Day) -> TickArray:
    assert verify_day(day.path).problems == []
    return np.concatenate(list(day.batches()))


def of(rows: TickArray, *names: str) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows[list(names)].tolist()]


# -- what the columns hold ---------------------------------------------------------------------------------------------


def test_a_map_of_columns_makes_trades(tmp_path: Path) -> None:
    form = TableForm("trade", {"price": "px", "size": "qty", "ts": "time", "trade_id": "id"}, BTC, "ms")
    text = f'time,note,px,qty,side,id\n{T0}000,"a, b",100.5,2,Buy,17\n{T0}001.25,,-3,0.000000001,,x\n'
    rows, report = load_csv(tmp_path, text, form)
    assert (report.n_records, report.n_unreadable) == (2, 0)
    day = Day.open(tmp_path / "day")
    assert (day.name, [i.text for i in day.instruments]) == ("csv-x", ["lab.spot.BTC-USD"])
    assert day.manifest.origin.options == {
        "kind": "trade",
        "time_unit": "ms",
        "instrument": "lab.spot.BTC-USD",
        "column price": "px",
        "column size": "qty",
        "column trade_id": "id",
        "column ts": "time",
    }
    assert of(rows, "ts_event", "ts_recv", "kind", "action", "side", "price", "size", "ref_id", "flags") == [
        (T0 * ONE, T0 * ONE, Kind.TRADE, Action.TRADE, Side.BID, 100_500_000_000, 2 * ONE, 17, Flag.LAST),
        (T0 * ONE + 1_250_000, T0 * ONE + 1_250_000, Kind.TRADE, Action.TRADE, Side.NONE, -3 * ONE, 1, 0, Flag.LAST),
    ]


def test_quotes_have_their_two_sides_and_instruments_their_column(tmp_path: Path) -> None:
    text = (
        "ts_event,ts_recv,instrument,bid_price,bid_size,ask_price,ask_size,seq\n"
        f"{T0},{T0 + 1},lab.spot.BTC-USD,10,1,11,0,5\n{T0},{T0 + 1},eth,0.001,1.25,0.002,2,5\n"
    )
    form = TableForm("quote", time_unit="s", named={"eth": parse("lab.perpetual.ETH-USD")})
    rows, _ = load_csv(tmp_path, text, form)
    day = Day.open(tmp_path / "day")
    assert [(i.text, i.size_exp) for i in day.instruments] == [("lab.spot.BTC-USD", -9), ("lab.perpetual.ETH-USD", -2)]
    assert (rows["ts_recv"] - rows["ts_event"]).tolist() == [ONE] * 4
    update, delete, last = Action.UPDATE, Action.DELETE, Flag.TOB | Flag.LAST
    assert of(rows, "instrument_id", "venue_seq", "action", "side", "price", "size", "flags") == [
        (0, 5, update, Side.BID, 10 * ONE, ONE, Flag.TOB),
        (0, 5, delete, Side.ASK, 11 * ONE, 0, last),
        (1, 5, update, Side.BID, 1_000_000, 125, Flag.TOB),
        (1, 5, update, Side.ASK, 2_000_000, 200, last),
    ]


def test_level_updates_of_one_instant_are_one_event_and_snapshots_start_anew(tmp_path: Path) -> None:
    text = "ts,side,price,size,is_snapshot\n" + "".join(
        f"{T0 + n},{line}\n"
        for n, line in [(0, "bid,9,1,true"), (0, "ask,11,1,true"), (1, "b,9,0,false"), (1, "B,8,2,0"), (2, "A,7,1,1")]
    )
    rows, _ = load_csv(tmp_path, text, TableForm("book", instrument=BTC, time_unit="s"))
    assert rows["action"].tolist() == [Action.CLEAR, 1, 1, Action.DELETE, Action.UPDATE, Action.CLEAR, 1]
    assert ((rows["flags"] & Flag.LAST) > 0).tolist() == [False, False, True, False, True, False, True]
    fold = OfflineFold(["lab.spot.BTC-USD"])
    fold.update(rows)
    assert (fold.finals()[0].bids.tolist(), fold.finals()[0].asks.tolist()) == ([], [[7 * ONE, ONE]])


def test_a_sequence_number_that_is_there_twice_is_refused_the_second_time(tmp_path: Path) -> None:
    form = TableForm("trade", time_unit="s")
    numbers = [("A", 1), ("B", 1), ("A", 2), ("A", 2), ("B", 3), ("B", 2), ("A", 3)]
    text = "ts,price,size,instrument,seq\n" + "".join(f"{T0},1,1,lab.spot.{i}-USD,{seq}\n" for i, seq in numbers)
    rows, report = load_csv(tmp_path, text, form, HALF)
    assert of(rows, "instrument_id", "venue_seq") == [(0, 1), (1, 1), (0, 2), (1, 3), (0, 3)]
    assert report.problems == [
        "x.csv:5: seq 2 does not rise, 2 was there before",
        "x.csv:7: seq 2 does not rise, 3 was there before",
    ]
    reject = (tmp_path / "day.rejects.ndjson").read_text().splitlines()[1]
    assert f"{T0},1,1,lab.spot.B-USD,2" in reject


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"{T0},1", "Expected 3 columns, got 2"),
        (f"{T0},1,2,3", "Expected 3 columns, got 4"),
        (f"{T0},,1", "price is empty"),
        (f"{T0},1,-1", "size is negative"),
        (",1,1", "ts is empty"),
        (f"{T0 // 1000},1,1", r"ts is not between 1980 and 2100: is the unit right\?"),
        (f"{T0}000,1,1", "ts does not fit int64 with exponent -9"),
        (f"{T0}.0000000001,1,1", "would cause data loss"),
        (f'{T0},"1,1', "a line is not one row|Expected 3 columns"),
        ("ts,price,size", "CSV column #0"),
        ("", "an empty line"),
    ],
)
def test_lines_that_cannot_be_are_refused(tmp_path: Path, line: str, reason: str) -> None:
    rows, report = load_csv(tmp_path, f"ts,price,size\n{T0},1,1\n{line}\n{T0},2,1\n", TRADE, HALF)
    assert rows["price"].tolist() == [ONE, 2 * ONE]
    assert len(report.problems) == 1 and re.search(f"x.csv:3: .*({reason})", report.problems[0]), report.problems


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        ("ts,px,size", {}, "no column for price among ts, px, size; say which it is with --map"),
        ("price,size", {}, r"no column for ts \(or ts_event and ts_recv\)"),
        ("ts_event,price,size", {}, "no column for ts"),
        ("ts,price,price,size", {}, "two columns are named 'price'"),
        ("ts,price,size", {"price": "last"}, "no column 'last' among ts, price, size"),
        ("ts,price,size", {"bid": "price"}, "a trade has no field 'bid'; it has"),
        (f"{T0},1,2", {}, "no column for price, size"),
    ],
)
def test_a_header_without_the_columns_is_an_error(
    tmp_path: Path, header: str, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(UnreadableSource, match=message):
        load_csv(tmp_path, f"{header}\n{T0},1,1\n", TableForm("trade", columns, BTC, "s"))


def test_rows_without_an_instrument_are_refused_beside_those_that_have_one(tmp_path: Path) -> None:
    text = f"ts,price,size,instrument\n{T0},1,1,lab.spot.A-USD\n{T0},1,1,\n{T0},1,1,B\n{T0},1,1,lab.spot.C-USD\n"
    rows, report = load_csv(tmp_path, text, TableForm("trade", time_unit="s"), HALF)
    assert rows["instrument_id"].tolist() == [0, 1]
    assert [problem.split(":")[1] for problem in report.problems] == ["3", "4"]
    (tmp_path / "x.csv").write_text("ts,price,size\n1,1,1\n")
    with pytest.raises(UnreadableSource, match=r"no column for instrument \(or --instrument\)"):
        import_csv([tmp_path / "x.csv"], tmp_path / "other", form=TableForm("trade", time_unit="s"))


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "unit", "tz", "ns"),
    [
        (f"{T0}", "s", None, T0 * ONE),
        (f"{T0}.123456789", "s", None, T0 * ONE + 123_456_789),
        (f"{T0}123", "ms", None, T0 * ONE + 123_000_000),
        (f"{T0}123456", "us", None, T0 * ONE + 123_456_000),
        (f"{T0}123456789", "ns", None, T0 * ONE + 123_456_789),
        ("2023-11-14T22:13:20Z", None, None, T0 * ONE),
        ("2023-11-14 22:13:20.000000001+00:00", None, None, T0 * ONE + 1),
        ("2023-11-14 23:43:20+0130", None, None, T0 * ONE),
        ("2023-11-14T17:13:20.5-05:00", None, None, T0 * ONE + 500_000_000),
        ("2023-11-14 22:13:20", None, "UTC", T0 * ONE),
        ("2023-11-14 17:13:20", None, "America/New_York", T0 * ONE),
        ("2023-07-14 12:00:00", None, "Europe/Berlin", 1_689_328_800 * ONE),
    ],
)
def test_times_of_every_unit_and_zone_are_exact(
    tmp_path: Path, text: str, unit: str | None, tz: str | None, ns: int
) -> None:
    form = TableForm("trade", instrument=BTC, time_unit=unit, tz=tz)
    rows, _ = load_csv(tmp_path, f"ts,price,size\n{text},1,1\n", form)
    assert rows["ts_event"].tolist() == [ns]


@pytest.mark.parametrize(
    ("text", "unit", "tz", "message"),
    [
        ("2023-11-14 22:13:20", None, None, "times in ts say no zone: say it with --tz"),
        ("2023-11-14T22:13:20Z", None, "UTC", "times in ts say their zone themselves: drop --tz"),
        (f"{T0}", "s", "UTC", "counts from 1970 UTC: drop --tz"),
        ("2023-11-14 22:13:20", None, "Europe/Atlantis", "is no time zone"),
        (f"{T0}", "fortnight", None, "its times of unit s, ms, us, ns"),
    ],
)
def test_a_zone_or_unit_that_is_not_said_is_never_guessed(
    tmp_path: Path, text: str, unit: str | None, tz: str | None, message: str
) -> None:
    form = TableForm("trade", instrument=BTC, time_unit=unit, tz=tz)
    with pytest.raises(UnreadableSource, match=message):
        load_csv(tmp_path, f"ts,price,size\n{text},1,1\n", form)


@pytest.mark.parametrize("other", ["2023-11-14T22:13:21+01:00", "2023-11-14T22:13:21"])
def test_mixed_time_zones_in_one_file_are_refused(tmp_path: Path, other: str) -> None:
    form = TableForm("trade", instrument=BTC)
    lines = ["2023-11-14T22:13:20Z", other, "2023-11-14T22:13:22+00:00"]
    rows, report = load_csv(tmp_path, "ts,price,size\n" + "".join(f"{line},1,1\n" for line in lines), form, HALF)
    assert (rows["ts_event"] // ONE).tolist() == [T0, T0 + 2]
    assert len(report.problems) == 1 and "x.csv:3: mixed time zones: ts is of" in report.problems[0]


def test_times_that_clocks_show_twice_or_never_and_strange_texts_are_refused(tmp_path: Path) -> None:
    form = TableForm("trade", instrument=BTC, tz="Europe/Berlin")
    bad = ["2023-10-29 02:30:00", "2023-03-26 02:30:00", "2023-02-30 00:00:00", "14.11.2023 22:00", "2023-11-14"]
    lines = ["2023-11-14 23:13:20", *bad]
    rows, report = load_csv(tmp_path, "ts,price,size\n" + "".join(f"{line},1,1\n" for line in lines), form, HALF)
    assert rows["ts_event"].tolist() == [T0 * ONE]
    assert [int(problem.split(":")[1]) for problem in report.problems] == [3, 4, 5, 6, 7]


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_cut_csv_is_refused_at_its_last_line(tmp_path: Path) -> None:
    rows, report = load_csv(tmp_path, f"ts,price,size\n{T0},1,1\n{T0},1,1", TRADE, HALF)
    assert len(rows) == 1 and report.problems[0].startswith("x.csv:3: the file ends inside this line")


def test_a_packed_csv_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(f"\ufeffts,price,size\r\n{T0},1,2\r\n{T0},3,4\r\n".encode()))
    day, report = import_csv([path], tmp_path / "day", form=TRADE)
    assert of(rows_of(day), "price", "size") == [(ONE, 2 * ONE), (3 * ONE, 4 * ONE)] and not report.n_unreadable


@pytest.mark.parametrize("text", ["", "ts,price,size\n"])
def test_a_csv_without_rows_makes_no_day(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnreadableSource, match=r"no rows in x\.csv"):
        load_csv(tmp_path, text, TRADE)


def instants(*values: int, unit: str = "us", tz: str | None = "UTC") -> pa.Array:
    return pa.array([v * 10**6 for v in values], pa.int64()).cast(pa.timestamp(unit, tz))


@pytest.mark.parametrize(
    "numbers",
    [
        pa.array([Decimal("1.5"), Decimal("2")], pa.decimal128(20, 4)),
        pa.array([Decimal("1.5"), Decimal("2")], pa.decimal256(40, 2)),
        pa.array(["1.5", "2"]),
        pa.array(["1.5", "2"]).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_parquet_takes_exact_numbers_of_every_type(tmp_path: Path, numbers: pa.Array) -> None:
    columns = {"ts": instants(T0, T0 + 1), "price": numbers, "size": pa.array([7, 8], pa.int32())}
    rows, report = load_parquet(tmp_path, columns, TableForm("trade", instrument=BTC))
    assert of(rows, "price", "size") == [(1_500_000_000, 7 * ONE), (2 * ONE, 8 * ONE)] and not report.n_unreadable
    assert (rows["ts_event"] // ONE).tolist() == [T0, T0 + 1]


def test_parquet_floats_are_refused_because_they_are_not_exact(tmp_path: Path) -> None:
    columns = {"ts": instants(T0), "price": pa.array([0.1]), "size": pa.array([1])}
    with pytest.raises(UnreadableSource, match=r"column price is double, and a float does not hold 0\.1"):
        load_parquet(tmp_path, columns, TableForm("trade", instrument=BTC))


@pytest.mark.parametrize(
    ("times", "unit", "tz", "message"),
    [
        (instants(T0, tz=None), None, None, "times in ts say no zone"),
        (instants(T0), None, "UTC", "say their zone themselves"),
        (instants(T0), "us", None, "which has a unit: drop --time-unit"),
        (pa.array([T0]), None, None, "say --time-unit"),
        (pa.array([dt.date(2023, 11, 14)]), None, None, "times are whole numbers, decimals, timestamps or texts"),
    ],
)
def test_parquet_times_need_a_unit_and_a_zone(
    tmp_path: Path, times: pa.Array, unit: str | None, tz: str | None, message: str
) -> None:
    columns = {"ts": times, "price": pa.array([1]), "size": pa.array([1])}
    with pytest.raises(UnreadableSource, match=message):
        load_parquet(tmp_path, columns, TableForm("trade", instrument=BTC, time_unit=unit, tz=tz))


def test_parquet_rows_that_cannot_be_are_refused_by_number(tmp_path: Path) -> None:
    columns = {
        "ts": pa.chunked_array([instants(*[T0 + n for n in range(6)], tz=None)]),
        "price": pa.array(["1", None, "x", "4", "5", "1e3"]),
        "size": pa.array([1, 1, 1, -1, 1, 1]),
    }
    rows, report = load_parquet(tmp_path, columns, TableForm("trade", instrument=BTC, tz="America/New_York"), HALF)
    assert rows["price"].tolist() == [ONE, 5 * ONE, 1000 * ONE]
    assert (rows["ts_event"] // ONE - T0).tolist() == [5 * 3600, 5 * 3600 + 4, 5 * 3600 + 5]
    assert [problem.split(":")[1] for problem in report.problems] == ["2", "3", "4"]
    assert "'size': -1" in (tmp_path / "day.rejects.ndjson").read_text()


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"ts": instants(*range(T0, T0 + 5000)), "price": list(range(5000)), "size": [1] * 5000}), path
    )
    whole, form = path.read_bytes(), TableForm("trade", instrument=BTC)
    for damaged in (whole[:-100], whole[:50], whole[:1000] + bytes(3000) + whole[4000:]):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableSource, match=r"x\.parquet: the file is cut or damaged from line"):
            import_parquet([path], tmp_path / "day", form=form)


def test_the_same_rows_from_csv_and_parquet_are_the_same_bytes(tmp_path: Path) -> None:
    n = 150_000
    ts = T0 * 1000 + np.arange(n) // 7
    columns = {"ts": pa.array(ts), "price": pa.array(np.arange(n) % 1000 + 1), "size": pa.array(np.arange(n) % 17)}
    form = TableForm("trade", instrument=BTC, time_unit="ms")
    load_parquet(tmp_path, columns, form)
    lines = "".join(f"{t},{k % 1000 + 1},{k % 17}\n" for k, t in enumerate(ts.tolist()))
    (tmp_path / "c").mkdir()
    load_csv(tmp_path / "c", "ts,price,size\n" + lines, form)
    assert (tmp_path / "day" / "ticks.parquet").read_bytes() == (tmp_path / "c" / "day" / "ticks.parquet").read_bytes()
