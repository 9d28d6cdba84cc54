"""An import's memory does not grow with its input: every importer, and with `-m soak` on files five times as long."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import databento_dbn as dbn_library
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.replay.test_dbn import metadata

LIMIT_MB = 500
# The high-water mark of the child's own memory; what its parent held does not count
CHILD = """
import sys
from pathlib import Path
from models.market.instruments import parse
from streams.days.importers.{module} import import_{name} as run
from streams.days.importers.dbn import DbnNames
from streams.days.importers.table_form import TableForm
day, report = run([Path(path) for path in sys.argv[2:]], Path(sys.argv[1]), {options})
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(day.rows, report.n_unreadable, peak_kb)
"""


def levels(rng: random.Random, n: int) -> str:
    return ",".join(f'["{rng.randrange(10**6)}.{rng.randrange(100)}","{rng.randrange(1000)}"]' for _ in range(n))


FORM = "form=TableForm('trade', instrument=parse('lab.spot.BTC-USD'), time_unit='ms')"
OPTIONS = {
    "csv": FORM,
    "parquet": FORM,
    "dbn": "names=DbnNames('spot', 'USD')",
}


def binance(folder: Path, scale: int) -> tuple[list[Path], int]:
    """Snapshots of up to 4 MiB a line, then quotes that all came in one instant."""
    rng = random.Random(1)
    n_levels, n_snapshots, n_quotes = 180_000, 12 * scale, 500_000 * scale
    path = folder / "spot_btcusdt_20240808.gz"
    quote = '{"stream":"btcusdt@bookTicker","data":{"u":%d,"s":"BTCUSDT","b":"%d.5","B":"1","a":"%d.6","A":"3"}}\n'
    block = "".join(f"99 {quote % (n, rng.randrange(9999), rng.randrange(9999))}" for n in range(50_000)).encode()
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for n in range(n_snapshots):
            line = f'{n + 1} {{"lastUpdateId":{n},"bids":[{levels(rng, n_levels)}],"asks":[]}}\n'
            assert len(line) < 4 << 20
            stream.write(line.encode())
        for _ in range(n_quotes // 50_000):
            stream.write(block)
    return [path], n_snapshots * (n_levels + 1) + 2 * n_quotes


def tardis(folder: Path, scale: int) -> tuple[list[Path], int]:
    """Three million updates of one event a receipt, and a file of trades beside them."""
    rng = random.Random(1)
    us, n_lines, times = 1_600_000_000_000_000, 50_000, 60 * scale
    head, name = "exchange,symbol,timestamp,local_timestamp,", "binance-futures_{}_2020-09-13_BTCUSDT.csv.gz"
    block = "".join(
        f"binance-futures,BTCUSDT,{us + n},{us + n},{{}}{side},{rng.randrange(99999)},{rng.randrange(50)}\n"
        for n in range(n_lines)
        for side in (("bid", "ask")[n & 1],)
    )
    paths = [folder / name.format(what) for what in ("incremental_book_L2", "trades")]
    for path, columns, before in zip(paths, ("is_snapshot", "id"), ("true,", "7,"), strict=True):
        text = block if columns != "id" else block.replace("bid", "buy").replace("ask", "sell")
        with gzip.open(path, "wb", compresslevel=1) as stream:
            stream.write(f"{head}{columns},side,price,amount\n".encode())
            for _ in range(times // 2):
                stream.write(text.replace("{}", before).encode())
    return paths, n_lines * times + 1


def lean(folder: Path, scale: int) -> tuple[list[Path], int]:
    """Five million quotes in forty files."""
    rng = random.Random(1)
    block = "".join(
        f"{n},{rng.randrange(1, 10**7)},{rng.randrange(1, 900)},0,0,P,1,0\n" for n in range(62_500)
    ).encode()
    paths = [folder / f"{n}.zip" for n in range(40)]
    for n, path in enumerate(paths):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(f"20131010_a{n}_Quote_Tick.csv", block * 2 * scale)
    return paths, 5_000_000 * scale


def csv(folder: Path, scale: int) -> tuple[list[Path], int]:
    """Trades of a plain table."""
    rng = random.Random(1)
    block = "".join(f"{1_700_000_000_000 + n},{rng.randrange(10**6)}.5,{rng.randrange(900)}\n" for n in range(100_000))
    path = folder / "x.csv"
    with path.open("w") as stream:
        stream.write("ts,price,size\n")
        for _ in range(30 * scale):
            stream.write(block)
    return [path], 3_000_000 * scale


def parquet(folder: Path, scale: int) -> tuple[list[Path], int]:
    """The same in one row group."""
    rng, n = np.random.default_rng(1), 5_000_000 * scale
    columns = {"ts": 1_700_000_000_000 + np.cumsum(rng.integers(0, 3, n)), "price": rng.integers(10**5, 10**6, n)}
    path = folder / "x.parquet"
    pq.write_table(pa.table(columns | {"size": rng.integers(1, 10**4, n)}), path, row_group_size=n)
    return [path], n


def dbn(folder: Path, scale: int) -> tuple[list[Path], int]:
    """Single orders that come and are taken off, an event each."""
    start, n = 1_704_067_200 * 10**9, 400_000 * scale
    fields = {"publisher_id": 2, "instrument_id": 5, "ts_event": start, "ts_recv": start, "channel_id": 0, "flags": 128}
    pair = b"".join(
        bytes(dbn_library.MBOMsg(**fields, order_id=7, price=10**9, size=3, action=action, side=dbn_library.Side.BID))
        for action in (dbn_library.Action.ADD, dbn_library.Action.CANCEL)
    )
    path = folder / "x.dbn.zst"
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(metadata(dbn_library.Schema.MBO, AAPL=5))
        records = np.frombuffer(pair * 10_000, np.dtype(dbn_library.MBOMsg._dtypes)).copy()
        rng = np.random.default_rng(1)
        for _ in range(n // 20_000):  # ids differ, for equal records would be taken for a decompression bomb
            records["order_id"] = np.repeat(rng.integers(1, 10**9, 10_000), 2)
            stream.write(records.tobytes())
    return [path], n


def lobster(folder: Path, scale: int) -> tuple[list[Path], int]:
    """An order at the touch comes and goes, over and over."""
    n = 150_000 * scale
    names = [f"AMZN_2012-06-21_34200000_57600000_{what}_1.csv" for what in ("message", "orderbook")]
    paths = [folder / name for name in names]
    with paths[0].open("w") as messages, paths[1].open("w") as books:
        for k in range(n):
            messages.write(f"{34_200 + k / 100:.2f},{1 if k % 2 == 0 else 3},{k // 2},100,10000,1\n")
            books.write(f"10100,50,10000,{300 if k % 2 == 0 else 200}\n")
    return paths, n + n + 2  # an order and a level each, and the first book begins with a clear and has two sides


def cryptofeed(folder: Path, scale: int) -> tuple[list[Path], int]:
    """Matches of one product."""
    n = 200_000 * scale
    body = (
        '{"type":"match","trade_id":%d,"side":"sell","size":"0.5","price":"10","product_id":"A-USD",'
        '"time":"2021-04-17T16:43:37.089723Z"}'
    )
    path = folder / "COINBASE.ws.1.0"
    with path.open("w") as stream:
        for k in range(n):
            stream.write(f"{1_618_677_817 + k / 1000:.3f}: {body % (k + 1)}\n")
    return [path], n


MODULES = {"csv": "table_csv", "parquet": "table_parquet"}
MAKERS = [binance, tardis, lean, csv, parquet, dbn, lobster, cryptofeed]


def check(folder: Path, make: Callable[[Path, int], tuple[list[Path], int]], scale: int, timeout_s: float) -> None:
    paths, n_rows = make(folder, scale)
    name = make.__name__
    code = CHILD.format(module=MODULES.get(name, name), name=name, options=OPTIONS.get(name, ""))
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder / "day"), *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert child.returncode == 0, child.stderr
    rows, unreadable, peak_kb = map(int, child.stdout.split())
    assert (rows, unreadable) == (n_rows, 0)
    assert peak_kb < LIMIT_MB * 1000, f"{peak_kb // 1000} MB"
    print(f"{name}: {rows} rows, peak {peak_kb // 1000} MB")


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")


@needs_proc
@pytest.mark.parametrize("make", MAKERS)
def test_an_import_of_many_rows_stays_within_its_memory(
    tmp_path: Path, make: Callable[[Path, int], tuple[list[Path], int]]
) -> None:
    check(tmp_path, make, 1, 110)


@needs_proc
@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", MAKERS)
def test_an_import_of_five_times_as_many_takes_no_more(
    tmp_path: Path, make: Callable[[Path, int], tuple[list[Path], int]]
) -> None:
    check(tmp_path, make, 5, 850)
