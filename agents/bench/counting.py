"""Whether every tick was counted once: rows an instrument as the worker holds them against those that were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from agents.bench.worker import check_served
from models.market.digest import InstrumentFinal
from streams.days.served import disk_finals
from streams.settings import Settings


class Miscount(NamedTuple):
    """Ticks that the worker's state lacks, and those that it counted twice."""

    lost: int
    duplicated: int


def miscount(sent: Iterable[InstrumentFinal], held: Iterable[InstrumentFinal]) -> Miscount:
    """Summed over instruments, so that one counted twice does not hide one that is lost elsewhere."""
    wanted = {final.text: final.rows for final in sent}
    found = {final.text: final.rows for final in held}
    more = [found.get(text, 0) - wanted.get(text, 0) for text in wanted.keys() | found.keys()]
    return Miscount(-sum(n for n in more if n < 0), sum(n for n in more if n > 0))


async def count_served(settings: Settings, sent: list[InstrumentFinal]) -> Miscount:
    """What RocksDB has miscounted; if that is nothing, its digest and Redis have to be right too.

    Raises:
        MarketPrismError: the rows are as many as were sent, but other ones.
    """
    found = miscount(sent, await asyncio.to_thread(disk_finals, settings))
    if found == (0, 0):
        await check_served(settings, sent)
    return found
