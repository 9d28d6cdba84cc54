"""An import's memory does not grow with its input."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIMIT_MB = 500
# The high-water mark of the child's own memory; what its parent held does not count
CHILD = """
import sys
from pathlib import Path
from streams.days.importers.{module} import import_{module} as run
day, report = run([Path(path) for path in sys.argv[2:]], Path(sys.argv[1]))
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(day.rows, report.n_unreadable, peak_kb)
"""


def levels(rng: random.Random, n: int) -> str:
    return ",".join(f'["{rng.randrange(10**6)}.{rng.randrange(100)}","{rng.randrange(1000)}"]' for _ in range(n))


def binance(folder: Path) -> tuple[list[Path], int]:
    """Snapshots of up to 4 MiB a line, then quotes that all came in one instant."""
    rng = random.Random(1)
    n_levels, n_snapshots, n_quotes = 180_000, 12, 500_000
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


def tardis(folder: Path) -> tuple[list[Path], int]:
    """Three million updates of one event a receipt, and a file of trades beside them."""
    rng = random.Random(1)
    us, n_lines, times = 1_600_000_000_000_000, 50_000, 60
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


def lean(folder: Path) -> tuple[list[Path], int]:
    """Five million quotes in forty files."""
    rng = random.Random(1)
    block = "".join(
        f"{n},{rng.randrange(1, 10**7)},{rng.randrange(1, 900)},0,0,P,1,0\n" for n in range(62_500)
    ).encode()
    paths = [folder / f"{n}.zip" for n in range(40)]
    for n, path in enumerate(paths):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(f"20131010_a{n}_Quote_Tick.csv", block * 2)
    return paths, 5_000_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")
@pytest.mark.parametrize("make", [binance, tardis, lean])
def test_an_import_of_millions_of_rows_stays_within_its_memory(
    tmp_path: Path, make: Callable[[Path], tuple[list[Path], int]]
) -> None:
    paths, n_rows = make(tmp_path)
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(module=make.__name__), str(tmp_path / "day"), *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert child.returncode == 0, child.stderr
    rows, unreadable, peak_kb = map(int, child.stdout.split())
    assert (rows, unreadable) == (n_rows, 0)
    assert peak_kb < LIMIT_MB * 1000, f"{peak_kb // 1000} MB"
    print(f"{make.__name__}: {rows} rows, peak {peak_kb // 1000} MB")
