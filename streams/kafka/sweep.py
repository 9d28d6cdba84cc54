"""The sweep: entries that are over leave the disk and the changelog, a stretch of each partition with each barrier.

It goes through the pages in the order of their keys and then begins anew, so it needs no memory; and it looks at two
pages for each that was written, so that at most half of what is there is over, however fast entries are put.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from models.market import pages
from streams.clock import now_ns
from streams.kafka.owned import OwnedPartition
from streams.kafka.table import PageTable

LEAST = 256  # pages with each barrier
A_WRITE = 2  # pages for each that was written, 2.5 us each
AT_ONCE = 256  # pages between two turns of the loop, about 1 ms
AT_ONCE_BYTES = 1 << 20
_MS = 1_000_000


async def find_over(table: PageTable, owned: OwnedPartition, owns: Callable[[], bool]) -> list[tuple[str, int]]:
    """Entries of the next stretch that are over, for `EntryPartition.bury` before the disk changes again.

    Args:
        owns: whether the partition is still ours: the disk of one that was revoked is not to be opened again.

    Raises:
        CorruptStore: a block cannot be read.
    """
    sweep, entries, now_ms = owned.sweep, owned.entries, now_ns() // _MS
    over: list[tuple[str, int]] = []
    left = LEAST + A_WRITE * entries.n_unsent
    while left > 0 and owns() and not sweep.rests(entries.graves.counted):
        found = table.pages_from(owned.number, sweep.next_key, min(left, AT_ONCE), AT_ONCE_BYTES)
        stretch = [(key, body) for key, body in found if key.startswith(pages.ENTRY)]
        for key, body in stretch:
            text = key[1:].decode()
            if (version := entries.over(text, body, now_ms=now_ms)) is not None:
                over.append((text, version))
        if not found or len(stretch) < len(found):  # other pages follow those of entries
            sweep.end()
            break
        sweep.next_key = stretch[-1][0] + b"\0"
        left -= len(found)
        await asyncio.sleep(0)
    return over
