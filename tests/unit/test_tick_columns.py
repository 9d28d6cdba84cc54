"""Table rows and files as JSON ticks, without a network."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import TickRefused, UnreadableSource
from models.market.json_refusals import MAX_BYTES
from streams.client.columns import SourceBatch, fields_of, json_tick
from streams.client.sources import TickSource

TRADE = ["instrument", "kind", "ts_ns", "price", "size", "side"]
COLUMNS = {"instrument": ["binance.spot.BTC-USDT"], "kind": ["trade"], "ts_ns": [5], "price": ["1.5"], "size": ["2"]}


async def read(path: Path) -> list[SourceBatch]:
    return [batch async for batch in TickSource(str(path)).batches()]


def test_a_trade_row_becomes_the_json_tick_of_the_same_words() -> None:
    row = ["okx.options.BTC-USD-260101-4.5-C", "trade", "1760000000000000000", "64000.5", "0.25", "buy"]
    assert msgspec.json.decode(json_tick(fields_of(TRADE, "f"), row)) == {
        "exchange": "okx",
        "market_type": "options",
        "symbol": "BTC-USD-260101-4.5-C",
        "data_type": "trade",
        "ts_ns": 1760000000000000000,
        "price": "64000.5",
        "quantity": "0.25",
        "side": "buy",
    }


def test_empty_cells_are_absent_and_unknown_columns_ignored() -> None:
    fields = fields_of([*TRADE, "colour"], "f")
    tick = msgspec.json.decode(json_tick(fields, ["a.spot.B-C", "trade", 1, Decimal("1E-9"), None, "", "red"]))
    assert set(tick) == {"exchange", "market_type", "symbol", "data_type", "ts_ns", "price"}
    assert tick["price"] == "0.000000001"


def test_book_levels_are_a_json_array_in_a_cell() -> None:
    fields = fields_of(["instrument", "kind", "ts_ms", "update_type", "bids", "asks"], "f")
    tick = msgspec.json.decode(json_tick(fields, ["a.spot.B-C", "book", "1", "delta", '[["1","2"]]', "[]"]))
    assert (tick["data_type"], tick["bids"], tick["asks"]) == ("orderbook", [["1", "2"]], [])
    with pytest.raises(TickRefused, match="bad_json: asks"):
        json_tick(fields, ["a.spot.B-C", "book", "1", "delta", "[]", "[["])


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (["price"], "no column instrument .* and no column kind and no column ts_ns"),
        (["exchange", "symbol", "kind", "ts_ms"], "no column instrument"),
        ([*TRADE, "quantity"], "two columns mean quantity"),
    ],
)
def test_columns_that_make_no_tick_are_named(columns: list[str], complaint: str) -> None:
    with pytest.raises(UnreadableSource, match=complaint):
        fields_of(columns, "f")


async def test_a_csv_keeps_the_original_line_and_number_of_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfinstrument,kind,ts_ns,price,size\r\n\r\na.spot.B-C,trade,1,"1",2\r\nx,trade,1\n')
    (first,) = await read(path)
    assert (first.numbers, first.originals) == ([3], [b'a.spot.B-C,trade,1,"1",2'])
    assert [(line, number, r.reason) for line, number, r in first.refused] == [(b"x,trade,1", 4, "bad_json")]


async def test_lines_are_whole_however_the_blocks_fall(tmp_path: Path) -> None:
    lines = [b"%d" % i * (1 + i % 700) for i in range(9000)]
    path = tmp_path / "t.ndjson"
    path.write_bytes(b"\n".join(lines))
    batches = await read(path)
    assert len(batches) > 2
    assert [line for batch in batches for line in batch.ticks] == lines
    assert [n for batch in batches for n in batch.numbers] == list(range(1, len(lines) + 1))


async def test_a_line_without_end_is_cut_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.ndjson"
    path.write_bytes(b"a\n" + b"x" * (5 * MAX_BYTES) + b"\nb\n")
    found = [line for batch in await read(path) for line in batch.ticks]
    assert [len(line) for line in found] == [1, MAX_BYTES + 1, 1]
    assert found[-1] == b"b"


async def test_parquet_rows_keep_every_digit_whatever_type_holds_them(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "instrument": pa.array(["binance.spot.BTC-USDT"] * 2).dictionary_encode(),
            "kind": ["trade", "trade"],
            "ts_event_ns": pa.array([datetime(2025, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal("0.000000001"), Decimal("99999999999.123456789")], pa.decimal128(38, 9)),
            "size": pa.array([7, None], pa.int64()),
            "note": [1.5, 2.5],
        }
    )
    pq.write_table(table, path)
    (batch,) = await read(path)
    first, second = (msgspec.json.decode(tick) for tick in batch.ticks)
    assert (first["price"], second["price"]) == ("0.000000001", "99999999999.123456789")
    assert (first["quantity"], "quantity" in second) == ("7", False)
    assert first["ts_ns"] == 1735689600 * 10**9


async def test_float_columns_of_parquet_are_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({**COLUMNS, "price": [1.5]}), path)
    with pytest.raises(UnreadableSource, match=r"column price is double.*decimal128\(38, 9\)"):
        await read(path)


async def test_a_page_of_parquet_whose_checksum_is_another_is_not_published(tmp_path: Path) -> None:
    """One digit of a price was changed, which can be decoded like any other."""
    path, n = tmp_path / "t.parquet", 6_000
    rows = {name: pa.array(values * n) for name, values in COLUMNS.items()}
    rows["price"] = pa.array([f"{i}.5" for i in range(n)])
    # The first batch is whole: it ends with the first row group.
    pq.write_table(
        pa.table(rows), path, compression="none", use_dictionary=False, write_page_checksum=True, row_group_size=4_096
    )
    data = path.read_bytes()
    assert data.count(b"5000.5") == 1
    path.write_bytes(data.replace(b"5000.5", b"6000.5"))
    source, batches = TickSource(str(path)), []
    with pytest.raises(UnreadableSource, match=r"t\.parquet: the file is damaged, row 4097 and on .*fetch it again"):
        async for batch in source.batches():
            batches.append(batch)  # noqa: PERF401 - what came before the error is looked at
    assert [len(batch.ticks) for batch in batches] == [4_096]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.parquet", b"PAR1 and nothing", "not a readable Parquet file"),
        ("t.csv", b"\xff\xfe\x00,\n1\n", "no CSV header"),
        ("t.txt", b"", "unknown extension"),
    ],
)
async def test_a_file_that_is_not_of_its_format_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableSource, match=complaint) as caught:
        await read(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named() -> None:
    with pytest.raises(UnreadableSource, match="no such file"):
        TickSource("nowhere.csv")
