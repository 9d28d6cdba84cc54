"""One entry as a reader holds it, made from what a tier answered."""

from __future__ import annotations

from collections.abc import Mapping
from sys import getsizeof
from typing import Any

import msgspec

from models.cache.book_hash import unpack_book
from models.cache.coherence import PartitionView
from models.cache.entry import decode_entry
from models.cache.invalidation import NO_ROW
from models.cache.keys import Location, Space
from models.cache.mark import Mark
from models.cache.rows import (
    Value,
    as_people_see,
    carried_facet,
    carried_version,
    row_version,
    shown_bytes,
    unpack_body,
)
from models.cache.version import NOTHING
from models.market.facets import BOOK

# The first byte of msgpack values that a reader could change: arrays, maps, extensions. All others are immutable.
_CONTAINERS = frozenset((*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)))

# Bytes on 64-bit CPython 3.11, rounded up as its allocator does; tests/unit/test_memory.py holds them to tracemalloc.
_ENTRY = 410  # struct, key, place, their numbers, and the place in the table of entries
_MARKET = 250  # the instrument's text, its hash and floor, and the place in the table of floors
_EXPIRES = 420  # a deadline's place in table and heap, which may hold as many that are true no more
_BOOK = 450  # the dict of a book, without its levels
_LEVEL = 220  # a price and a size as a pair of texts
_OBJECT = 64  # a bytes object, or a tuple, without what is in it


class Held(msgspec.Struct, gc=False):
    """One entry as held. Nothing in it leads back to it, so the garbage collector need not know of it: thousands are
    held, and a full collection stops all readers.

    Attributes:
        at: the key and where it lies.
        view: what is known of its partition.
        version: of the value; -1 = there is none (a known miss).
        as_of: the value was right as of this version, which may be newer than its own.
        watermark_ns: proof that came with it, UTC ns; 0 = none.
        value: of a market key as people see it, its leaves are immutable; made of the row when it is first read. Of a
            generic key, once it is decoded: what is immutable.
        packed: of a generic key that can be changed by who reads it: msgpack, decoded anew for each reader.
        expires_at_ms: UTC ms, None = never.
        tags: of a generic key.
        row: of a market key that is no book: the row's 72 bytes behind its version.
    """

    at: Location
    view: PartitionView
    version: int = NOTHING
    as_of: int = NOTHING
    watermark_ns: int = 0
    value: Any = None
    packed: bytes = b""
    expires_at_ms: int | None = None
    tags: tuple[str, ...] = ()
    row: bytes = b""

    @property
    def given_version(self) -> int:
        """Below this the reader may not go once it was given the entry: a miss counts as of when it was one."""
        return self.as_of if self.version == NOTHING else self.version

    def stands(self) -> bool:
        """Whether nothing heard of tags, namespaces and flush-all took it away; invalidations of its key drop it."""
        key = self.at.key
        return key.space is Space.MARKET or self.view.keeps(self.as_of, key.namespace, self.tags)

    def shown(self) -> Value:
        """The row as people see it: 3 us once, then kept. Only with a row."""
        if self.value is None:
            self.value = as_people_see(unpack_body(self.version, self.row))
        value: Value = self.value
        return value

    def take(self, packed: bytes) -> None:
        """A generic value's msgpack; bytes that are none make it a miss, as far as that is seen without decoding."""
        if not packed or packed[0] in _CONTAINERS:
            self.packed = packed
            return
        try:
            self.value = msgspec.msgpack.decode(packed)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.version = NOTHING

    def renew(self, as_of: int, body: bytes) -> bool:
        """Take the row that an invalidation up to `as_of` carries; False: it is no row of this key, drop the entry."""
        facet = carried_facet(body)
        if facet == self.at.key.facet:
            self.version, self.row = carried_version(body, as_of), body
        elif facet == NO_ROW:
            self.version, self.row = NOTHING, b""
        else:
            return False
        self.as_of, self.value = as_of, None
        return True

    def cost_bytes(self) -> int:
        """Cost in memory, rather too high than too low; a row's stays as it is when it is renewed or read."""
        at, key = self.at, self.at.key
        cost = _ENTRY + getsizeof(key.text) + len(at.redis_key) + _OBJECT
        if key.space is Space.MARKET:
            cost += _MARKET + len(key.kafka_key)
            if key.facet != BOOK:
                return cost + shown_bytes(key.facet, self.row)
            n_levels = 0 if self.value is None else len(self.value["bids"]) + len(self.value["asks"])
            return cost + _BOOK + n_levels * _LEVEL
        cost += getsizeof(self.value) + (len(self.packed) + _OBJECT if self.packed else 0)
        if self.tags:
            cost += _OBJECT + sum(getsizeof(tag) + 16 for tag in self.tags)
        return cost if self.expires_at_ms is None else cost + _EXPIRES


def held_value(at: Location, view: PartitionView, mark: Mark, data: bytes | None) -> Held:
    """A row or a generic value as of a mark; what is absent, undecodable or below a floor of its groups is a miss."""
    held = Held(at, view, NOTHING, mark.version, mark.watermark_ns)
    if data is None:
        return held
    key = at.key
    if key.facet >= 0:
        if (version := row_version(data, key.facet)) is not None:
            held.version, held.row = version, data[8:]
    elif (decoded := decode_entry(data)) is not None:
        version, stored = decoded
        if version >= view.groups.newest or view.groups.exists(version, key.namespace, stored.tags):
            held.version, held.tags, held.expires_at_ms = version, stored.tags, stored.expires_at_ms
            held.take(stored.value)
    return held


def held_book(at: Location, view: PartitionView, mark: Mark, fields: Mapping[bytes, bytes]) -> Held:
    """A book's hash as of a mark."""
    held = Held(at, view, as_of=mark.version, watermark_ns=mark.watermark_ns)
    if (book := unpack_book(fields)) is not None:
        held.version, held.value = book[0].version, book[1]
    return held
