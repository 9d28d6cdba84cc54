"""What each tier holds, as version and fingerprint by key: the form in which the checker compares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from models.cache.entry import decode_entry
from models.cache.keys import FLOORS, MARK, Space, market_key
from models.cache.rows import Row, as_people_see, unpack_row
from models.cache.timeline import fingerprint
from models.market import facets, pages
from streams.cache.memory import Memory
from streams.kafka.owned import OwnedPartition
from tests.coherence.fake_kafka import FakeKafka
from tests.coherence.sim_worker import CHANGELOG, Disk

Copy = dict[str, tuple[int, str]]


def redis_copy(values: Mapping[bytes, object]) -> Copy:
    """Trades and generic entries that no floor covers."""
    copy: Copy = {}
    floors = {
        name.partition(b"}")[0]: {field.decode(): int.from_bytes(at, "big") for field, at in fields.items()}
        for name, fields in values.items()
        if isinstance(fields, dict) and name.endswith(FLOORS.encode())
    }
    for name, data in values.items():
        stem, _, text = name.decode().partition("}:")
        if text in (MARK, FLOORS) or not isinstance(data, bytes):
            continue
        if stem.startswith(Space.MARKET.value):
            row = unpack_row(data)
            if row is not None and row.facet == facets.TRADE:
                copy[f"md:{text}"] = row.version, fingerprint(as_people_see(row))
        elif (decoded := decode_entry(data)) is not None:
            version, entry = decoded
            if not covered(floors.get(stem.encode(), {}), text, version, entry.tags):
                copy[text] = version, fingerprint(msgspec.msgpack.decode(entry.value))
    return copy


def disk_copy(disks: Mapping[int, Disk], at_ms: int) -> Copy:
    copy: Copy = {}
    for number, disk in disks.items():
        stored = [(key, pages.split_token(disk.pages[key])[1]) for key in sorted(disk.pages)]
        owned = OwnedPartition(number, "")
        owned.load(stored)
        copy |= owned_copy(owned, stored, at_ms)
    return copy


def changelog_copy(kafka: FakeKafka, n_partitions: int, at_ms: int) -> Copy:
    """What a worker without a disk would recover."""
    disks = {number: Disk() for number in range(n_partitions)}
    for number, disk in disks.items():
        disk.apply(kafka.logs[CHANGELOG, number].records)
    return disk_copy(disks, at_ms)


def owned_copy(owned: OwnedPartition, stored: Iterable[tuple[bytes, bytes]], at_ms: int) -> Copy:
    copy: Copy = {}
    market = owned.market
    plane = int(market.rows.plane_of[facets.TRADE])
    for slot, instrument in enumerate(market.slots.instruments if plane >= 0 else ()):
        state = market.rows.rows[plane, slot]
        if state[facets.N_ROWS] > 0:
            values = tuple(int(v) for v in state[facets.V0 : facets.V0 + facets.N_VALUES])
            row = Row(
                int(state[facets.VERSION]), int(state[facets.TS_EVENT]), int(state[facets.TS_RECV]), values,
                instrument.price_exp, instrument.size_exp, facets.TRADE,
            )  # fmt: skip
            copy[market_key(instrument.text, facets.TRADE)] = row.version, fingerprint(as_people_see(row))
    for key, body in stored:
        decoded = decode_entry(body) if key.startswith(pages.ENTRY) else None
        if decoded is None:
            continue
        text, (version, entry) = key[1:].decode(), decoded
        alive = entry.expires_at_ms is None or entry.expires_at_ms > at_ms
        if alive and not owned.entries.covered(text, version, entry.tags):
            copy[text] = version, fingerprint(msgspec.msgpack.decode(entry.value))
    return copy


def memory_copy(memory: Memory, at_ms: int) -> Copy:
    """Values that a reader would serve from its memory."""
    copy: Copy = {}
    for held in memory:
        key = held.at.key
        if held.version < 0 or (held.expires_at_ms is not None and held.expires_at_ms <= at_ms):
            continue
        if key.space is Space.MARKET:
            copy[key.text] = held.version, fingerprint(held.shown())
        elif held.view.keeps(held.as_of, key.namespace, held.tags):
            value = msgspec.msgpack.decode(held.packed) if held.packed else held.value
            copy[key.text] = held.version, fingerprint(value)
    return copy


def covered(floors: Mapping[str, int], key: str, version: int, tags: Iterable[str]) -> bool:
    names = ("*", f"n:{key.partition(':')[0]}", *(f"t:{tag}" for tag in tags))
    return any(version < floors.get(name, -1) for name in names)
