"""Windows are those of a plain model that keeps every trade, however rows were framed, batched and repeated."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.errors import CorruptFrame, CorruptPage
from models.market.facets import FACETS
from models.market.final import finals
from models.market.fold import OfflineFold
from models.market.instruments import INSTRUMENT_REF
from models.market.partition import MarketPartition
from models.market.tick import Kind
from models.windows.frame import COUNT_BITS, HEADER, decode_windows, encode_windows
from models.windows.page import decode_page, encode_page, encode_pages
from models.windows.tumbling import Windows, checksum
from models.windows.window import INTERVALS_S, NOT_OPEN, RING, SECOND_NS
from tests.feeds import BUSY, INSTRUMENTS, log_of
from tests.windows import Bar, PlainWindows


def partition() -> MarketPartition:
    market = MarketPartition()
    market.add(INSTRUMENTS)
    return market


def bars_of(market: MarketPartition) -> list[Bar]:
    """What the last round closed, as the records on the wire say it."""
    found: list[Bar] = []
    for data in market.closed_windows():
        frame = decode_windows(data)
        assert frame.version == market.applied
        assert frame.watermark_ns == market.windows.watermark_ns
        texts = {instrument.hash: instrument.text for instrument in INSTRUMENTS}
        for row in frame.windows:
            length = INTERVALS_S[row["interval_count"] >> COUNT_BITS]
            found.append(
                (
                    texts[int(frame.instruments["hash"][row["instrument_id"]])], length,
                    int(row["start_ns"]) // (length * SECOND_NS),
                    *(int(row[name]) for name in ("open", "high", "low", "close", "volume")),
                    int(row["interval_count"]) & (1 << COUNT_BITS) - 1,
                )
            )  # fmt: skip
    return found


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32))
def test_windows_equal_those_of_a_plain_model_in_any_batches(seed: int) -> None:
    random, log = Random(seed), log_of(seed, n_frames=80)
    market, plain = partition(), PlainWindows()
    found: list[Bar] = []
    late: list[tuple[int, int]] = []
    at = 0
    while at < len(log):
        n = random.choice([1, 3, 20])
        batch = log[at : at + n]
        for version, sent in enumerate(batch, at):
            plain.apply(version, sent)
        applied = market.apply([sent.opened(version) for version, sent in enumerate(batch, at)])
        found += bars_of(market)
        for frame, ticks in applied.late:
            late += [(frame.version, int(seq - log[frame.version].rows["seq"][0])) for seq in ticks["seq"]]
        at += len(batch)
    assert sorted(found) == sorted(plain.closed)
    assert late == plain.late
    assert market.windows.watermark_ns == plain.watermark


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_a_partition_as_if_it_ended_has_the_bars_of_the_plain_model_and_the_offline_fold(seed: int) -> None:
    log = [sent for sent in log_of(seed, n_frames=60) if sent.rows[0]["kind"] != Kind.CONTROL and sent.source != 33]
    market, plain = partition(), PlainWindows()
    fold = OfflineFold([instrument.text for instrument in INSTRUMENTS])
    for version, sent in enumerate(log):
        fresh = sent.rows[sent.rows["seq"] > plain.positions.get(sent.source, 0)]
        market.apply([sent.opened(version)])
        plain.apply(version, sent)
        fold.update(fresh)
    plain.end()
    by_bar: dict[tuple[str, int], list[Bar]] = {}
    for bar in plain.closed:
        by_bar.setdefault((bar[0], INTERVALS_S.index(bar[1])), []).append(bar)
    venue = {(f.text, b.facet) for f in fold.finals() for b in f.bars if b.facet > 10}
    for final in finals(market):
        for bars in final.bars:
            if bars.facet > 10:
                assert (final.text, bars.facet) in venue
                continue
            expected = by_bar.get((final.text, bars.facet - 8), [])
            rows = np.array([(0, 0, *bar[2:]) for bar in expected], np.int64).reshape(-1, 9)
            assert bars.checksum == int(checksum(rows).sum())
    assert {f.text: f.bars for f in finals(market)} == {f.text: f.bars for f in fold.finals()}


@pytest.mark.parametrize("seed", range(3))
def test_the_feed_of_these_tests_has_late_trades_and_windows_of_every_length(seed: int) -> None:
    plain = PlainWindows()
    for version, sent in enumerate(log_of(seed, n_frames=400)):
        plain.apply(version, sent)
    assert len(plain.late) > 5
    assert {bar[1] for bar in plain.closed} == {1, 10, 60}


def windows_of(seed: int, n_slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Any ends, values and sums that some slots may have."""
    rng = np.random.default_rng(seed)
    is_open = rng.integers(0, 2, (n_slots, 8)) == 1
    lengths = np.array([1] * RING + [10, 60])
    ends = np.where(is_open, rng.integers(-(2**55), 2**55, (n_slots, 8)) * lengths, NOT_OPEN)
    values = rng.integers(-(2**63), 2**63 - 1, (n_slots, 8, 6))
    values[:, :, 5] = rng.integers(1, 2**62, (n_slots, 8))
    sums = rng.integers(0, 2**64 - 1, (n_slots, 3), np.uint64) * rng.integers(0, 2, (n_slots, 1), np.uint64)
    return ends, values, sums


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_many_pages_in_one_call_are_those_of_single_calls(seed: int) -> None:
    ends, values, sums = windows_of(seed, 64 * 40)
    numbers = np.random.default_rng(seed).permutation(40)[:37]
    versions = numbers * 3 - 5
    slots = [slice(64 * number, 64 * (number + 1)) for number in numbers.tolist()]
    assert list(encode_pages(ends, values, sums, numbers, versions)) == [
        encode_page(version, ends[some], values[some], sums[some])
        for version, some in zip(versions.tolist(), slots, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_a_page_is_read_as_what_was_written(seed: int) -> None:
    ends, values, sums = windows_of(seed, 64)
    is_open = ends != NOT_OPEN
    body = encode_page(-5, ends, values, sums)
    version, found_ends, found_values, found_sums = decode_page(body)
    assert version == -5
    assert np.array_equal(found_ends, ends)
    assert np.array_equal(found_values[is_open], values[is_open])
    assert np.array_equal(found_sums, sums)
    for damaged in (body[:-8], body + bytes(8), body[:-1], b"", body[:8] + b"\xff" * 8 + body[16:]):
        with pytest.raises(CorruptPage):
            decode_page(damaged)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_record_of_windows_is_read_as_what_was_written_whatever_the_numbers(seed: int, wild: bool) -> None:
    rng, n = np.random.default_rng(seed), 50
    most = 2**63 - 1 if wild else 1000
    closed = rng.integers(-most, most, (n, 9))
    closed[:, 0], closed[:, 1], closed[:, 2] = rng.integers(0, 8, n), rng.integers(0, 3, n), rng.integers(0, 10**9, n)
    closed[:, 8] = rng.integers(1, 1 << COUNT_BITS, n)
    refs = np.zeros(8, INSTRUMENT_REF)
    refs["hash"] = rng.integers(0, 2**64, 8, np.uint64)
    frame = decode_windows(encode_windows(closed, refs, version=1, watermark_ns=2))
    found = frame.windows
    assert np.array_equal(frame.instruments["hash"][found["instrument_id"]], refs["hash"][closed[:, 0]])
    assert np.array_equal(found["interval_count"] >> COUNT_BITS, closed[:, 1])
    assert np.array_equal(found["interval_count"] & (1 << COUNT_BITS) - 1, closed[:, 8])
    assert np.array_equal(found["start_ns"], closed[:, 2] * np.array(INTERVALS_S)[closed[:, 1]] * SECOND_NS)
    for column, name in enumerate(("open", "high", "low", "close", "volume"), 3):
        assert np.array_equal(found[name], closed[:, column])


def test_a_record_of_windows_that_lies_is_refused() -> None:
    market = partition()
    for version, sent in enumerate(log_of(1, n_frames=60)):
        market.apply([sent.opened(version)])
        if records := market.closed_windows():
            break
    (data,) = records
    assert len(decode_windows(data).windows)
    for damaged in (data[:-1], data + b"\0", b"MPF1" + data[4:], data[:20], data[:8] + b"\xff" * 4 + data[12:]):
        with pytest.raises(CorruptFrame):
            decode_windows(damaged)
    for k in ((len(data) - HEADER.size) // 10 + 1, (len(data) - HEADER.size) // 8, 2**32 - 1):
        with pytest.raises(CorruptFrame, match=f"{k} instruments in {len(data)} bytes"):
            decode_windows(data[:12] + k.to_bytes(4, "little") + data[16:])


def test_late_and_closed_instruments_are_those_that_trade() -> None:
    """The names in a record are the partition's own, whatever slots they have."""
    market = partition()
    texts = set()
    for version, sent in enumerate(log_of(5, n_frames=100)):
        market.apply([sent.opened(version)])
        texts |= {bar[0] for bar in bars_of(market)}
    assert texts <= {INSTRUMENTS[i].text for i in BUSY}
    assert len(texts) > 3
    assert FACETS[8:11] == ("ohlcv:1s", "ohlcv:10s", "ohlcv:1m")


def test_a_minute_that_another_run_left_open_closes_before_ten_seconds_of_this_one_would_join_it() -> None:
    ends, values = np.full((64, 8), NOT_OPEN), np.zeros((64, 8, 6), np.int64)
    ends[0, 6], values[0, 6] = 1020, (1, 2, 3, 4, 5, 6)
    ends[0, 7], values[0, 7] = 6000, (9, 9, 9, 9, 9, 9)
    windows = Windows()
    windows.load(0, 1, ends, values, np.zeros((64, 3), np.uint64))
    windows.watermark_ns = 1020 * SECOND_NS
    windows.close(2)
    assert windows.closed().tolist() == [
        [0, 2, 99, 9, 9, 9, 9, 9, 9],
        [0, 1, 101, 1, 2, 3, 4, 5, 6],
        [0, 2, 16, 1, 2, 3, 4, 5, 6],
    ]
    assert (windows.ends == NOT_OPEN).all()
