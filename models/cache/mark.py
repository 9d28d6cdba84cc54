"""The mark of a tier's partition: up to which version every row is in it, who wrote it, how fresh it is provably."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from models.cache.version import NOTHING

_MARK = struct.Struct(">5q")
MARK_BYTES = _MARK.size


@dataclass(frozen=True, slots=True)
class Mark:
    """A partition's mark as read from a tier; an absent one is `Mark()`.

    Attributes:
        token: owner token of the last writer.
        version: every row up to and with this version is in the tier; -1 = nothing.
        watermark_ns: all that the log held at this instant (UTC ns) is in the tier; 0 = not known.
        written_ns: the writer's clock at the last call, for people only.
        floors: newest version that set a tag, namespace or flush floor; 0 = none (version 0 hides nothing).
    """

    token: int = 0
    version: int = NOTHING
    watermark_ns: int = 0
    written_ns: int = 0
    floors: int = 0


ABSENT = Mark()


def count(version: int) -> bytes:
    """A mark on the wire: `version + 1` big-endian, so that 'nothing' is 0 and bytes compare as numbers do."""
    return (version + 1).to_bytes(8, "big")


def pack_mark(mark: Mark) -> bytes:
    return _MARK.pack(mark.token, mark.version + 1, mark.watermark_ns, mark.written_ns, mark.floors)


def unpack_mark(data: bytes | None) -> Mark:
    """Read a mark; absent bytes, or bytes of a form this code does not know, prove nothing: they read as `ABSENT`."""
    if data is None or len(data) != MARK_BYTES:
        return ABSENT
    token, version, watermark_ns, written_ns, floors = _MARK.unpack(data)
    return Mark(token, version - 1, watermark_ns, written_ns, floors)
