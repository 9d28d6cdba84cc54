"""Ticks into frames: which rows share one, where they are cut, how they are chained."""

from __future__ import annotations

import numpy as np
import pytest

from models.market.frame import decode
from models.market.instruments import Instrument, partition_of
from models.market.registry import InstrumentRegistry
from models.market.tick import TICK, Flag, TickArray
from streams.kafka.frames import FramePacker, PackedFrame, frame_borders

P = 4
LAST = int(Flag.LAST)


def registry_of(n: int) -> InstrumentRegistry:
    registry = InstrumentRegistry()
    for i in range(n):
        registry.add(Instrument("binance", "spot", f"C{i}-USDT", price_exp=-2, size_exp=-8))
    return registry


def rows_of(events: list[tuple[int, int]], first_seq: int = 1) -> TickArray:
    """Events as (instrument id, rows); each row's price is its place in the whole."""
    ticks = np.zeros(sum(n for _, n in events), TICK)
    ticks["seq"] = np.arange(first_seq, first_seq + len(ticks))
    ticks["price"] = np.arange(len(ticks))
    ticks["kind"] = 3
    at = 0
    for instrument, n in events:
        ticks["instrument_id"][at : at + n] = instrument
        ticks["flags"][at + n - 1] = LAST
        at += n
    return ticks


def packer_of(registry: InstrumentRegistry, **more: int | bool) -> FramePacker:
    return FramePacker(registry, source=77, n_partitions=P, **more)  # type: ignore[arg-type]


def restored(frames: list[PackedFrame], registry: InstrumentRegistry) -> dict[int, TickArray]:
    """Rows by partition, with the registry's instrument ids again."""
    found: dict[int, list[TickArray]] = {}
    for packed in frames:
        frame = decode(packed.data)
        ticks = frame.ticks.copy()
        by_hash = np.array([registry.by_hash[int(h)] for h in frame.instruments["hash"]], np.int32)
        ticks["instrument_id"] = by_hash[ticks["instrument_id"]]
        found.setdefault(packed.partition, []).append(ticks)
    return {partition: np.concatenate(parts) for partition, parts in found.items()}


def test_each_row_reaches_the_partition_of_its_instrument_unchanged_and_in_order() -> None:
    registry = registry_of(50)
    rng = np.random.default_rng(3)
    ticks = rows_of([(int(i), int(n)) for i, n in zip(rng.integers(0, 50, 900), rng.integers(1, 6, 900), strict=True)])
    before = ticks.copy()
    found = restored(packer_of(registry, frame_ticks=64).pack(ticks), registry)
    assert (ticks == before).all()
    assert set(found) == {0, 1, 2, 3}
    for partition, rows in found.items():
        mine = [partition_of(registry.texts[i], P) == partition for i in ticks["instrument_id"]]
        assert (rows == ticks[mine]).all()


def test_no_frame_holds_more_rows_than_the_limit_or_ends_inside_an_event() -> None:
    registry = registry_of(7)
    rng = np.random.default_rng(5)
    ticks = rows_of([(int(i), int(n)) for i, n in zip(rng.integers(0, 7, 500), rng.integers(1, 30, 500), strict=True)])
    frames = packer_of(registry, frame_ticks=100).pack(ticks)
    for packed in frames:
        rows = decode(packed.data).ticks
        assert packed.n_ticks == len(rows) <= 100
        assert rows["flags"][-1] & LAST
    assert sum(packed.n_ticks for packed in frames) == len(ticks)


def test_an_event_beyond_the_limit_travels_alone() -> None:
    ticks = rows_of([(0, 2), (0, 250), (0, 3)])
    frames = packer_of(registry_of(1), frame_ticks=100).pack(ticks)
    assert [packed.n_ticks for packed in frames] == [2, 250, 3]


@pytest.mark.parametrize(
    ("events", "limit", "borders"),
    [
        ([], 4, []),
        ([4], 4, [4]),
        ([2, 2, 1], 4, [4, 5]),
        ([3, 3], 4, [3, 6]),
        ([1, 9, 1, 1], 4, [1, 10, 12]),
        ([9], 4, [9]),
        ([1] * 9, 4, [4, 8, 9]),
    ],
)
def test_frames_are_as_full_as_whole_events_allow(events: list[int], limit: int, borders: list[int]) -> None:
    assert frame_borders(rows_of([(0, n) for n in events])["flags"], limit) == borders


def test_rows_that_end_inside_an_event_are_not_packed() -> None:
    with pytest.raises(ValueError, match="LAST"):
        packer_of(registry_of(1)).pack(rows_of([(0, 3)])[:2])


def test_a_dense_source_chains_its_frames_in_each_partition_over_calls() -> None:
    registry = registry_of(20)
    packer = packer_of(registry, frame_ticks=16, dense=True)
    events = [(i % 20, 1 + i % 3) for i in range(200)]
    first = rows_of(events)
    frames = packer.pack(first) + packer.pack(rows_of(events, first_seq=len(first) + 1))
    last = [0] * P
    for packed in frames:
        header = decode(packed.data).header
        assert header.dense
        assert header.source == 77
        assert header.prev_position == last[packed.partition] < header.first_position
        last[packed.partition] = header.last_position


def test_positions_of_another_log_are_kept_and_not_chained() -> None:
    ticks = rows_of([(0, 1), (0, 1), (0, 1)])
    ticks["seq"] = [10, 500, 501]
    (packed,) = packer_of(registry_of(1)).pack(ticks)
    frame = decode(packed.data)
    assert frame.ticks["seq"].tolist() == [10, 500, 501]
    assert (frame.header.dense, frame.header.prev_position) == (False, 0)


def test_a_frame_lists_only_its_own_instruments_with_their_exponents() -> None:
    registry = registry_of(300)
    (packed,) = packer_of(registry).pack(rows_of([(299, 1), (299, 1)]))
    refs = decode(packed.data).instruments
    assert [int(h) for h in refs["hash"]] == [registry.instruments[299].hash]
    assert (refs["price_exp"][0], refs["size_exp"][0]) == (-2, -8)


def test_instruments_added_after_the_first_call_are_packed_too() -> None:
    registry = registry_of(1)
    packer = packer_of(registry)
    packer.pack(rows_of([(0, 1)]))
    new = registry.add(Instrument("okx", "perpetual", "BTC-USDT"))
    (packed,) = packer.pack(rows_of([(new, 1)], first_seq=2))
    assert packed.partition == partition_of("okx.perpetual.BTC-USDT", P)


def test_a_frame_is_due_when_its_last_row_was() -> None:
    registry = registry_of(1)
    due = np.array([100, 200, 300], np.int64)
    frames = packer_of(registry, frame_ticks=2).pack(rows_of([(0, 1)] * 3), due_ns=due, sent_ns=999)
    headers = [decode(packed.data).header for packed in frames]
    assert [(h.due_ns, h.sent_ns) for h in headers] == [(200, 999), (300, 999)]


def test_due_times_follow_their_rows_into_the_partitions() -> None:
    registry = registry_of(30)
    ticks = rows_of([(i % 30, 1) for i in range(300)])
    for packed in packer_of(registry, frame_ticks=7).pack(ticks, due_ns=ticks["seq"].astype(np.int64) * 10):
        header = decode(packed.data).header
        assert header.due_ns == header.last_position * 10


def test_control_rows_go_where_they_are_told_and_keep_having_no_instrument() -> None:
    registry = registry_of(3)
    ticks = rows_of([(0, 1), (2, 1)])
    ticks["instrument_id"][0] = -1
    with pytest.raises(ValueError, match="pack_partition"):
        packer_of(registry).pack(ticks)
    (packed,) = packer_of(registry).pack_partition(3, ticks)
    frame = decode(packed.data)
    assert packed.partition == 3
    assert frame.ticks["instrument_id"].tolist() == [-1, 0]
    assert len(frame.instruments) == 1
