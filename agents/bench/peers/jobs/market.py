"""Our partitions in a peer's callback: frames in, pages out, exactly the code that a worker of ours runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from models.market.instruments import Instrument
from models.market.pages import CONTROL
from models.market.partition import MarketPartition, open_frame
from models.market.warm import compile_kernels


class Market:
    """A `MarketPartition` a Kafka partition."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        compile_kernels()
        self._by_hash = {instrument.hash: instrument for instrument in instruments}
        self._partitions: dict[int, MarketPartition] = {}

    def apply(self, number: int, records: Iterable[tuple[int, int, bytes]]) -> None:
        """Apply frames: offset, log-append time in ms, bytes. Raises: ValueError for one that is refused."""
        partition = self.partition(number)
        frames = [open_frame(offset, append_ms, data) for offset, append_ms, data in records]
        listed = partition.listed(frames)
        if missing := listed.missing():
            partition.add(self._by_hash[hash_] for hash_ in missing)
            listed = partition.listed(frames)
        applied = partition.apply(frames, listed)
        if applied.refused or applied.gaps:
            raise ValueError(f"partition {number}: {applied.refused} refused, gaps {applied.gaps}")

    def partition(self, number: int) -> MarketPartition:
        if number not in self._partitions:
            self._partitions[number] = MarketPartition()
        return self._partitions[number]

    def changed_pages(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Pages changed since the last call, the control page last: what a barrier of ours sends."""
        partition = self.partition(number)
        groups, sources = partition.flush()
        yield from ((key, body) for group in groups for key, body in group if body is not None)
        yield CONTROL, msgspec.msgpack.encode((partition.applied, sources, partition.windows.watermark_ns))

    def all_pages(self, number: int) -> list[tuple[bytes, bytes]]:
        """Everything that `MarketPartition.load` needs, and the control page."""
        self.partition(number).rewrite_pages()
        return list(self.changed_pages(number))
