"""A generic value as it rests in Redis and in memory: version, expiry, tags, and the user's msgpack bytes."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from models.cache import version as versions


class StoredEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """msgpack `[expires_at_ms or nil, [tags], value bytes]`.

    Attributes:
        expires_at_ms: absolute, UTC ms; None = lives until it is deleted.
        tags: at most 16.
        value: msgpack bytes of what the user put.
    """

    expires_at_ms: int | None
    tags: tuple[str, ...]
    value: bytes


_VERSION_BYTES = 8
_DECODER = msgspec.msgpack.Decoder(StoredEntry)
_ENCODER = msgspec.msgpack.Encoder()


def encode_entry(version: int, entry: StoredEntry) -> bytes:
    """Version big-endian, then the entry: what `{prefix}cache:{pN}:<key>` holds."""
    return versions.to_bytes(version) + _ENCODER.encode(entry)


def decode_entry(data: bytes) -> tuple[int, StoredEntry] | None:
    """Version and entry; None for bytes that are neither: such an entry is a miss, not an error."""
    if len(data) < _VERSION_BYTES:
        return None
    try:
        return int.from_bytes(data[:_VERSION_BYTES], "big", signed=True), _DECODER.decode(data[_VERSION_BYTES:])
    except (msgspec.DecodeError, ValueError):  # the latter for tags that are no UTF-8
        return None


class Found(NamedTuple):
    """What is stored under a key, whether it still lives or not.

    Attributes:
        version: of the write that stored it, -1 = nothing is stored.
        entry: None for a grave.
    """

    version: int
    entry: StoredEntry | None


def encode_grave(version: int) -> bytes:
    """What is stored under a key that was deleted: only the version of the deletion. Readers take it for no entry."""
    return versions.to_bytes(version)


def decode_stored(data: bytes | None) -> Found:
    """An entry, a grave, or nothing; bytes of an unknown form count as a grave of the version that they begin with."""
    if data is None or len(data) < _VERSION_BYTES:
        return Found(versions.NOTHING, None)
    return Found(*(decode_entry(data) or (versions.from_bytes(data), None)))


def grave_version(data: bytes) -> int | None:
    """The version of a grave, None for anything else."""
    return versions.from_bytes(data) if len(data) == _VERSION_BYTES else None
