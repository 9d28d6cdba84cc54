"""Steps: what rounds, or a rewrite, change in one space of one partition, packed for readers and for Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.cache.book_hash import pack_book
from models.cache.entry import decode_entry
from models.cache.invalidation import CHANGE, STAMP, KeyOp
from models.cache.keys import Space, floors_key, parse_key, redis_key
from models.cache.outcome import encode_outcome, outcome_key
from models.cache.packed import PackedRows, named_changes, pack_changes
from models.cache.partition import FLUSH_ALL, EntryChange
from models.market import facets
from models.market.book import BookChange, Consumer
from models.market.book_page import encode_wire_header
from streams.cache.batch import Batch, Update, delete, put, put_until, raise_floor
from streams.kafka.owned import OwnedPartition

_FLOOR_OPS = {"t": KeyOp.TAG, "n": KeyOp.NAMESPACE, FLUSH_ALL: KeyOp.FLUSH_ALL}


@dataclass
class Step:
    """What the invalidation says of one space of a partition, up to a version.

    Attributes:
        version, watermark_ns: of the newest record in it.
        changes: dtype CHANGE, instruments and facets.
        stamps: dtype STAMP, one a source frame.
        keys: generic keys, tags and namespaces, in log order.
        rows: the new rows of `changes` as an invalidation carries them; None if they are not to be carried.
        stands_alone: readers find all that changed in the invalidation, and need no tier to have it before.
    """

    owned: OwnedPartition
    space: Space
    version: int
    watermark_ns: int
    changes: NDArray[np.void] = field(default_factory=lambda: np.empty(0, CHANGE))
    stamps: NDArray[np.void] = field(default_factory=lambda: np.empty(0, STAMP))
    keys: tuple[tuple[KeyOp, str], ...] = ()
    rows: bytes | None = None
    stands_alone: bool = False


def market_step(owned: OwnedPartition, *, carried_rows: int = 0) -> Step:
    """What the frames applied since the last step touched; up to `carried_rows` rows go with its invalidation."""
    market = owned.market
    _note(owned)
    slots, bits, n_rows, n_books = owned.untold.take()
    carried: bytes | None = None
    if told := n_rows <= carried_rows:
        carried = pack_changes(market.rows, market.slots, slots, bits, to_version=market.applied).carried
        told = carried is not None
    stamps, owned.stamps = owned.stamps, []
    return Step(
        owned, Space.MARKET, market.applied, owned.append_ns[Space.MARKET],
        named_changes(market.slots, slots, bits), np.array(stamps, STAMP),
        rows=carried if n_rows else None, stands_alone=told and not n_books,
    )  # fmt: skip


def entry_step(owned: OwnedPartition, written: Sequence[EntryChange]) -> Step:
    """What the writes of one round did, in log order."""
    owned.unwritten_entries += written
    keys = tuple(_named(change) for change in written if change.changes)
    return Step(owned, Space.GENERIC, owned.entries.applied, owned.append_ns[Space.GENERIC], keys=keys)


def market_batch(owned: OwnedPartition) -> Batch:
    """Rows and books that changed since they were last taken for Redis, as they are now."""
    market = owned.market
    _note(owned)
    slots, bits, *_ = owned.unwritten.take()
    packed = pack_changes(market.rows, market.slots, slots, bits, to_version=market.applied, carry=False)
    updates = _gone(owned, packed)
    if books := market.books.dirty(Consumer.PUBLISHER):
        updates += [_book_update(owned, change) for change in books]
        market.books.mark_clean([change.slot for change in books], Consumer.PUBLISHER)
    return _batch(owned, packed, updates)


def entry_batch(owned: OwnedPartition) -> Batch:
    """Entries that were written since they were last taken for Redis, and what became of writes that asked."""
    written, owned.unwritten_entries = owned.unwritten_entries, []
    updates = [_entry_update(owned, change) for change in written if change.changes]
    for version, *_, outcome in written:
        if outcome is not None and outcome.until_ms is not None:
            key = outcome_key(owned.prefix, owned.number, version)
            updates.append((key, put_until(outcome.until_ms, encode_outcome(version, outcome))))
    return Batch(
        Space.GENERIC, owned.number, owned.token, owned.tier[Space.GENERIC], owned.entries.applied,
        owned.append_ns[Space.GENERIC], updates=updates,
    )  # fmt: skip


def market_rewrite(owned: OwnedPartition) -> tuple[Batch, set[bytes]]:
    """All rows and books of a partition, and their keys: everything else under its hash tag is to go."""
    market = owned.market
    slots = np.arange(len(market.slots), dtype=np.int32)
    bits = np.zeros(len(slots), np.uint64)
    for plane, facet in enumerate(market.rows.facet_of):
        bits |= (market.rows.rows[plane, slots, facets.N_ROWS] > 0).astype(np.uint64) << np.uint64(facet)
    packed = pack_changes(market.rows, market.slots, slots, bits, to_version=market.applied, carry=False)
    _note(owned)
    owned.unwritten.take()
    owned.published_books.clear()
    market.books.mark_dirty(Consumer.PUBLISHER)
    books = market.books.dirty(Consumer.PUBLISHER)
    updates = [_book_update(owned, change) for change in books]
    market.books.mark_clean([change.slot for change in books], Consumer.PUBLISHER)
    batch = _batch(owned, packed, updates, rewrite=True)
    known = set(batch.row_keys) | {key for key, update in updates if update[:1] == b"B"}
    return batch, known


def entry_rewrite(owned: OwnedPartition, stored: Iterable[tuple[str, bytes]]) -> tuple[Batch, set[bytes]]:
    """All entries of a partition that no floor covers, and the floors themselves."""
    owned.unwritten_entries.clear()
    updates: list[Update] = [
        (floors_key(owned.prefix, owned.number), raise_floor(version, name))
        for name, version in owned.entries.floors.items()
    ]
    known: set[bytes] = set()
    for key, data in stored:
        if (found := decode_entry(data)) is None:
            continue
        version, entry = found
        if owned.entries.covered(key, version, entry.tags):
            continue
        update = _entry_update(owned, EntryChange(version, key, data, entry.expires_at_ms, ""))
        updates.append(update)
        known.add(update[0])
    batch = Batch(
        Space.GENERIC, owned.number, owned.token, owned.tier[Space.GENERIC], owned.entries.applied,
        owned.append_ns[Space.GENERIC], updates=updates, rewrite=True,
    )  # fmt: skip
    return batch, known


def _note(owned: OwnedPartition) -> None:
    """Rows touched since the last call are to go to readers and to Redis, each in its own time."""
    slots, bits = owned.market.rows.take_touched()
    owned.untold.add(slots, bits)
    owned.unwritten.add(slots, bits)


def _gone(owned: OwnedPartition, packed: PackedRows) -> list[Update]:
    if not len(packed.absent):
        return []
    gone = delete(owned.market.applied)
    return [(key, gone) for key in owned.redis_keys(packed.absent)]


def _batch(owned: OwnedPartition, packed: PackedRows, updates: list[Update], *, rewrite: bool = False) -> Batch:
    return Batch(
        Space.MARKET, owned.number, owned.token, owned.tier[Space.MARKET], owned.market.applied,
        owned.append_ns[Space.MARKET], owned.redis_keys(packed.names), packed.redis, updates, rewrite,
    )  # fmt: skip


def _book_update(owned: OwnedPartition, change: BookChange) -> Update:
    market, slot = owned.market, change.slot
    (key,) = owned.redis_keys(np.array([slot * len(facets.FACETS) + facets.BOOK], np.int32))
    book = market.books.header(slot)
    if not book.n_rows:
        owned.published_books.discard(slot)
        return key, delete(book.version)
    full = slot not in owned.published_books
    owned.published_books.add(slot)
    header = encode_wire_header(
        book, price_exp=int(market.slots.price_exp[slot]), size_exp=int(market.slots.size_exp[slot])
    )
    ids = (*book.bids, *book.asks) if full else change.chunks
    chunks = [(chunk, market.books.chunk_bytes(chunk)) for chunk in ids]
    return key, pack_book(header, chunks, () if full else change.dropped, full=full)


def _entry_update(owned: OwnedPartition, change: EntryChange) -> Update:
    if change.floor:
        return floors_key(owned.prefix, owned.number), raise_floor(change.version, change.floor)
    key = redis_key(owned.prefix, parse_key(change.key), owned.number)
    if change.stored is None:
        return key, delete(change.version)
    if change.expires_at_ms is None:
        return key, put(change.stored)
    return key, put_until(change.expires_at_ms, change.stored)


def _named(change: EntryChange) -> tuple[KeyOp, str]:
    if change.floor:
        kind, _, name = change.floor.partition(":")
        return _FLOOR_OPS[kind], name
    return KeyOp.DELETE if change.stored is None else KeyOp.PUT, change.key
