"""One entry as a reader holds it, made from what a tier answered."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from models.cache.book_hash import unpack_book
from models.cache.coherence import PartitionView
from models.cache.entry import decode_entry
from models.cache.keys import Location, Space
from models.cache.mark import Mark
from models.cache.rows import Value, as_people_see, unpack_row
from models.cache.version import NOTHING

_OVERHEAD_BYTES = (
    750  # entry, key and their places in the tables: tracemalloc says 744 for a quote, 541 for a generic key
)
_TEXT_BYTES = 60  # one decimal string as Python holds it


class Held(msgspec.Struct):
    """One entry as held.

    Attributes:
        at: the key and where it lies.
        view: what is known of its partition.
        version: of the value; -1 = there is none (a known miss).
        as_of: the value was right as of this version, which may be newer than its own.
        watermark_ns: proof that came with it, UTC ns; 0 = none.
        value: of a market key as people see it; its leaves are immutable.
        packed: of a generic key: msgpack.
        expires_at_ms: UTC ms, None = never.
        tags: of a generic key.
        used: read since the last look of the eviction.
    """

    at: Location
    view: PartitionView
    version: int
    as_of: int
    watermark_ns: int
    value: Value | None = None
    packed: bytes = b""
    expires_at_ms: int | None = None
    tags: tuple[str, ...] = ()
    used: bool = False

    def cost_bytes(self) -> int:
        """Rough cost in memory, rather too high than too low."""
        n_texts = 8
        if self.value is not None and "bids" in self.value:
            n_texts = 4 * (len(self.value["bids"]) + len(self.value["asks"]))
        return _OVERHEAD_BYTES + (n_texts * _TEXT_BYTES if self.value is not None else len(self.packed))


def held_value(at: Location, view: PartitionView, mark: Mark, data: bytes | None) -> Held:
    """A row or a generic value as of a mark; what is absent, undecodable or below a floor of its groups is a miss."""
    key = at.key
    held = Held(at, view, NOTHING, mark.version, mark.watermark_ns)
    if data is None:
        return held
    if key.space is Space.MARKET:
        row = unpack_row(data)
        if row is not None and row.facet == key.facet:
            held.version, held.value = row.version, as_people_see(row)
    else:
        decoded = decode_entry(data)
        if decoded is not None and view.groups.exists(decoded[0], key.namespace, decoded[1].tags):
            held.version, stored = decoded
            held.packed, held.tags, held.expires_at_ms = stored.value, stored.tags, stored.expires_at_ms
    return held


def held_book(at: Location, view: PartitionView, mark: Mark, fields: Mapping[bytes, bytes]) -> Held:
    """A book's hash as of a mark."""
    held = Held(at, view, NOTHING, mark.version, mark.watermark_ns)
    if (book := unpack_book(fields)) is not None:
        held.version, held.value = book[0].version, book[1]
    return held
