"""An entry as a reader keeps it on its own disk: with the version as of which it was right. Nobody else reads it."""

from __future__ import annotations

from typing import Any

import msgspec

from models.cache.rows import Value

FORM = 2  # of these bytes; others are an entry that cannot be read


class KeptBook(msgspec.Struct, frozen=True):
    """A book's people's form; levels are tuples, so that nobody can change what another one was given."""

    bids: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, str], ...]
    last_update_id: int
    state: str | None
    ts_ns: int


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """msgpack, an array.

    Attributes:
        form: `FORM`.
        floor: what its floor is kept under, 0 for a generic key (its text is).
        as_of: the entry was right as of this version.
        version: of the value, -1 = there is none.
        watermark_ns: proof that came with it, UTC ns; 0 = none.
        expires_at_ms: UTC ms, None = never.
        tags, packed: of a generic key.
        row: of a market key that is no book, 72 bytes.
    """

    form: int
    floor: int
    as_of: int
    version: int
    watermark_ns: int
    expires_at_ms: int | None
    tags: tuple[str, ...]
    packed: bytes
    row: bytes
    book: KeptBook | None


_DECODER = msgspec.msgpack.Decoder(Kept)
_ENCODER = msgspec.msgpack.Encoder()


def encode_kept(kept: Kept) -> bytes:
    return _ENCODER.encode(kept)


def decode_kept(data: bytes) -> Kept | None:
    """None for bytes that are no entry of this form: such an entry is a miss, not an error."""
    try:
        kept = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return kept if kept.form == FORM else None


def kept_book(value: Value | None) -> KeptBook | None:
    return None if value is None else msgspec.convert(value, KeptBook)


def book_value(book: KeptBook | None) -> dict[str, Any] | None:
    return None if book is None else msgspec.structs.asdict(book)
