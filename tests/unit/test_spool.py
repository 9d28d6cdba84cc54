"""A spool outlives a crash: what was whole is found again, what was cut is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.errors import CorruptDay
from models.market.frame import decode_header
from streams.days.spool import HEAD, Spool, SpoolHead
from streams.days.spooled import make_day
from streams.days.verify import verify_day
from tests.feeds import INSTRUMENTS, Sent, event

HEAD_0 = SpoolHead("md.frames.v1", "id", {0: 5, 1: 0})


def frame(first: int, n: int = 3, source: int = 7, prev: int | None = None) -> bytes:
    rows = np.concatenate([event(1, [{"price": first + i}]) for i in range(n)])
    rows["seq"] = np.arange(first, first + n)
    before = first - 1 if prev is None else prev
    return Sent(source, rows, [0], prev_position=before, dense=True).opened(0).data


def filled(folder: Path) -> Spool:
    spool = Spool.create(folder, HEAD_0)
    spool.define(INSTRUMENTS[0])
    for offset, data in ((5, frame(1)), (6, frame(4)), (9, frame(10))):
        spool.append(0, offset, 1000 + offset, data)
    spool.append(1, 0, 1000, frame(1, source=8))
    spool.flush()
    return spool


def told(spool: Spool) -> tuple[object, ...]:
    return (spool.next_offsets, spool.positions, spool.n_frames, spool.n_bytes, spool.n_missing, spool.n_gaps)


def test_a_spool_that_is_opened_again_knows_what_it_knew(tmp_path: Path) -> None:
    first = filled(tmp_path / "spool")
    assert told(first)[0] == {0: 10, 1: 1}
    assert (first.n_missing, first.n_gaps) == (2, 1)
    again = Spool.open(tmp_path / "spool")
    assert told(again) == told(first)
    assert again.instruments == [INSTRUMENTS[0]]
    assert [decode_header(data).first_position for data in again.frames(0, 7)] == [1, 4, 10]
    assert again.sources() == [(0, 7), (1, 8)]
    assert again.unknown(frame(1), decode_header(frame(1))) == []


@pytest.mark.parametrize("lost", [1, 10, 200])
def test_a_record_that_was_cut_is_left_out_and_the_next_takes_its_place(tmp_path: Path, lost: int) -> None:
    filled(tmp_path / "spool")
    path = tmp_path / "spool" / "frames.bin"
    path.write_bytes(path.read_bytes()[:-lost])
    spool = Spool.open(tmp_path / "spool")
    assert spool.next_offsets == {0: 10, 1: 0}
    spool.append(1, 0, 1000, frame(1, source=8))
    spool.flush()
    again = Spool.open(tmp_path / "spool")
    assert (again.n_frames, again.next_offsets) == (4, {0: 10, 1: 1})


def test_a_flipped_byte_ends_the_spool_before_it(tmp_path: Path) -> None:
    filled(tmp_path / "spool")
    path = tmp_path / "spool" / "frames.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert Spool.open(tmp_path / "spool").n_frames < 4


def test_the_next_spool_goes_on_where_one_ends(tmp_path: Path) -> None:
    one = filled(tmp_path / "one")
    two = Spool.create(tmp_path / "two", one.next_head())
    two.append(0, 10, 2000, frame(13))
    assert (two.n_missing, two.n_gaps, two.positions[0][7]) == (0, 0, 15)


def test_a_folder_without_a_head_is_no_spool(tmp_path: Path) -> None:
    filled(tmp_path / "spool")
    (tmp_path / "spool" / HEAD).unlink()
    with pytest.raises(CorruptDay, match="no spool"):
        Spool.open(tmp_path / "spool")


def test_a_day_is_made_of_what_can_be_read_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool")
    spool.append(0, 10, 1010, frame(10, n=5))  # three of its rows came already
    broken = bytearray(frame(20))
    broken[-8] ^= 0xFF  # in the columns: the header is whole
    spool.append(0, 11, 1011, bytes(broken[:-4]))
    spool.append(0, 12, 1012, frame(23).replace(INSTRUMENTS[0].hash.to_bytes(8, "little"), b"12345678"))
    spool.append(0, 13, 1013, b"no frame")
    day = make_day(spool, tmp_path / "day")
    assert day is not None and verify_day(day.path).problems == []
    held = day.manifest.origin.recording
    assert held is not None
    assert (held.rows_repeated, held.frames_corrupt, held.rows_unknown) == (3, 2, 3)
    prices = np.concatenate(list(day.batches()))["price"].tolist()
    assert sorted(prices) == [1, 1, 2, 2, 3, 3, 4, 5, 6, 10, 11, 12, 13, 14]
    assert held.offsets == {0: (5, 14), 1: (0, 1)}
    again = Spool.open(tmp_path / "spool")
    assert (again.next_offsets, again.n_corrupt) == ({0: 14, 1: 1}, 1)


def test_control_rows_alone_make_no_day(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool", HEAD_0)
    row = event(9, [{"instrument_id": -1, "action": 4}])
    row["seq"] = 1
    spool.append(0, 5, 1000, Sent(7, row, []).opened(0).data)
    assert make_day(spool, tmp_path / "day") is None
    assert not (tmp_path / "day").exists()


def test_rows_of_one_source_keep_their_order_where_partitions_share_an_instant(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "spool", SpoolHead("md.frames.v1", "id", {0: 0, 1: 0}))
    spool.define(INSTRUMENTS[0])
    for offset, position in enumerate((1, 3, 4, 8)):
        spool.append(0, offset, 1000, frame(position, n=1, prev=0))
    for offset, position in enumerate((2, 5, 6, 7)):
        spool.append(1, offset, 1000, frame(position, n=1, prev=0))
    day = make_day(spool, tmp_path / "day")
    assert day is not None
    assert np.concatenate(list(day.batches()))["price"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
