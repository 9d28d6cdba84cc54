"""A generic value as it rests in Redis and in memory: version, expiry, tags, and the user's msgpack bytes."""

from __future__ import annotations

import msgspec

from models.cache import version as versions


class StoredEntry(msgspec.Struct, frozen=True, array_like=True):
    """msgpack `[expires_at_ms or nil, [tags], value bytes]`.

    Attributes:
        expires_at_ms: absolute, UTC ms; None = lives until it is deleted.
        tags: at most 16.
        value: msgpack bytes of what the user put.
    """

    expires_at_ms: int | None
    tags: tuple[str, ...]
    value: bytes


_DECODER = msgspec.msgpack.Decoder(StoredEntry)
_ENCODER = msgspec.msgpack.Encoder()


def encode_entry(version: int, entry: StoredEntry) -> bytes:
    """Version big-endian, then the entry: what `{prefix}cache:{pN}:<key>` holds."""
    return versions.to_bytes(version) + _ENCODER.encode(entry)


def decode_entry(data: bytes) -> tuple[int, StoredEntry] | None:
    """Version and entry; None for bytes that are neither: such an entry is a miss, not an error."""
    try:
        return versions.from_bytes(data), _DECODER.decode(memoryview(data)[8:])
    except (msgspec.DecodeError, ValueError):
        return None
