"""Markets of many instruments: what kernels and encoders do only for these changes nothing of what comes out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.market.frame import encode
from models.market.instruments import INSTRUMENT_REF
from models.market.partition import IncomingFrame, MarketPartition, open_frame
from models.market.prefetch import CACHED_BYTES
from models.market.tick import TickArray
from models.perf.ticks import SeededTicks
from models.windows.frame import RECORD_WINDOWS, decode_windows
from models.windows.window import SECOND_NS

LARGE = 16_384  # slots whose rows no cache holds


def framed(source: SeededTicks, ticks: TickArray, version: int) -> IncomingFrame:
    refs = np.zeros(len(source.instruments), INSTRUMENT_REF)
    refs["hash"] = [instrument.hash for instrument in source.instruments]
    refs["price_exp"] = [instrument.price_exp for instrument in source.instruments]
    refs["size_exp"] = [instrument.size_exp for instrument in source.instruments]
    return open_frame(version, 0, encode(ticks, refs, source=1))


def spread(source: SeededTicks, n_frames: int) -> Iterator[IncomingFrame]:
    """Frames of 500 ticks, 700 ms of time each, so that windows of all lengths close on the way."""
    for version, ticks in enumerate(source.batches(500 * n_frames, 500)):
        later = version * 700_000_000
        ticks["ts_recv"] += later
        ticks["ts_event"] += later
        yield framed(source, ticks, version)


def test_a_large_partition_folds_as_a_small_one() -> None:
    source = SeededTicks(50)
    small, large = MarketPartition(), MarketPartition()
    for market in (small, large):
        market.add(source.instruments)
    large.rows.ensure(LARGE)
    large.windows.ensure(LARGE)
    n_closed = 0
    for frame in spread(source, 150):
        one, other = small.apply([frame]), large.apply([frame])
        assert (one.n_rows, one.n_closed, len(one.late)) == (other.n_rows, other.n_closed, len(other.late))
        assert sorted(small.windows.closed().tolist()) == sorted(large.windows.closed().tolist())
        n_closed += one.n_closed
    assert min(large.rows.rows.nbytes, large.windows.open.nbytes) > CACHED_BYTES > small.rows.rows.nbytes
    assert n_closed > 50
    assert small.rows.facet_of == large.rows.facet_of
    assert np.array_equal(small.rows.rows, large.rows.rows[:, : small.rows.capacity])
    assert np.array_equal(small.windows.sums, large.windows.sums[: len(small.windows.sums)])


def test_many_windows_that_close_at_once_go_in_several_records_in_order() -> None:
    source = SeededTicks(RECORD_WINDOWS // 2)
    market = MarketPartition()
    market.add(source.instruments)
    market.apply([framed(source, source.opening(), 0)])
    assert market.closed_windows() == []
    ticks = next(source.batches(10))
    ticks["ts_recv"] += 200 * SECOND_NS
    market.apply([framed(source, ticks, 1)])
    closed = market.windows.closed()
    assert len(closed) == 3 * len(source.instruments)  # a second, ten seconds and a minute each
    records = [decode_windows(data) for data in market.closed_windows()]
    assert [len(record.windows) for record in records] == [RECORD_WINDOWS, len(closed) - RECORD_WINDOWS]
    opens = np.concatenate([record.windows["open"] for record in records])
    names = np.concatenate([record.instruments["hash"][record.windows["instrument_id"]] for record in records])
    assert np.array_equal(opens, closed[:, 3])
    assert np.array_equal(names, market.slots.hashes[closed[:, 0]])
