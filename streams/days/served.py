"""What a worker serves of a run: waiting until it holds everything, its digest, and whether Redis says the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
from redis.asyncio import Redis

from models.cache.book_hash import LEVEL, unpack_header
from models.cache.keys import Space, facet_keys, mark_key
from models.cache.mark import unpack_mark
from models.cache.rows import unpack_row
from models.cache.version import offset_of
from models.errors import DeadlineExceeded
from models.market import facets
from models.market.digest import InstrumentFinal, Levels, digest
from models.market.final import finals
from models.market.instruments import partition_of
from streams.cache.connect import connect_redis, redis_errors
from streams.cache.rocks import applied_on_disk, read_partition
from streams.settings import Settings

_POLL_S = 0.02
_BARS = range(facets.FIRST_BAR, facets.BOOK)
_NO_LEVELS: Levels = np.empty((0, 2), np.int64)


async def wait_served(settings: Settings, offsets: Mapping[int, int], deadline_s: float = 120.0) -> None:
    """Wait until Redis and RocksDB hold every frame up to these offsets (partition -> offset, -1 = none).

    Raises:
        DeadlineExceeded: names the partition that is behind.
    """
    end = time.monotonic() + deadline_s
    waiting = {number for number, offset in offsets.items() if offset >= 0}
    redis = connect_redis(settings.redis)
    try:
        while waiting:
            for number in sorted(waiting):
                with redis_errors(settings.redis.url):
                    mark = unpack_mark(
                        cast(bytes | None, await redis.get(mark_key(settings.topics.prefix, Space.MARKET, number)))
                    )
                if _reached(mark.version, offsets[number]) and _reached(
                    applied_on_disk(settings, number), offsets[number]
                ):
                    waiting.discard(number)
            if waiting and time.monotonic() > end:
                raise DeadlineExceeded(
                    f"partitions {sorted(waiting)} of {settings.topics.prefix or 'the live topics'} were not served up "
                    f"to the end within {deadline_s} s: is a worker running?"
                )
            if waiting:
                await asyncio.sleep(_POLL_S)
    finally:
        await redis.aclose()


def disk_finals(settings: Settings) -> list[InstrumentFinal]:
    """Every instrument as RocksDB has it, as of the last barrier."""
    return [
        final
        for number in range(settings.kafka.partitions)
        for final in finals(read_partition(settings, number).market)
    ]


def served_digest(settings: Settings) -> str:
    """Digest of what RocksDB holds."""
    return digest(disk_finals(settings))


async def redis_differences(
    settings: Settings, expected: Iterable[InstrumentFinal], *, ended: bool = True
) -> list[str]:
    """Keys whose trade, quote, book or bar in Redis is not the expected one; empty = the tiers agree.

    Args:
        ended: all windows have closed; else bars are not compared, for the last one may not be there yet.
    """
    redis = connect_redis(settings.redis)
    try:
        return [key for final in expected for key in await _differs(redis, settings, final, ended)]
    finally:
        await redis.aclose()


async def _differs(redis: Redis, settings: Settings, final: InstrumentFinal, ended: bool) -> list[str]:
    number = partition_of(final.text, settings.kafka.partitions)
    keys = facet_keys(settings.topics.prefix, final.text, number)
    with redis_errors(settings.redis.url):
        trade, quote, *bars = await redis.mget(keys[f] for f in (facets.TRADE, facets.QUOTE, *_BARS))
        fields = cast(dict[bytes, bytes], await redis.hgetall(keys[facets.BOOK]))
    trade_row, quote_row = (unpack_row(data) if isinstance(data, bytes) else None for data in (trade, quote))
    wrong = []
    if final.trade != (trade_row and (*trade_row.values[:4], trade_row.ts_event_ns)):
        wrong.append("trade")
    if final.quote != (quote_row and quote_row.values[:5]):
        wrong.append("quote")
    last = {bars.facet: bars.last for bars in final.bars}
    for facet, data in zip(_BARS if ended else (), bars, strict=False):
        row = unpack_row(data) if isinstance(data, bytes) else None
        if last.get(facet) != (row and row.values):
            wrong.append(facets.FACETS[facet])
    bids, asks = _book(fields)
    if not (np.array_equal(bids, final.bids) and np.array_equal(asks, final.asks)):
        wrong.append("book")
    return [f"md:{final.text}:{name}" for name in wrong]


def _book(fields: Mapping[bytes, bytes]) -> tuple[Levels, Levels]:
    header = unpack_header(fields.get(b"h", b""))
    if header is None:
        return _NO_LEVELS, _NO_LEVELS
    sides = [
        b"".join(fields.get(chunk.to_bytes(4, "little"), b"") for chunk in ids)
        for ids in (header.bid_chunks, header.ask_chunks)
    ]
    bids, asks = (np.frombuffer(side, LEVEL).view("<i8").reshape(-1, 2) for side in sides)
    return bids, asks


def _reached(version: int, offset: int) -> bool:
    return version >= 0 and offset_of(version) >= offset
