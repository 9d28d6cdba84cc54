"""lz4 for Kafka at a part of what aiokafka's own costs; what is written here every Kafka client reads.

aiokafka compresses at level 9 and offers no other (KIP-390 is not built in): level 1 costs a twelfth. Measured on
frames of 17 to 29 bytes a tick: level 9 takes 277 to 449 ns a tick and leaves 68 to 73 %, level 1 takes 9 to 22 and
leaves 70 to 75 %, zstd takes 30 to 75 and leaves 55 % but costs a reader 12 to 24 against 5 to 10.

Its lz4 frames carry checksums of each block and of the whole, which a reader has to work out although Kafka's own
covers the batch: 0.8 ns a byte to unpack against 0.2 without, 1.7 to pack against 1.1. And it unpacks into a buffer
that grows as it goes, because Kafka does not say how much there is: another 1.3 ns a byte of a large batch.

Source: LZ4 frame format 1.6.4 (lz4/doc/lz4_Frame_format.md).
"""

from __future__ import annotations

import importlib
import threading

import cramjam
from aiokafka.codec import lz4_decode

_RECORDS = ("aiokafka.record._crecords.default_records", "aiokafka.record.default_records")
# Magic number; version 1 with independent blocks and no checksums; most bytes of a block; checksum of these two bytes.
# A reader makes room for a whole block: 4 MiB for each small batch are page faults that cost more than unpacking it.
_HEADS = {
    64 << 10: bytes.fromhex("04224d18 60 40 82"),
    256 << 10: bytes.fromhex("04224d18 60 50 fb"),
    1 << 20: bytes.fromhex("04224d18 60 60 51"),
    4 << 20: bytes.fromhex("04224d18 60 70 73"),
}
_STORED = 1 << 31  # flag of a block's size: it is not compressed
_END = bytes(4)
_FIRST_ROOM, _MOST_ROOM = 1 << 20, 64 << 20  # bytes of a thread's buffer


def pack_lz4(data: bytes) -> bytes:
    """An lz4 frame at the fastest level, without checksums."""
    block_bytes, head = next(((n, head) for n, head in _HEADS.items() if len(data) <= n), (4 << 20, _HEADS[4 << 20]))
    parts = [head]
    for start in range(0, len(data), block_bytes):
        block = data[start : start + block_bytes]
        packed = bytes(cramjam.lz4.compress_block(block, store_size=False))
        if len(packed) < len(block):
            parts += (len(packed).to_bytes(4, "little"), packed)
        else:
            parts += ((len(block) | _STORED).to_bytes(4, "little"), block)
    parts.append(_END)
    return b"".join(parts)


class _Room(threading.local):
    """Where a thread unpacks; it keeps the largest size that a batch needed."""

    def __init__(self) -> None:
        self.buffer = bytearray(_FIRST_ROOM)


_room = _Room()


def unpack_lz4(payload: bytes) -> bytes:
    """Unpack an lz4 frame of any kind. Raises: as aiokafka's own when it is damaged."""
    try:
        n_bytes: int = cramjam.lz4.decompress_into(payload, _room.buffer)
    except cramjam.DecompressionError:  # too little room, or damaged: aiokafka's own tells
        data: bytes = lz4_decode(payload)
        if len(_room.buffer) < len(data) <= _MOST_ROOM:
            _room.buffer = bytearray(1 << (len(data) - 1).bit_length())
        return data
    return bytes(memoryview(_room.buffer)[:n_bytes])


def use_fast_lz4() -> None:
    """Make every client of this process pack and unpack lz4 so; repeating it is fine."""
    for name in _RECORDS:
        try:
            module = importlib.import_module(name)
        except ImportError:  # an aiokafka without compiled record builders
            continue
        if hasattr(module, "lz4_encode"):
            module.lz4_encode = pack_lz4  # type: ignore[attr-defined]
            module.lz4_decode = unpack_lz4  # type: ignore[attr-defined]
