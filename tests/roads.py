"""The two roads of a JSON tick, compiled loop and typed decoder, held against each other."""

from __future__ import annotations

import numpy as np

from models.market.instruments import parse
from models.market.json_tick import MAX_ROWS, Batch, parse_batch
from models.market.registry import InstrumentRegistry

NOW = 1_760_000_000_000_000_000


def known(*texts: str) -> InstrumentRegistry:
    """A registry of these instruments, with nine decimals whatever their first price is."""
    registry = InstrumentRegistry()
    for text in texts:
        registry.add(parse(text))
    return registry


def parse_all(records: list[bytes], registry: InstrumentRegistry) -> Batch:
    n = len(records)
    return parse_batch(records, received_ns=[NOW] * n, positions=np.arange(1, n + 1) * MAX_ROWS, registry=registry)


def check_roads(lines: list[bytes], *texts: str) -> Batch:
    """A nested field, which nothing reads, sends a record to the typed decoder; nothing else may change by it.

    Args:
        texts: instruments that are known.

    Returns:
        What both make of the lines.
    """
    nested = [line.replace(b"{", b'{"nested":[],', 1) for line in lines]
    batch, typed = parse_all(lines, known(*texts)), parse_all(nested, known(*texts))
    assert batch.ticks.tobytes() == typed.ticks.tobytes()
    told, said = ([(refusal.record, refusal.reason) for refusal in b.refused] for b in (batch, typed))
    for (record, reason), (other, theirs) in zip(told, said, strict=True):
        assert record == other
        # `{"nested":[],}` is no JSON where `{}` is
        assert reason == theirs or b"{}" in lines[record].translate(None, b" \t\n\r")
    return batch
