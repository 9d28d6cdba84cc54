"""Bytes of a book at rest: a header page that lists its chunks, the chunks, and the diffs that wait for a snapshot.

A header and the chunks and pending rows it speaks of form one state: whoever stores them must let them appear together.
The header counts levels and pending rows, so most torn states are found when a book is loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import CorruptPage
from models.market.levels import CHUNK_LEVELS
from models.market.tick import TICK, TickArray

PAGE_VERSION = 1
_HEADER = struct.Struct("<BB2xI5q4I")
_STATES = 3
_WIRE_VERSION = struct.Struct(">q")
_WIRE_HEADER = struct.Struct("<4qIIbbB5x")


class BookHeader(NamedTuple):
    """What a header page holds; `bids` and `asks` are the ids of their chunks, best first."""

    version: int
    ts_event: int  # ns, of the last event that changed levels
    ts_recv: int
    last_update_id: int
    n_rows: int
    state: int  # 0 empty, 1 live, 2 awaits a snapshot
    n_pending: int
    n_bid_levels: int
    n_ask_levels: int
    bids: NDArray[np.uint32]
    asks: NDArray[np.uint32]


def encode_header(header: BookHeader) -> bytes:
    """Header page: 64 bytes and 4 bytes a chunk, little-endian."""
    n_chunks_and_levels = (len(header.bids), len(header.asks), header.n_bid_levels, header.n_ask_levels)
    fixed = _HEADER.pack(PAGE_VERSION, header.state, header.n_pending, *header[:5], *n_chunks_and_levels)
    return fixed + _ids_bytes(header)


def encode_wire_header(header: BookHeader, *, price_exp: int, size_exp: int) -> bytes:
    """Field `h` of a book's hash in Redis (docs/wire.md)."""
    exponents_and_state = (price_exp, size_exp, header.state)
    fixed = _WIRE_HEADER.pack(*header[1:5], len(header.bids), len(header.asks), *exponents_and_state)
    return _WIRE_VERSION.pack(header.version) + fixed + _ids_bytes(header)


def _ids_bytes(header: BookHeader) -> bytes:
    return header.bids.astype("<u4").tobytes() + header.asks.astype("<u4").tobytes()


def decode_header(page: bytes) -> BookHeader:
    """Raises: CorruptPage when the length, the version or the state is wrong, or a chunk is listed twice."""
    if len(page) < _HEADER.size:
        raise CorruptPage(f"book header has {len(page)} bytes, expected at least {_HEADER.size}")
    page_version, state, n_pending, *fields = _HEADER.unpack_from(page)
    version, ts_event, ts_recv, last_update_id, n_rows, n_bids, n_asks, n_bid_levels, n_ask_levels = fields
    if page_version != PAGE_VERSION:
        raise CorruptPage(f"book header has page version {page_version}, this code reads {PAGE_VERSION}")
    if state >= _STATES:
        raise CorruptPage(f"book header has the unknown state {state}")
    if len(page) != _HEADER.size + 4 * (n_bids + n_asks):
        raise CorruptPage(f"book header has {len(page)} bytes but lists {n_bids} + {n_asks} chunks")
    ids = np.frombuffer(page, "<u4", offset=_HEADER.size) if n_bids + n_asks else np.empty(0, "<u4")
    if len(np.unique(ids)) != len(ids):
        raise CorruptPage("book header lists a chunk twice")
    return BookHeader(
        version, ts_event, ts_recv, last_update_id, n_rows, state, n_pending,
        n_bid_levels, n_ask_levels, ids[:n_bids], ids[n_bids:],
    )  # fmt: skip


def decode_side(
    ids: NDArray[np.uint32], chunks: Mapping[int, bytes], n_levels: int, *, bid: bool
) -> list[NDArray[np.int64]]:
    """Levels of each listed chunk, int64 `[1..64, 2]` price and size.

    Raises:
        CorruptPage: a chunk is missing or malformed, levels are out of order, or there are not `n_levels` of them.
    """
    side = [_decode_chunk(chunk, chunks) for chunk in ids.tolist()]
    prices = np.concatenate([levels[:, 0] for levels in side]) if side else np.empty(0, np.int64)
    if len(prices) != n_levels:
        raise CorruptPage(f"book has {len(prices)} {'bid' if bid else 'ask'} levels, its header counts {n_levels}")
    ordered = prices[:-1] > prices[1:] if bid else prices[:-1] < prices[1:]
    if not ordered.all():
        raise CorruptPage(f"{'bid' if bid else 'ask'} levels are not best first from chunk to chunk")
    return side


def _decode_chunk(chunk: int, chunks: Mapping[int, bytes]) -> NDArray[np.int64]:
    data = chunks.get(chunk)
    if data is None:
        raise CorruptPage(f"book chunk {chunk} is listed but missing")
    if len(data) % 16 or not 16 <= len(data) <= 16 * CHUNK_LEVELS:
        raise CorruptPage(f"book chunk {chunk} has {len(data)} bytes, not 16 for each of 1 to {CHUNK_LEVELS} levels")
    levels = np.frombuffer(data, "<i8").reshape(-1, 2)
    if not levels[:, 1].all():
        raise CorruptPage(f"book chunk {chunk} holds a level of size 0")
    return levels


def decode_pending(data: bytes, n_rows: int) -> TickArray:
    """Raises: CorruptPage when the bytes are not the whole rows of `n_rows` ticks that the header counts."""
    if len(data) != n_rows * TICK.itemsize:
        raise CorruptPage(f"book has {len(data)} bytes of pending rows, its header counts {n_rows} rows")
    return np.frombuffer(data, TICK)
