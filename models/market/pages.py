"""Pages: the records in which a partition's state rests in the changelog and in RocksDB, key by key.

Every value begins with the owner token of its writer (protocol rule 1), little-endian i64. A deletion has no value: its
token is in the header `t`. Numbers in keys are big-endian, so that a scan meets pages in order.

| key | value after the token |
|---|---|
| `O` | owner record: token = epoch << 48 or its Kafka offset; the value's own token is epoch << 48; text for people |
| `S` page u32 | msgpack list of the definitions of slots 64 * page ... |
| `R` facet u8, page u32 | source version i64, state rows of 64 slots (`models.market.row_page`) |
| `W` page u32 | source version i64, twice; open windows of 64 slots (`models.windows.page`) |
| `B` slot u32 | book header, `K` slot u32, chunk u32: its levels, `P` slot u32: its pending rows |
| `E` key | generic entry: version i64 big-endian, msgpack entry; a grave of a key that is gone is the version alone |
| `C` | control page: what decides whether a row counts (rule 3), msgpack |
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import msgspec

from models.cache.version import MAX_EPOCH, epoch_of, offset_of, version
from models.errors import CorruptPage
from models.market.instruments import Instrument
from models.windows.window import NO_WATERMARK

T = TypeVar("T")

OWNER = b"O"
CONTROL = b"C"
SLOTS, ROWS, WINDOWS, BOOK, CHUNK, PENDING, ENTRY = b"S", b"R", b"W", b"B", b"K", b"P", b"E"

TOKEN_HEADER = "t"

_TOKEN = struct.Struct("<q")
_U32 = struct.Struct(">I")
_ROW_KEY = struct.Struct(">cBI")
_CHUNK_KEY = struct.Struct(">cII")

Record = tuple[bytes, bytes | None]  # key, value without token; None deletes


class Flush(NamedTuple):
    """What one barrier makes durable. Records of one group must appear together or not at all."""

    groups: list[list[Record]]
    control: Record  # only after all groups are acknowledged


class SourcePosition(msgspec.Struct, array_like=True):
    """How far one source has been applied in a partition; `heard_ms` is the log-append time of its last frame."""

    position: int
    heard_ms: int


class ControlPage(msgspec.Struct):
    """Frames at or below `frames_version` are dropped when replayed, writes at or below `writes_version` too."""

    frames_version: int
    writes_version: int
    sources: dict[int, SourcePosition]
    floors: dict[str, int]  # `t:<tag>`, `n:<namespace>`, `*` -> version
    topic_ids: dict[str, str] = {}
    epoch: int = 0
    watermark_ns: int = NO_WATERMARK


def slots_key(page: int) -> bytes:
    return SLOTS + _U32.pack(page)


def windows_key(page: int) -> bytes:
    return WINDOWS + _U32.pack(page)


def rows_key(facet: int, page: int) -> bytes:
    return _ROW_KEY.pack(ROWS, facet, page)


def book_key(kind: bytes, slot: int) -> bytes:
    return kind + _U32.pack(slot)


def chunk_key(slot: int, chunk: int) -> bytes:
    return _CHUNK_KEY.pack(CHUNK, slot, chunk)


def numbers(key: bytes) -> tuple[int, ...]:
    """The numbers in a key after its letter: page; facet and page; slot; slot and chunk."""
    if key[:1] == ROWS:
        return key[1], _U32.unpack_from(key, 2)[0]
    return struct.unpack(f">{(len(key) - 1) // 4}I", key[1:])


def with_token(token: int, body: bytes) -> bytes:
    return _TOKEN.pack(token) + body


def owner_record(epoch: int, text: str) -> Record:
    """The record by which a new owner takes a partition; `owner_token` of it, once it has an offset, is the token."""
    return OWNER, with_token(version(epoch, 0), text.encode())


def owner_token(value: bytes | None, offset: int) -> int:
    """Token that an owner record at this offset of the changelog gives; one of another form is of epoch 0."""
    epoch = int.from_bytes((value or b"")[: _TOKEN.size], "little")
    return version(epoch_of(epoch), offset) if offset_of(epoch) == 0 and epoch_of(epoch) <= MAX_EPOCH else offset


def split_token(value: bytes) -> tuple[int, bytes]:
    """Raises: CorruptPage when there is no room for a token."""
    if len(value) < _TOKEN.size:
        raise CorruptPage(f"a page of {len(value)} bytes has no owner token")
    return _TOKEN.unpack_from(value)[0], value[_TOKEN.size :]


def deletion_headers(token: int) -> list[tuple[str, bytes]]:
    """Headers of a record that deletes a page: a zombie's must be told from the owner's."""
    return [(TOKEN_HEADER, _TOKEN.pack(token))]


def writer_token(value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> int | None:
    """Owner token of a changelog record's writer; None for a deletion without one, as earlier versions wrote them.

    Raises:
        CorruptPage: a page that is too short for a token.
    """
    if value is not None:
        return split_token(value)[0]
    return next((_TOKEN.unpack(data)[0] for name, data in headers if name == TOKEN_HEADER and len(data) == 8), None)


def encode_slots(instruments: list[Instrument]) -> bytes:
    return msgspec.msgpack.encode(instruments)


def decode_slots(body: bytes) -> list[Instrument]:
    return _decode(body, list[Instrument], "slot page")


def encode_control(page: ControlPage) -> bytes:
    return msgspec.msgpack.encode(page)


def decode_control(body: bytes) -> ControlPage:
    return _decode(body, ControlPage, "control page")


def _decode(body: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CorruptPage(f"{what} cannot be read: {exc}") from exc
