"""A book as a Redis hash: a header in field `h`, one field a chunk of at most 64 levels, so only changed chunks travel.

The header names the chunks in order, bids best first, then asks best first; a chunk's levels are best first too (bids
fall, asks rise).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.cache.rows import Value
from models.market.decimals import decimal_text

HEADER = b"h"
STATES = ("empty", "live", "awaits_snapshot")  # by the header's number
LEVEL = np.dtype([("price", "<i8"), ("size", "<i8")])

_FIXED = struct.Struct("<4q2I2bB5x")  # what follows the version
_UPDATE = struct.Struct("<cB3I")
_CHUNK = struct.Struct("<2I")


class BookHeader(NamedTuple):
    """Field `h`.

    Attributes:
        version: of the book's last change.
        ts_event_ns, ts_recv_ns: of its last row.
        last_update_id: the venue's, 0 = none.
        n_rows: rows applied.
        bid_chunks, ask_chunks: chunk ids (u32), best first.
        price_exp, size_exp: exponents.
        state: 0 empty, 1 live, 2 awaits a snapshot.
    """

    version: int
    ts_event_ns: int
    ts_recv_ns: int
    last_update_id: int
    n_rows: int
    bid_chunks: Sequence[int]
    ask_chunks: Sequence[int]
    price_exp: int
    size_exp: int
    state: int


def unpack_header(data: bytes) -> BookHeader | None:
    """Read field `h`; None when its length contradicts itself."""
    start = 8 + _FIXED.size
    if len(data) < start:
        return None
    ts_event, ts_recv, last_id, n_rows, n_bids, n_asks, price_exp, size_exp, state = _FIXED.unpack_from(data, 8)
    if len(data) != start + 4 * (n_bids + n_asks):
        return None
    ids = np.frombuffer(data, "<u4", offset=start).tolist()
    version = int.from_bytes(data[:8], "big")
    return BookHeader(
        version, ts_event, ts_recv, last_id, n_rows, ids[:n_bids], ids[n_bids:], price_exp, size_exp, state
    )


def pack_book(header: bytes, chunks: Iterable[tuple[int, bytes]], dropped: Iterable[int] = (), *, full: bool) -> bytes:
    """One update of a book for `mp_apply`, op `B`.

    Args:
        header: field `h`, from `book_page.encode_wire_header`.
        chunks: ids and bytes of the chunks that changed (all of them if `full`), LEVEL rows, at most 64 each.
        dropped: ids of chunks that the hash held before and the header no longer names.
        full: replace the whole hash; else only add to what this owner wrote before.
    """
    changed, gone = list(chunks), np.asarray(list(dropped), "<u4")
    parts = [_UPDATE.pack(b"B", full, len(header), len(changed), len(gone)), header]
    for chunk_id, levels in changed:
        parts += (_CHUNK.pack(chunk_id, len(levels)), levels)
    return b"".join((*parts, gone.tobytes()))


def unpack_book(fields: Mapping[bytes, bytes]) -> tuple[BookHeader, Value] | None:
    """Header and people's form of a whole hash (`HGETALL`); None when there is none or it contradicts itself.

    The people's form is `{bids: ((p, q), ...), asks, last_update_id, state, ts_ns}`, best first, decimal strings; a
    book that awaits a snapshot shows its levels as of the last diff that fitted.
    """
    header = unpack_header(fields.get(HEADER, b""))
    if header is None:
        return None
    try:
        bids = b"".join([fields[chunk_id.to_bytes(4, "little")] for chunk_id in header.bid_chunks])
        asks = b"".join([fields[chunk_id.to_bytes(4, "little")] for chunk_id in header.ask_chunks])
    except KeyError:
        return None
    if (len(bids) | len(asks)) % LEVEL.itemsize:
        return None
    return header, {
        "bids": _levels(bids, header),
        "asks": _levels(asks, header),
        "last_update_id": header.last_update_id,
        "state": STATES[header.state] if header.state < len(STATES) else None,
        "ts_ns": header.ts_event_ns,
    }


def _levels(data: bytes, header: BookHeader) -> tuple[tuple[str, str], ...]:
    numbers = np.frombuffer(data, "<i8").tolist()
    price_exp, size_exp = header.price_exp, header.size_exp
    return tuple(
        (decimal_text(price, price_exp), decimal_text(size, size_exp))
        for price, size in zip(numbers[::2], numbers[1::2], strict=True)
    )
