"""A day as Arrow, and as frames inside the process; the examples of docs/days.md run."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from models.days.plan import FaultPlan
from models.errors import NothingSelected
from models.market.tick import Flag, Kind, TickArray
from streams.clock import SettableClock
from streams.days.day import Day
from streams.days.feed import Selection
from streams.days.frames import replay
from streams.days.manifest import Origin
from streams.days.writer import DayWriter

ROOT = Path(__file__).parents[2]
DAY = Day.open(ROOT / "replay_data" / "sample-day")
S = 10**9


@pytest.fixture(scope="module")
def rows() -> TickArray:
    return np.concatenate(list(DAY.batches()))


def test_all_columns_are_the_rows_and_their_instruments(rows: TickArray) -> None:
    reader = DAY.to_arrow(batch_rows=1000)
    assert isinstance(reader, pa.RecordBatchReader)
    table = reader.read_all()
    assert table.schema.names == [*(rows.dtype.names or ()), "instrument"]
    for name in rows.dtype.names or ():
        column = table.column(name)
        values = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        assert np.array_equal(values.to_numpy(), rows[name]), name
    texts = [instrument.text for instrument in DAY.instruments]
    assert table.column("instrument").to_pylist() == [texts[i] for i in rows["instrument_id"]]


def test_times_instruments_kinds_and_columns_are_chosen(rows: TickArray, tmp_path: Path) -> None:
    with DayWriter(tmp_path / "day", name="day", origin=Origin(), row_group=4_000) as writer:
        writer.append(rows)
        day = writer.finish(DAY.instruments)
    start, stop = DAY.manifest.ts_recv_min + 100 * S, DAY.manifest.ts_recv_min + 500 * S
    chosen = ["binance.spot.BTC-USDT", "okx.spot.ETH-USDT"]
    reader = day.to_arrow(
        ["seq", "price_value", "size_value"],
        start_ns=start,
        stop_ns=stop,
        instruments=chosen,
        kinds=["trade", Kind.QUOTE],
    )
    table = reader.read_all()
    texts = np.array([instrument.text for instrument in DAY.instruments])[rows["instrument_id"]]
    wanted = rows[
        (rows["ts_recv"] >= start) & (rows["ts_recv"] < stop) & np.isin(texts, chosen) & np.isin(rows["kind"], [1, 2])
    ]
    assert table.schema.names == ["seq", "price_value", "size_value"]
    assert np.array_equal(table.column("seq").to_numpy(), wanted["seq"])
    exponents = np.array([(i.price_exp, i.size_exp) for i in DAY.instruments])[wanted["instrument_id"]]
    assert table.column("price_value").to_numpy()[0] == wanted["price"][0] / 10.0 ** -exponents[0, 0]
    assert np.allclose(table.column("size_value").to_numpy(), wanted["size"] * 10.0 ** exponents[:, 1])
    for wrong in ({"columns": ["prize"]}, {"instruments": ["a.spot.B-C"]}, {"kinds": ["tick"]}):
        with pytest.raises(NothingSelected):
            day.to_arrow(**wrong)
    assert day.to_arrow(stop_ns=5).read_all().num_rows == 0


def test_row_groups_outside_of_the_time_are_not_read(rows: TickArray, tmp_path: Path) -> None:
    with DayWriter(tmp_path / "day", name="day", origin=Origin(), row_group=4_000) as writer:
        writer.append(rows)
        day = writer.finish(DAY.instruments)
    path = tmp_path / "day" / "ticks.parquet"
    start = int(rows["ts_recv"][-3000])
    wanted = day.to_arrow(start_ns=start).read_all()
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    assert day.to_arrow(start_ns=start).read_all().equals(wanted)


def test_polars_and_duckdb_read_it(rows: TickArray) -> None:
    trades = rows[rows["kind"] == Kind.TRADE]
    by_polars = pl.from_arrow(DAY.to_arrow(["instrument", "price"], kinds=["trade"]))
    assert isinstance(by_polars, pl.DataFrame)
    assert (by_polars.height, by_polars["price"].sum()) == (len(trades), int(trades["price"].sum()))
    reader = DAY.to_arrow(["instrument", "price"], kinds=["trade"])
    with duckdb.connect() as connection:
        connection.register("trades", reader)
        assert connection.sql("SELECT count(*), sum(price) FROM trades").fetchall() == [
            (len(trades), int(trades["price"].sum()))
        ]


async def test_frames_come_at_once_without_a_speed(rows: TickArray) -> None:
    stream = replay(DAY)
    frames = [frame.ticks async for frame in stream]
    assert np.array_equal(np.concatenate(frames), rows)
    assert [i.text for i in stream.instruments] == [i.text for i in DAY.instruments]
    again = [frame.ticks async for frame in stream]
    assert np.array_equal(np.concatenate(again), rows)


@pytest.mark.parametrize("pace", [{"speed": 50_000.0}, {"rate": 5_000_000.0}])
async def test_at_a_pace_frames_come_when_they_are_due(rows: TickArray, pace: dict[str, float]) -> None:
    clock = SettableClock(1_760_000_000 * S)

    def look() -> int:
        clock.advance(100_000)
        return clock()

    frames = [frame async for frame in replay([DAY], clock=look, **pace)]  # type: ignore[arg-type]
    assert np.array_equal(np.concatenate([frame.ticks for frame in frames]), rows)
    assert len(frames) > 3
    assert all(frame.late_ns >= 0 and frame.ticks["flags"][-1] & Flag.LAST for frame in frames)
    gaps = {
        "speed": lambda tick: int((tick["ts_recv"] - rows["ts_recv"][0]) / 50_000),
        "rate": lambda tick: int((int(tick["seq"]) - 1) * 200),
    }
    (gap,) = (gaps[name] for name in pace)
    assert len({frame.due_ns - gap(frame.ticks[-1]) for frame in frames}) == 1


async def test_selections_and_faults_work_without_kafka(rows: TickArray) -> None:
    plan = FaultPlan(seed=1, faults=())
    some = replay(str(DAY.path), selection=Selection(venues=("okx",)), faults=plan)
    frames = [frame.ticks async for frame in some]
    assert sum(map(len, frames)) == sum(e.rows for e in DAY.manifest.instruments if e.venue == "okx")
    for wrong in ({"speed": 0.0}, {"rate": -1.0}, {"speed": 1.0, "rate": 1.0}):
        with pytest.raises(ValueError):
            replay(DAY, **wrong)  # type: ignore[arg-type]


def test_the_examples_of_the_documentation_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "days.md").read_text()
    (section,) = re.findall(r"## In Python\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        exec(compile(example, "docs/days.md", "exec"), {"__name__": "example"})
    assert "binance.perpetual.BTC-USDT" in capsys.readouterr().out
