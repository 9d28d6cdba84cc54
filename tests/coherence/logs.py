"""Logs as Kafka gives them, as the states that their keys went through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from models.cache.keys import market_key
from models.cache.rows import Row, as_people_see
from models.cache.timeline import Timelines, fingerprint
from models.cache.version import version
from models.cache.write import decode_write
from models.market.facets import TRADE
from models.market.frame import decode
from models.market.instruments import Instrument
from models.market.tick import Kind


def add_writes(log: Timelines, partition: int, records: Iterable[Any], epoch: int = 0) -> None:
    """Records of one partition of `cache.writes.v1`."""
    for record in records:
        write = decode_write(record.value)
        log.write(partition, write, version=version(epoch, record.offset), at_ms=record.timestamp)


def add_trades(
    log: Timelines, partition: int, records: Iterable[Any], by_hash: Callable[[int], Instrument], epoch: int = 0
) -> None:
    """The last trade of each instrument in records of one partition of `md.frames.v1`; repeated rows do not count."""
    positions: dict[int, int] = {}
    for record in records:
        header, refs, ticks = decode(record.value)
        last = positions.get(header.source, 0)
        positions[header.source] = max(last, header.last_position)
        ticks = ticks[(ticks["kind"] == Kind.TRADE) & (ticks["seq"] > last)]
        for local in np.unique(ticks["instrument_id"]).tolist():
            tick = ticks[ticks["instrument_id"] == local][-1]
            instrument = by_hash(int(refs["hash"][local]))
            at = version(epoch, record.offset)
            values = tuple(int(tick[name]) for name in ("price", "size", "side"))
            row = Row(
                at,
                int(tick["ts_event"]),
                int(tick["ts_recv"]),
                values,
                instrument.price_exp,
                instrument.size_exp,
                TRADE,
            )
            key = market_key(instrument.text, TRADE)
            log.row(partition, key, version=at, at_ms=record.timestamp, value=fingerprint(as_people_see(row)))
