"""Checkpoints of a day: where they lie, what they say, and that false ones are found."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.days.state import MarketState
from models.market.tick import TICK, Flag, TickArray
from streams.days.checkpoints import checkpoint_before, read_checkpoint
from streams.days.day import Day
from streams.days.feed import DayFeed, Selection
from streams.days.manifest import CHECKPOINTS, MANIFEST, Origin
from streams.days.verify import verify_day
from streams.days.writer import DayWriter

SAMPLE = Day.open(Path(__file__).parents[2] / "replay_data" / "sample-day")
S = 10**9


@pytest.fixture(scope="module")
def rows() -> TickArray:
    return np.concatenate(list(SAMPLE.batches()))


def written(path: Path, rows: TickArray, *, sizes: int = 1000, checkpoint_s: float | None = 100) -> Day:
    """A day whose rows were appended in arrays of any cut."""
    with DayWriter(path, name="day", origin=Origin(), checkpoint_s=checkpoint_s) as writer:
        for begin in range(0, len(rows), sizes):
            writer.append(rows[begin : begin + sizes])
        return writer.finish(SAMPLE.instruments)


def test_each_checkpoint_is_what_its_rows_make(rows: TickArray, tmp_path: Path) -> None:
    day = written(tmp_path / "day", rows)
    made = day.manifest.checkpoints
    assert isinstance(made, tuple)
    first = day.manifest.ts_recv_min
    assert [(c.ts_recv - first) // (100 * S) for c in made] == list(range(1, 10))
    ends = np.flatnonzero(rows["flags"] & Flag.LAST)
    for checkpoint in made:
        assert checkpoint.seq == ends[np.searchsorted(rows["ts_recv"][ends], checkpoint.ts_recv) - 1] + 1
        state = MarketState()
        state.update(rows[: checkpoint.seq])
        (found,) = read_checkpoint(day.path, checkpoint)
        fields = [name for name in TICK.names or () if name != "seq"]
        assert np.array_equal(found[fields], state.rows(checkpoint.ts_recv)[fields])
    assert verify_day(day.path).problems == []


def test_the_bytes_of_a_day_do_not_hang_on_how_its_rows_came(rows: TickArray, tmp_path: Path) -> None:
    for number, sizes in enumerate((7, 4096, 1 << 20)):
        written(tmp_path / str(number), rows, sizes=sizes)
    for one, other in pairwise(tmp_path / str(number) for number in range(3)):
        for path in one.iterdir():
            assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_a_day_within_one_interval_has_none_and_a_silence_has_one(rows: TickArray, tmp_path: Path) -> None:
    for name, seconds in (("short", 901.0), ("none", None)):
        day = written(tmp_path / name, rows, checkpoint_s=seconds)
        assert day.manifest.checkpoints is msgspec.UNSET
        assert sorted(path.name for path in day.path.iterdir()) == [MANIFEST, "ticks.parquet"]
        assert '"checkpoints"' not in (day.path / MANIFEST).read_text()
    late = rows.copy()
    late["ts_recv"][30_000:] += 5000 * S
    day = written(tmp_path / "silence", late)
    gaps = np.diff([c.ts_recv for c in day.manifest.checkpoints or ()])
    assert (gaps > 4900 * S).sum() == 1
    assert verify_day(day.path).problems == []


def test_trades_alone_leave_nothing_standing(tmp_path: Path) -> None:
    trades = np.zeros(300, TICK)
    trades["kind"], trades["action"], trades["flags"] = 1, 5, Flag.LAST
    trades["ts_recv"] = np.arange(300) * S
    day = written(tmp_path / "day", trades)
    assert [c.group for c in day.manifest.checkpoints or ()] == [-1, -1]
    assert not (day.path / CHECKPOINTS).exists()
    assert verify_day(day.path).problems == []
    assert len(np.concatenate(list(DayFeed([day], Selection(150 * S)).batches()))) == 150


def test_a_false_checkpoint_is_found(rows: TickArray, tmp_path: Path) -> None:
    day = written(tmp_path / "day", rows)
    made = list(day.manifest.checkpoints or ())
    made[2], made[3] = (
        msgspec.structs.replace(made[2], group=made[3].group),
        msgspec.structs.replace(made[3], group=made[2].group),
    )
    false = msgspec.structs.replace(day.manifest, checkpoints=tuple(made), sha256="")
    (day.path / MANIFEST).write_bytes(false.encode())
    assert any("is not what the rows before it say" in problem for problem in verify_day(day.path).problems)
    (day.path / MANIFEST).write_bytes(day.manifest.encode())
    (day.path / CHECKPOINTS).unlink()
    assert f"{CHECKPOINTS}: missing" in verify_day(day.path).problems


def test_the_newest_checkpoint_before_an_instant_is_taken(rows: TickArray, tmp_path: Path) -> None:
    manifest = written(tmp_path / "day", rows).manifest
    first = manifest.ts_recv_min
    for seconds, wanted in ((99, None), (100, 100), (199, 100), (850, 800)):
        found = checkpoint_before(manifest, first + seconds * S)
        assert (found and (found.ts_recv - first) // S) == wanted
