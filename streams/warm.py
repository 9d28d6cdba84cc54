"""Compiling what a worker runs ahead of time: about 20 s on a new machine, then loaded from numba's cache on disk."""

from __future__ import annotations

from models.market.warm import compile_kernels
from streams.cache.steps import market_batch, market_step
from streams.kafka.owned import OwnedPartition
from streams.kafka.record_columns import compile_walk


def compile_worker() -> None:
    """Run every kernel of a worker once; blocks, so call it from a thread."""
    owned = OwnedPartition(0, "")
    owned.market = compile_kernels()
    market_step(owned, carried_rows=1)
    market_batch(owned)
    compile_walk()
