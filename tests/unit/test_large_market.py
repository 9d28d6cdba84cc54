"""Markets of many instruments: what kernels do only for these changes nothing of what comes out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.market.frame import encode
from models.market.instruments import INSTRUMENT_REF
from models.market.partition import IncomingFrame, MarketPartition, open_frame
from models.market.prefetch import CACHED_BYTES
from models.market.tick import TickArray
from models.perf.ticks import SeededTicks

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
    assert min(large.rows.rows.nbytes, large.windows.values.nbytes) > CACHED_BYTES > small.rows.rows.nbytes
    assert all(array.ctypes.data % 64 == 0 for array in (large.windows.ends, large.windows.values))  # cache lines
    assert n_closed > 50
    assert small.rows.facet_of == large.rows.facet_of
    assert np.array_equal(small.rows.rows, large.rows.rows[:, : small.rows.capacity])
    assert np.array_equal(small.windows.sums, large.windows.sums[: len(small.windows.sums)])
