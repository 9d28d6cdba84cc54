"""The audit: samples of what Redis holds against the worker's own pages, while both go on."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from redis.asyncio import Redis

from models.cache.audit import Agreement, agreement
from models.cache.book_hash import HEADER, unpack_header
from models.cache.entry import decode_entry
from models.cache.keys import FLOORS, MARK, Space, facet_key, mark_key, market_key, parse_key, redis_key, stem
from models.cache.mark import Mark, unpack_mark
from models.cache.packed import pack_changes
from models.cache.version import NOTHING, from_bytes, to_bytes
from models.errors import InvalidKey
from models.market import facets, pages
from streams import metrics
from streams.cache.coherence import Coherence
from streams.cache.connect import redis_errors
from streams.clock import Clock, now_ns
from streams.kafka.owned import OwnedPartition
from streams.kafka.ownership import Ownership
from streams.kafka.table import PageTable
from streams.log import event

log = logging.getLogger(__name__)

_EXPIRY_MS = 1_000  # around its end an entry may be gone here and still be there
_MS = 1_000_000
_PREFIX = f"{Space.MARKET.value}:"


class Sampled(NamedTuple):
    """One key: as people write it, and in Redis; `slot` and `facet` of a market key, else -1."""

    owned: OwnedPartition
    space: Space
    text: str
    redis_key: bytes
    slot: int = -1
    facet: int = -1


class Difference(NamedTuple):
    """A key that Redis and the pages tell differently at one mark; versions, -1 = nothing."""

    key: str
    mark: int
    page_version: int
    redis_version: int


class Auditor:
    """Half of the keys are drawn from the pages, half from Redis: what one of them lacks is found as well.

    A first comparison takes no lock: rows and entries know their versions, and what is ahead of the mark is passed
    over. What differs is read again between two rounds, when the mark is what the pages have applied; only what
    differs then counts.

    Args:
        ownership: whose partitions are audited.
        coherence: gives Redis what it is to have before a second look.
        table: their pages on disk.
        redis: from `connect_redis`; the caller closes it.
        url: for error messages.
        prefix: the run's prefix.
    """

    def __init__(
        self,
        ownership: Ownership,
        coherence: Coherence,
        table: PageTable,
        redis: Redis,
        *,
        url: str,
        prefix: str,
        clock: Clock = now_ns,
    ) -> None:
        self._ownership = ownership
        self._coherence = coherence
        self._table = table
        self._redis = redis
        self._url = url
        self._prefix = prefix
        self._clock = clock
        self._scan_cursor = 0
        self._entry_from: dict[int, bytes] = {}  # where the next sample of a partition's entries begins
        self._random = random.Random()

    async def look(self, n_keys: int) -> list[Difference]:
        """Compare about so many keys; count and log what differs for certain.

        Raises:
            ServiceUnavailable: Redis does not answer.
            CorruptStore: the disk gave something else than was written.
        """
        there = self._sound()
        if not there:
            return []
        owned = self._random.choice(there)
        wanted = self._from_pages(owned, n_keys - n_keys // 2)
        wanted += await self._from_redis(there, n_keys // 2)
        marks, copies = await self._read(wanted)
        self._measure(marks)
        suspects = [
            sampled
            for sampled, copy in zip(wanted, copies, strict=True)
            if self._owns(sampled)
            and self._compare(sampled, copy, marks[sampled.owned.number, sampled.space]) is Agreement.DIFFERENT
        ]
        metrics.AUDITED.inc(len(wanted))
        differences = await self._again(suspects) if suspects else []
        for found in differences:
            metrics.AUDIT_VIOLATIONS.inc()
            event(
                log, "audit_violation", level=logging.ERROR, key=found.key, mark=found.mark,
                page_version=found.page_version, redis_version=found.redis_version,
            )  # fmt: skip
        return differences

    async def _again(self, suspects: Sequence[Sampled]) -> list[Difference]:
        """Look once more while no round is under way: pages and Redis stand at the same version, or nothing is said."""
        async with self._ownership.lock:
            still = [sampled for sampled in suspects if self._owns(sampled)]
            await self._coherence.settle({s.owned.number: s.owned for s in still}.values())
            marks, copies = await self._read(still)
            found = []
            for sampled, copy in zip(still, copies, strict=True):
                owned, space = sampled.owned, sampled.space
                mark = marks[owned.number, space]
                at_rest = mark.version == owned.applied(space) == owned.tier[space] and mark.token == owned.token
                if not at_rest or space in owned.redis_behind:
                    continue
                if self._compare(sampled, copy, mark) is Agreement.DIFFERENT:
                    versions = (_version(form) for form in (self._page(sampled), copy))
                    found.append(Difference(sampled.text, mark.version, *versions))
        return found

    def _owns(self, sampled: Sampled) -> bool:
        """Whether the partition is still ours: the disk of one that was revoked is not to be opened again."""
        return self._ownership.partitions.get(sampled.owned.number) is sampled.owned

    def _sound(self) -> list[OwnedPartition]:
        return [owned for owned in self._ownership.partitions.values() if not owned.redis_behind]

    # -- what to look at

    def _from_pages(self, owned: OwnedPartition, n_keys: int) -> list[Sampled]:
        n_slots = len(owned.market.slots)
        n_rows = n_keys - n_keys // 2
        slots = self._random.sample(range(n_slots), min(n_rows, n_slots))
        there = [(slot, facet) for slot in slots for facet in _facets(owned, slot)]
        sampled = [self._market(owned, *place) for place in self._random.sample(there, min(n_rows, len(there)))]
        first = self._entry_from.get(owned.number, pages.ENTRY)
        keys = self._table.keys_from(owned.number, first, n_keys // 2 + 1)
        entries = [key for key in keys if key.startswith(pages.ENTRY)]
        # The last one is where the next look begins; with nothing left it begins anew.
        self._entry_from[owned.number] = entries.pop() if len(entries) > n_keys // 2 else pages.ENTRY
        return sampled + [self._entry(owned, key[1:].decode()) for key in entries]

    async def _from_redis(self, there: Sequence[OwnedPartition], n_keys: int) -> list[Sampled]:
        """Keys of our partitions among those that one step of a scan brings."""
        stems = {stem(self._prefix, space, o.number): (o, space) for o in there for space in Space}
        with redis_errors(self._url):
            step: tuple[int, list[Any]] = await self._redis.scan(self._scan_cursor, count=max(n_keys, 1))
        self._scan_cursor, names = step
        sampled = []
        for name in names[: 2 * n_keys]:
            begin, brace, text = name.decode(errors="replace").partition("}:")
            owned_space = stems.get(begin + brace)
            if owned_space is None or text in (MARK, FLOORS):
                continue
            owned, space = owned_space
            try:
                key = parse_key(text if space is Space.GENERIC else _PREFIX + text)
            except InvalidKey:
                continue
            if space is Space.GENERIC:
                sampled.append(self._entry(owned, text))
            else:
                slot = int(owned.market.slots.find(np.array([key.subject], np.uint64))[0])
                sampled.append(Sampled(owned, space, key.text, name, slot, key.facet))
        return sampled

    def _market(self, owned: OwnedPartition, slot: int, facet: int) -> Sampled:
        text = owned.market.slots.instruments[slot].text
        name = facet_key(self._prefix, facet, text, owned.number)
        return Sampled(owned, Space.MARKET, market_key(text, facet), name, slot, facet)

    def _entry(self, owned: OwnedPartition, text: str) -> Sampled:
        return Sampled(owned, Space.GENERIC, text, redis_key(self._prefix, parse_key(text), owned.number))

    # -- both sides

    async def _read(self, wanted: Sequence[Sampled]) -> tuple[dict[tuple[int, Space], Mark], list[bytes | None]]:
        """The marks of the keys' partitions and the keys' values, all as of one instant."""
        places = list(dict.fromkeys((s.owned.number, s.space) for s in wanted))
        books = [s for s in wanted if s.facet == facets.BOOK]
        plain = [s for s in wanted if s.facet != facets.BOOK]
        if not wanted:
            return {}, []
        names = [mark_key(self._prefix, space, number) for number, space in places]
        with redis_errors(self._url):
            async with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.mget([*names, *(s.redis_key for s in plain)])
                for sampled in books:
                    pipeline.hgetall(sampled.redis_key)
                values, *hashes = await pipeline.execute()
        marks = {place: unpack_mark(data) for place, data in zip(places, values, strict=False)}
        found: dict[bytes, bytes | None] = {s.redis_key: v for s, v in zip(plain, values[len(places) :], strict=True)}
        found |= {s.redis_key: _book(fields) for s, fields in zip(books, hashes, strict=True)}
        return marks, [found[s.redis_key] for s in wanted]

    def _page(self, sampled: Sampled) -> bytes | None:
        owned, slot, facet = sampled.owned, sampled.slot, sampled.facet
        if sampled.space is Space.GENERIC:
            stored = owned.entries.unsaved.get(sampled.text) or self._table.page(
                owned.number, pages.ENTRY + sampled.text.encode()
            )
            return None if stored is None or decode_entry(stored) is None else stored  # a grave is no entry
        if slot < 0:
            return None
        if facet != facets.BOOK:
            bits = np.array([1 << facet], np.uint64)
            market = owned.market
            packed = pack_changes(
                market.rows, market.slots, np.array([slot], np.int32), bits, to_version=market.applied
            )
            return bytes(packed.redis) or None
        if not owned.market.books.header(slot).n_rows:
            return None
        bids, asks = owned.market.books.levels(slot)
        return b"".join((to_bytes(owned.market.books.version(slot)), bids.tobytes(), b"|", asks.tobytes()))

    def _compare(self, sampled: Sampled, copy: bytes | None, mark: Mark) -> Agreement:
        page = self._page(sampled)
        if sampled.space is Space.GENERIC and self._is_ending(sampled, page, copy):
            return Agreement.LATER
        return agreement(page, copy, mark.version)

    def _is_ending(self, sampled: Sampled, *forms: bytes | None) -> bool:
        """Whether nobody serves the entry: a floor covers it, or it expires about now; then either may have it."""
        latest_ms = self._clock() // _MS + _EXPIRY_MS
        for form in forms:
            if form is None or (decoded := decode_entry(form)) is None:
                continue
            version, entry = decoded
            if entry.expires_at_ms is not None and entry.expires_at_ms <= latest_ms:
                return True
            if sampled.owned.entries.covered(sampled.text, version, entry.tags):
                return True
        return False

    def _measure(self, marks: Mapping[tuple[int, Space], Mark]) -> None:
        """How far Redis is behind what is applied, in the log's own time."""
        for (number, space), mark in marks.items():
            if (owned := self._ownership.partitions.get(number)) is not None and owned.applied(space) != NOTHING:
                behind = mark.version < owned.applied(space)
                lag_ns = max(0, owned.append_ns[space] - mark.watermark_ns) if behind and mark.watermark_ns else 0
                metrics.AUDIT_LAG.observe(lag_ns / 1e9)


def _facets(owned: OwnedPartition, slot: int) -> list[int]:
    """Facets of which the slot has something."""
    rows = owned.market.rows
    there = [facet for plane, facet in enumerate(rows.facet_of) if rows.rows[plane, slot, facets.N_ROWS]]
    return [*there, facets.BOOK] if owned.market.books.header(slot).n_rows else there


def _book(fields: Mapping[bytes, Any]) -> bytes | None:
    """A book's hash in the form of its page: version, bids, asks."""
    if (header := unpack_header(fields.get(HEADER, b""))) is None:
        return None
    bids, asks = (
        b"".join([fields.get(chunk.to_bytes(4, "little"), b"") for chunk in ids])
        for ids in (header.bid_chunks, header.ask_chunks)
    )
    return b"".join((to_bytes(header.version), bids, b"|", asks))


def _version(form: bytes | None) -> int:
    return NOTHING if form is None or len(form) < 8 else from_bytes(form)
