"""Parquet files that say little and unpack to much are refused before they are unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.errors import UnreadableSource
from models.market.instruments import parse
from streams.days.importers import table_parquet
from streams.days.importers.report import Terms
from streams.days.importers.table_form import TableForm
from streams.days.importers.table_parquet import import_parquet
from streams.days.pages import Pages, pages_of
from streams.days.verify import verify_day

T0 = 1_700_000_000_000
FORM = TableForm("trade", instrument=parse("lab.spot.BTC-USD"), time_unit="ms")
MIB = 1 << 20


def trades(n: int, *, more: dict[str, pa.Array] | None = None) -> pa.Table:
    rng = np.random.default_rng(1)
    ts, price = T0 + np.cumsum(rng.integers(0, 3, n)), rng.integers(10**5, 10**6, n)
    return pa.table({"ts": ts, "price": price, "size": rng.integers(1, 10**4, n)} | (more or {}))


def pages(path: Path, columns: list[str]) -> list[Pages]:
    with pq.ParquetFile(path) as parquet:
        return list(pages_of(path, parquet.metadata, columns))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_the_headers_of_pages_say_what_the_footer_sums_up(tmp_path: Path, codec: str, version: str) -> None:
    text = pa.array([f"{'long' * 300}{n % 50}" for n in range(40_000)])  # their least and largest are in the headers
    table, path = trades(40_000, more={"side": text}), tmp_path / "x.parquet"
    pq.write_table(
        table, path, compression=codec, data_page_version=version, row_group_size=15_000, data_page_size=20_000
    )
    found = pages(path, ["ts", "side"])
    with pq.ParquetFile(path) as parquet:
        for number, group in enumerate(found):
            chunks = [parquet.metadata.row_group(number).column(k) for k in (0, 3)]
            n_headers = sum(chunk.total_uncompressed_size for chunk in chunks) - group.unpacked
            assert 0 <= n_headers < 0.2 * group.unpacked or group.unpacked == 8 * sum(c.num_values for c in chunks)
            assert 20_000 < group.largest < group.unpacked
    assert len(found) == 3


def test_a_page_that_says_more_than_the_footer_is_seen(tmp_path: Path) -> None:
    """A page of 2 MiB whose header says 128 MiB; the footer knows nothing of it."""
    path, n = tmp_path / "x.parquet", 262_144
    pq.write_table(trades(n), path, use_dictionary=False, data_page_size=1 << 30, max_rows_per_page=n)
    import_parquet([path], tmp_path / "day", form=FORM)
    with pq.ParquetFile(path) as parquet:
        at = parquet.metadata.row_group(0).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    assert data[at : at + 3] == b"\x15\x00\x15" and data[at + 6] < 128 <= data[at + 5]  # a number of four bytes
    data[at + 3 : at + 7] = b"\xfe\xff\xff\x7f"
    path.write_bytes(data)
    assert pages(path, ["price"]) == [Pages((1 << 27) - 1, (1 << 27) - 1)]
    with pytest.raises(UnreadableSource, match=r"x\.parquet: a page of each column unpacks to 138\d{6} bytes"):
        import_parquet([path], tmp_path / "no", form=FORM)


def test_rows_that_take_no_bytes_are_a_bomb(tmp_path: Path) -> None:
    """Runs of equal dictionary entries: 20 million rows in some kilobytes."""
    path, n = tmp_path / "x.parquet", 20_000_000
    table = pa.table({name: pa.array(np.full(n, value)) for name, value in (("ts", T0), ("price", 1), ("size", 1))})
    pq.write_table(table, path, row_group_size=n)
    assert path.stat().st_size < MIB
    with pytest.raises(UnreadableSource, match=r"bytes unpack to 480000000, .* a decompression bomb"):
        import_parquet([path], tmp_path / "day", form=FORM)


def test_a_long_text_is_refused_before_it_stands_in_every_row(tmp_path: Path) -> None:
    path, n = tmp_path / "x.parquet", 65_536
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["1" * 4_000_000]))
    pq.write_table(trades(n, more={"trade_id": text}), path)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(UnreadableSource, match="column trade_id has a text of 4000000 bytes from row 1 on"):
        import_parquet([path], tmp_path / "day", form=FORM)
    assert pa.default_memory_pool().max_memory() < before + 256 * MIB  # 262 GB, were it in every row


def test_pages_that_do_not_fit_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{n}.parquet" for n in range(3)]
    for path in paths:
        pq.write_table(trades(100_000), path, data_page_size=MIB, use_dictionary=False, max_rows_per_page=1 << 30)
    monkeypatch.setattr(table_parquet, "MAX_PAGES_BYTES", 5 * MIB)
    import_parquet(paths[:1], tmp_path / "one", form=FORM)
    with pytest.raises(UnreadableSource, match="write it with smaller pages, or import fewer files at once"):
        import_parquet(paths, tmp_path / "all", form=FORM)


@pytest.mark.parametrize("column", [pa.array([[1]] * 5), pa.array([b"12345678"] * 5, pa.binary(8))])
def test_a_column_of_lists_or_bytes_is_no_price(tmp_path: Path, column: pa.Array) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(trades(5).set_column(1, "price", column), path)
    with pytest.raises(UnreadableSource, match=r"column price is .*: neither numbers, times nor texts"):
        import_parquet([path], tmp_path / "day", form=FORM)


def test_what_stands_before_a_damaged_row_group_is_kept_if_wanted(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(trades(30_000), path, row_group_size=10_000)
    with pq.ParquetFile(path) as parquet:
        at = parquet.metadata.row_group(1).column(0).dictionary_page_offset
    data = path.read_bytes()
    path.write_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])
    with pytest.raises(UnreadableSource, match=r"x\.parquet: the file is cut or damaged from line 10001 on"):
        import_parquet([path], tmp_path / "no", form=FORM)
    day, report = import_parquet([path], tmp_path / "day", form=FORM, terms=Terms(keep_cut=True))
    assert (day.rows, report.n_unreadable) == (10_000, 1) and verify_day(day.path).ok
