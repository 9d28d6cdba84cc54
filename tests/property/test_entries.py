"""Generic writes of every kind against a plain dict: in any order, with a crash at any point of any barrier.

What a worker says of a write, before a crash or in a replay after it, is what the dict says, and so is what rests; but
entries that are over may have left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cache import graves, partition
from models.cache.entry import decode_stored
from models.cache.outcome import Outcome
from models.cache.partition import EntryChange
from models.cache.write import CacheWrite, encode_value
from models.market import pages
from models.market.pages import Flush, Record
from streams.kafka.owned import OwnedPartition

MAX_OVERTAKEN = 7
N_WRITES = 60
KEYS = ("n:0", "n:1", "m:0")
MAX_COUNT = 2**63 - 1


@pytest.fixture(autouse=True, scope="module")
def few_writes_pass_a_load() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graves, "MAX_OVERTAKEN", MAX_OVERTAKEN)
        patch.setattr(partition, "BURIED_AFTER_MS", 0)
        yield


def writes_of(seed: int) -> list[CacheWrite]:
    random = Random(seed)
    return [_write(random, version) for version in range(N_WRITES)]


def _write(random: Random, version: int) -> CacheWrite:
    key = random.choice(KEYS)
    ttl_ms = random.choice([None, 1, 3, 30])
    tags = () if ttl_ms is None else random.choice([(), ("t",), ("t", "u")])
    value = encode_value(random.choice([0, 5, MAX_COUNT, "text", True, None, 1.5]))
    before = random.randint(max(version - 10, -1), version - 1)
    match random.choice(["put", "delete", "delete_tag", "clear", "fill", "fill", "incr", "incr", "incr", "put_if"]):
        case "put":
            return CacheWrite("put", key, value, ttl_ms, tags)
        case "delete":
            return CacheWrite("delete", key)
        case "delete_tag":
            return CacheWrite("delete_tag", tag=random.choice("tu"))
        case "clear":
            return CacheWrite("clear", namespace=random.choice([None, "n", "m"]))
        case "fill":
            return CacheWrite("fill", key, value, ttl_ms, tags, base=before)
        case "put_if":
            return CacheWrite("put_if", key, value, ttl_ms, tags, base=random.choice([-1, before]), reply=True)
        case _:
            by = random.choice([1, 1, -2, MAX_COUNT])
            return CacheWrite("incr", key, ttl_ms=ttl_ms, by=by, reply=random.random() < 0.5)


class Item(NamedTuple):
    version: int
    ends_ms: int | None
    tags: tuple[str, ...]
    value: bytes


class Oracle:
    """A dict; time is the version, in ms. After each write: what is there, and what the worker has to say."""

    def __init__(self, writes: list[CacheWrite]) -> None:
        self.items: dict[str, Item] = {}
        self.touched: dict[str, int] = {}
        self.floors: dict[str, int] = {}
        self.said = [self.apply(write, version) for version, write in enumerate(writes)]

    def apply(self, write: CacheWrite, now: int) -> tuple[Any, ...] | None:
        """(key or floor, item or None, outcome's value); None where nothing happens and nothing is to be told."""
        here = self.alive(write.key, now)
        item = Item(now, None if write.ttl_ms is None else now + write.ttl_ms, write.tags, write.value)
        if write.op in ("delete_tag", "clear"):
            name = f"t:{write.tag}" if write.tag else "*" if write.namespace is None else f"n:{write.namespace}"
            self.floors[name] = now
            return name, None, None
        if write.op == "delete":
            return self.store(write.key, now, None)
        if write.op == "put":
            return self.store(write.key, now, item)
        if write.op == "fill":
            newer = max(self.touched.get(write.key, -1), self.floor(write.key, write.tags)) > write.base
            return None if newer or now - write.base > MAX_OVERTAKEN else self.store(write.key, now, item)
        if write.op == "put_if":
            if (here.version if here else -1) != write.base:
                return "", None, False
            return self.store(write.key, now, item, outcome=True)
        number = msgspec.msgpack.decode(here.value) if here else 0
        if isinstance(number, bool) or not isinstance(number, int) or not -(2**63) <= number + write.by < 2**63:
            return "", None, str
        old = here or item._replace(tags=())
        kept = old._replace(version=now, value=encode_value(number + write.by))
        return self.store(write.key, now, kept, outcome=number + write.by)

    def store(self, key: str, now: int, item: Item | None, outcome: Any = None) -> tuple[Any, ...]:
        self.touched[key] = now
        self.items.pop(key, None)
        if item is not None:
            self.items[key] = item
        return key, item, outcome

    def floor(self, key: str, tags: tuple[str, ...]) -> int:
        return max(self.floors.get(name, -1) for name in ("*", f"n:{key[0]}", *(f"t:{tag}" for tag in tags)))

    def alive(self, key: str, now: int) -> Item | None:
        item = self.items.get(key)
        if item is None or item.version < self.floor(key, item.tags) or (item.ends_ms or 10**9) <= now:
            return None
        return item


def told(change: EntryChange | None) -> tuple[Any, ...] | None:
    """A change in the oracle's words."""
    if change is None:
        return None
    outcome = change.outcome.value if change.outcome else None
    return change.key or change.floor, item_of(change.stored), str if isinstance(outcome, str) else outcome


def item_of(stored: bytes | None) -> Item | None:
    version, entry = decode_stored(stored)
    return None if entry is None else Item(version, entry.expires_at_ms, entry.tags, entry.value)


@dataclass
class Worker:
    """One partition whose process may end in the middle of a barrier; its disk is a dict.

    Args:
        order: the units in which a flush reaches the disk.
        eager: it buries what is over as of what it has applied, whether a control page counts that or not.
    """

    writes: list[CacheWrite]
    random: Random
    order: Callable[[Flush], list[list[Record]]] = lambda flush: [*flush.groups, [flush.control]]
    eager: bool = False
    disk: dict[bytes, bytes] = field(default_factory=dict)
    owned: OwnedPartition = field(default_factory=lambda: OwnedPartition(0, ""))
    next_write: int = 0
    n_crashes: int = 0
    n_over: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self, oracle: Oracle) -> None:
        while self.next_write < len(self.writes):
            for _ in range(self.random.randint(1, 9)):
                self.step(oracle)
            match self.random.choice(["go", "barrier", "barrier", "slow barrier", "crash", "crash in barrier"]):
                case "barrier":
                    self.barrier(oracle)
                case "slow barrier":
                    self.barrier(oracle, n_meanwhile=4)
                case "crash" if self.n_crashes < 8:
                    self.restart()
                case "crash in barrier" if self.n_crashes < 8:
                    self.barrier(oracle, self.random.randint(0, 6))
                    self.restart()
        self.barrier(oracle)
        self.restart()
        while self.next_write < len(self.writes):
            self.step(oracle)
        self.barrier(oracle)

    def step(self, oracle: Oracle) -> None:
        if (version := self.next_write) == len(self.writes):
            return
        entries, write = self.owned.entries, self.writes[version]
        holds = decode_stored(entries.unsaved.get(write.key) or self.page(write.key)).version
        is_repetition = version <= max(entries.held, holds)
        change = entries.apply(write, version=version, append_ms=version, stored=self.page)
        # A repetition says nothing where a page holds it already; otherwise it says the same again.
        if told(change) != oracle.said[version] and not (change is None and is_repetition):
            self.wrong.append(f"{version} {write}: {told(change)} is not {oracle.said[version]}")
        self.next_write += 1

    def page(self, key: str) -> bytes | None:
        return self.disk.get(pages.ENTRY + key.encode())

    def barrier(self, oracle: Oracle, n_units: int | None = None, n_meanwhile: int = 0) -> None:
        entries = self.owned.entries
        if self.eager:
            entries._counted_ms, entries.graves.counted = entries._append_ms, entries.applied
        there = [(key[1:].decode(), body) for key, body in self.disk.items() if key[:1] == pages.ENTRY]
        looked = [(key, entries.over(key, body, now_ms=self.next_write)) for key, body in there]
        over = [(key, version) for key, version in looked if version is not None]
        self.n_over += len(over)
        entries.bury(over)
        flush = self.owned.flush()
        for _ in range(n_meanwhile):
            self.step(oracle)  # while the pages are on their way
        units = self.order(flush)
        for key, body in (record for unit in units[:n_units] for record in unit):
            if body is None:
                self.disk.pop(key, None)
            else:
                self.disk[key] = body
        if n_units is None:
            self.owned.entries.saved()

    def restart(self) -> None:
        self.n_crashes += 1
        found = sorted(self.disk.items())
        self.owned = OwnedPartition(0, "")
        self.owned.load(found)
        if self.random.random() < 0.3:
            self.owned.rewrite_pages(found)
        self.next_write = max(self.owned.entries.applied + 1 - self.random.choice([0, 0, 3]), 0)


def differences(seed: int, **variant: Any) -> list[str]:
    writes = writes_of(seed)
    oracle = Oracle(writes)
    worker = Worker(writes, Random(seed), **variant)
    worker.run(oracle)
    found = {key[1:].decode(): item_of(body) for key, body in worker.disk.items() if key[:1] == pages.ENTRY}
    there = {key: item for key, item in found.items() if item is not None}
    alive = {key: item for key in oracle.items if (item := oracle.alive(key, N_WRITES)) is not None}
    if not alive.items() <= there.items() <= oracle.items.items():
        worker.wrong.append(f"at rest: {there} is not {oracle.items}")
    if worker.owned.entries.floors != oracle.floors:
        worker.wrong.append("floors")
    if worker.owned.entries.unsaved:
        worker.wrong.append("something was left unsaved")
    return worker.wrong


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_any_writes_and_crashes_end_as_a_dict_does_and_never_say_anything_else(seed: int) -> None:
    assert differences(seed) == []


def deletions_at_once(flush: Flush) -> list[list[Record]]:
    """Pages of deleted keys are deleted instead of becoming graves."""
    groups = [
        [(key, None if body is not None and key[:1] == b"E" and len(body) == 8 else body) for key, body in group]
        for group in flush.groups
    ]
    return [*groups, [flush.control]]


def control_first(flush: Flush) -> list[list[Record]]:
    return [[flush.control], *flush.groups]


def test_burying_before_a_control_page_counts_the_end_is_found_too() -> None:
    assert any(differences(seed, eager=True) for seed in range(200))


def test_entries_are_buried_on_the_way() -> None:
    workers = [Worker(writes_of(seed), Random(seed)) for seed in range(20)]
    for worker in workers:
        worker.run(Oracle(worker.writes))
    assert sum(worker.n_over for worker in workers) > 20


@pytest.mark.parametrize("order", [deletions_at_once, control_first])
def test_the_comparison_finds_a_wrong_way_to_write_pages(order: Callable[[Flush], list[list[Record]]]) -> None:
    assert any(differences(seed, order=order) for seed in range(200))


def test_the_property_meets_every_outcome() -> None:
    said = [said for seed in range(20) for said in Oracle(writes_of(seed)).said]
    outcomes = [entry[2] for entry in said if entry is not None]
    assert {True, False, str} <= set(outcomes)
    assert sum(said is None for said in said) > 20, "late fills"


def test_graves_do_not_pile_up() -> None:
    owned = OwnedPartition(0, "")
    for version in range(100):
        owned.entries.apply(CacheWrite("delete", f"n:{version}"), version=version, append_ms=version)
        if version % 5 == 4:
            owned.flush()
            owned.entries.saved()
    assert len(owned.entries.graves) <= MAX_OVERTAKEN + 10
    assert not owned.entries.unsaved


def test_an_outcome_is_kept_only_for_who_asks() -> None:
    owned = OwnedPartition(0, "")
    quiet = owned.entries.apply(CacheWrite("incr", "n:0", by=2), version=0, append_ms=5)
    asked = owned.entries.apply(CacheWrite("incr", "n:0", by=2, reply=True), version=1, append_ms=5)
    assert [change and change.outcome for change in (quiet, asked)] == [Outcome(2), Outcome(4, 10_005)]
