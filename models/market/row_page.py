"""Row pages: source version i64 and the state rows of 64 slots, a block of 64 rows of 10 (`models.market.blocks`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.market.blocks import decode_block, encode_blocks
from models.market.conflate import PAGE_SLOTS
from models.market.facets import N_COLUMNS, TS_EVENT, TS_RECV, V0

EMPTY_PAGE = bytes(8 + PAGE_SLOTS // 8 + 9 * N_COLUMNS)  # of version 0, without rows

# What lies near what: a bar's prices and a quote's ask near the first price, a bar's start near its end.
_NEAR = np.zeros(N_COLUMNS, np.uint64)
_NEAR[TS_RECV] = _NEAR[V0 + 5] = TS_EVENT
_NEAR[V0 + 1 : V0 + 4] = V0


def encode_pages(
    rows: NDArray[np.int64], planes: NDArray[np.int64], numbers: NDArray[np.int64], versions: NDArray[np.int64]
) -> list[bytes]:
    """The bodies of n pages, about 1 us each.

    Args:
        rows: shape (planes, slots, 10), contiguous, as in `models.market.conflate.Rows`.
        planes, numbers, versions: shape (n,): where each page is, and its source version.
    """
    firsts = (planes * rows.shape[1] + numbers * PAGE_SLOTS) * N_COLUMNS
    return encode_blocks(rows.reshape(-1), firsts, n_rows=PAGE_SLOTS, near=_NEAR, versions=versions)


def encode_rows(version: int, rows: NDArray[np.int64]) -> bytes:
    """One page; `rows` has shape (64, 10)."""
    first = np.zeros(1, np.int64)
    return encode_pages(np.ascontiguousarray(rows)[np.newaxis], first, first, np.array([version]))[0]


def decode_rows(body: bytes) -> tuple[int, NDArray[np.int64]]:
    """Source version and rows, shape (64, 10). Raises: CorruptPage."""
    return decode_block(body, "a row page", n_rows=PAGE_SLOTS, k=N_COLUMNS)
