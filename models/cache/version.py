"""The version of a value: which record of its source topic made it. Versions of one key always compare."""

from __future__ import annotations

OFFSET_BITS = 48
MAX_EPOCH = (1 << 15) - 1  # 63 bits remain in a signed 64-bit integer
MAX_OFFSET = (1 << OFFSET_BITS) - 1
NOTHING = -1  # below every version: nothing is applied yet


def version(epoch: int, offset: int) -> int:
    """`epoch << 48 | offset` as a signed 64-bit integer.

    Args:
        epoch: how often the source topic was created anew, 0..32767.
        offset: Kafka offset of the record in its partition, 0..2**48-1.

    Raises:
        ValueError: either is out of range.
    """
    if not (0 <= epoch <= MAX_EPOCH and 0 <= offset <= MAX_OFFSET):
        raise ValueError(f"epoch {epoch} or offset {offset} is out of range")
    return epoch << OFFSET_BITS | offset


def epoch_of(version: int) -> int:
    return version >> OFFSET_BITS


def offset_of(version: int) -> int:
    return version & MAX_OFFSET


def to_bytes(version: int) -> bytes:
    """8 bytes, big-endian: versions that are not negative compare as their bytes do, also in Lua."""
    return version.to_bytes(8, "big", signed=True)


def from_bytes(data: bytes) -> int:
    """Inverse of `to_bytes`; reads the first 8 bytes, as every value in Redis starts with its version.

    Raises:
        ValueError: fewer than 8 bytes.
    """
    if len(data) < 8:
        raise ValueError(f"a version has 8 bytes, not {len(data)}")
    return int.from_bytes(data[:8], "big", signed=True)
