"""One entry as a reader holds it, made from what a tier answered."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from models.cache.book_hash import unpack_book
from models.cache.coherence import PartitionView
from models.cache.entry import decode_entry
from models.cache.invalidation import NO_ROW
from models.cache.keys import Location, Space
from models.cache.mark import Mark
from models.cache.rows import Value, as_people_see, carried_facet, carried_version, unpack_body, unpack_row
from models.cache.version import NOTHING
from models.market.facets import BOOK

_OVERHEAD_BYTES = (
    750  # entry, key and their places in the tables: tracemalloc says 744 for a quote, 541 for a generic key
)
_TEXT_BYTES = 60  # one decimal string as Python holds it
_N_TEXTS = 8  # of a row, its packed form included


class Held(msgspec.Struct):
    """One entry as held.

    Attributes:
        at: the key and where it lies.
        view: what is known of its partition.
        version: of the value; -1 = there is none (a known miss).
        as_of: the value was right as of this version, which may be newer than its own.
        watermark_ns: proof that came with it, UTC ns; 0 = none.
        value: of a market key as people see it, its leaves are immutable; made of the row when it is first read.
        packed: of a generic key: msgpack.
        expires_at_ms: UTC ms, None = never.
        tags: of a generic key.
        used: read since the last look of the eviction.
        row: of a market key that is no book: the row's 72 bytes behind its version.
    """

    at: Location
    view: PartitionView
    version: int = NOTHING
    as_of: int = NOTHING
    watermark_ns: int = 0
    value: Value | None = None
    packed: bytes = b""
    expires_at_ms: int | None = None
    tags: tuple[str, ...] = ()
    used: bool = False
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
        return self.value

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
        """Rough cost in memory, rather too high than too low; a row's stays as it is when it is renewed or read."""
        key = self.at.key
        if key.space is not Space.MARKET:
            return _OVERHEAD_BYTES + len(self.packed)
        if key.facet != BOOK:
            return _OVERHEAD_BYTES + _N_TEXTS * _TEXT_BYTES
        n_levels = 0 if self.value is None else len(self.value["bids"]) + len(self.value["asks"])
        return _OVERHEAD_BYTES + 4 * n_levels * _TEXT_BYTES


def held_value(at: Location, view: PartitionView, mark: Mark, data: bytes | None) -> Held:
    """A row or a generic value as of a mark; what is absent, undecodable or below a floor of its groups is a miss."""
    key = at.key
    held = Held(at, view, as_of=mark.version, watermark_ns=mark.watermark_ns)
    if data is None:
        return held
    if key.space is Space.MARKET:
        row = unpack_row(data)
        if row is not None and row.facet == key.facet:
            held.version, held.row = row.version, data[8:]
    else:
        decoded = decode_entry(data)
        if decoded is not None and view.groups.exists(decoded[0], key.namespace, decoded[1].tags):
            held.version, stored = decoded
            held.packed, held.tags, held.expires_at_ms = stored.value, stored.tags, stored.expires_at_ms
    return held


def held_book(at: Location, view: PartitionView, mark: Mark, fields: Mapping[bytes, bytes]) -> Held:
    """A book's hash as of a mark."""
    held = Held(at, view, as_of=mark.version, watermark_ns=mark.watermark_ns)
    if (book := unpack_book(fields)) is not None:
        held.version, held.value = book[0].version, book[1]
    return held
