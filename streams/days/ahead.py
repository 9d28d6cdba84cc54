"""Reading ahead: an iterator's next item is made in a thread while the loop deals with the one before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import TypeVar

T = TypeVar("T")


async def read_ahead(pieces: Iterator[T]) -> AsyncGenerator[T, None]:
    """Iterate in a thread, one piece ahead of the caller."""
    ahead = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
    try:
        while (piece := await ahead) is not None:
            ahead = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
            yield piece
    finally:
        await asyncio.gather(ahead, return_exceptions=True)
