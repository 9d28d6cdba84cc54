"""What became of a write that asks: it rests beside the entries in Redis for a while, under the write's version."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from models.cache import version as versions
from models.cache.keys import Space, stem

OUTCOME_MS = 10_000  # from the record's log-append time; a writer waits about a second for it


class Outcome(NamedTuple):
    """Of one `incr` or `put_if`.

    Attributes:
        value: an incr's new number; whether a put_if was the key's new value; a text: it was refused, and why.
        until_ms: log-append time + OUTCOME_MS, UTC ms; None = nobody asked for it.
    """

    value: bool | int | str
    until_ms: int | None = None

    @property
    def refusal(self) -> str:
        """Why the write was refused, empty if it was not."""
        return self.value if isinstance(self.value, str) else ""


_DECODER = msgspec.msgpack.Decoder(bool | int | str)


def outcome_key(prefix: str, partition: int, version: int) -> bytes:
    """Where the outcome of the write of this version lies in Redis; no cache key begins with `@`."""
    return f"{stem(prefix, Space.GENERIC, partition)}@outcome:{version}".encode()


def encode_outcome(version: int, outcome: Outcome) -> bytes:
    """The write's version big-endian, then its value in msgpack."""
    return versions.to_bytes(version) + msgspec.msgpack.encode(outcome.value)


def decode_outcome(data: bytes) -> Outcome | None:
    """The outcome without its end; None for bytes that are none."""
    try:
        return Outcome(_DECODER.decode(memoryview(data)[8:]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
