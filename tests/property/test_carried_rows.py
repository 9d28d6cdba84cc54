"""A reader whose memory is renewed by carried rows, while its tier runs ahead or behind: no answer is ever too old.

The history is that of one partition. A worker announces it in records of any span, some of them with rows; after a
take-over it says again what was heard; records get lost. Redis has some version of it, ahead of the announcements or
behind them, as when both leave at once. The reader hears, reads, forgets and watches in any order.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cache.coherence import PartitionView
from models.cache.invalidation import CHANGE, NO_ROW, Invalidation, RecordType, Source
from models.cache.keys import Space, locate
from models.cache.mark import Mark
from models.cache.rows import pack_rows, unpack_body
from models.cache.version import NOTHING
from streams.cache.held import Held, held_value
from streams.cache.memory import Memory
from streams.cache.recent import RecentRows
from streams.client.upkeep import Upkeep

KEYS = [
    locate(f"md:venue.spot.{symbol}:{facet}", prefix="", n_partitions=1)
    for symbol in ("A-USDT", "B-USDT")
    for facet in ("trade", "quote", "funding")
]


@dataclass
class World:
    """The truth, and a reader of it. `changes[v]` are the keys that version v changed; a deleted key is absent."""

    changes: list[set[int]]
    deleted: set[tuple[int, int]]  # version, key
    ring: int
    n_recent: int = 0
    view: PartitionView = field(init=False)
    memory: Memory = field(init=False)
    heard: int = NOTHING
    given: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(len(KEYS)), NOTHING))
    needed: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(len(KEYS)), NOTHING))

    def __post_init__(self) -> None:
        self.view = PartitionView(self.ring)
        self.recent = RecentRows(self.n_recent)
        self.memory = Memory(1 << 16, made_room=self.recent.keep)
        self.upkeep = Upkeep({(Space.MARKET, 0): self.view}, self.memory, recent=self.recent)

    def newest(self, key: int, as_of: int) -> int:
        """Version that changed the key last, up to `as_of`."""
        return max((v for v in range(as_of + 1) if key in self.changes[v]), default=NOTHING)

    def row(self, key: int, as_of: int) -> bytes | None:
        """What Redis holds of a key as of a version: its price is its version."""
        version = self.newest(key, as_of)
        if version == NOTHING or (version, key) in self.deleted:
            return None
        state = np.array([[version, 1, 2, 1, version, 1, 0, 0, 0, 0]], np.int64)
        exp, facet = np.zeros(1, np.int8), np.array([KEYS[key].key.facet], np.uint8)
        return pack_rows(state, exp, exp, facet)

    def carried(self, key: int, as_of: int) -> bytes:
        row = self.row(key, as_of)
        if row is None:
            return bytes(66) + bytes([NO_ROW]) + bytes(5)
        return row[8:75] + (as_of - self.newest(key, as_of)).to_bytes(5, "little")

    def announce(self, start: int, end: int, *, rows: bool) -> None:
        named = sorted({key for v in range(start + 1, end + 1) for key in self.changes[v]})
        bits: dict[int, int] = {}
        for key in named:
            bits[KEYS[key].key.subject] = bits.get(KEYS[key].key.subject, 0) | 1 << KEYS[key].key.facet
        in_order = sorted(named, key=lambda k: (list(bits).index(KEYS[k].key.subject), KEYS[k].key.facet))
        record = Invalidation(
            RecordType.CHANGES, Source.FRAMES, 1, start, end, changes=np.array(list(bits.items()), CHANGE),
            rows=b"".join(self.carried(key, end) for key in in_order) if rows else None,
        )  # fmt: skip
        if self.view.synced and start > self.heard:
            self.upkeep.lose(Space.MARKET, 0, start)
        self.upkeep.hear(0, record, latest_ns=0)
        self.heard = max(self.heard, end)
        for key in named:
            self.needed[key] = max(self.needed[key], self.newest(key, end))

    def crowd(self) -> None:
        """Something large comes into memory, and all else has to leave."""
        at = locate("large:one", prefix="", n_partitions=1)
        self.memory.put(Held(at, PartitionView(1), 1, 1, value=bytes(64_300)))
        self.memory.drop(at.key.text)
        assert not len(self.memory)

    def read(self, key: int, mark: int) -> None:
        """Memory, else what the stream just carried, else Redis as of `mark`, as `MarketCache` does it."""
        at = KEYS[key]
        held = self.memory.get(at.key.text)
        if held is None:
            held = self.recent.find(at, self.view)
            if held is None or not self.view.accept(at.floor, held.as_of, held.given_version):
                held = held_value(at, self.view, Mark(version=mark), self.row(key, mark))
                if not self.view.accept(at.floor, mark, held.given_version):
                    return
            if self.view.synced:
                self.memory.put(held)
        self.check(key, held)

    def check(self, key: int, held: Held) -> None:
        """Never older than what was given before or heard of, and the content is that version's."""
        newest = self.newest(key, held.as_of)
        assert newest >= self.given[key], "an answer went back"
        assert newest >= self.needed[key], "an answer is older than what was heard of"
        self.given[key] = newest
        there = newest != NOTHING and (newest, key) not in self.deleted
        assert held.version == (newest if there else NOTHING)
        if there:
            row = unpack_body(held.version, held.row)
            assert (row.version, row.values[0], row.facet) == (newest, newest, KEYS[key].key.facet)
            assert held.shown() is held.shown()


ACTS = ["announce", "announce", "read", "read", "read", "again", "lose", "forget", "crowd"]
HISTORY = st.lists(st.sets(st.integers(0, len(KEYS) - 1), max_size=4), min_size=4, max_size=30)


@settings(max_examples=300)
@given(HISTORY, st.integers(1, 4), st.integers(0, 4), st.sets(st.integers(0, len(KEYS) - 1), max_size=3), st.data())
def test_no_answer_is_older_than_given_or_heard_of(
    changes: list[set[int]], ring: int, n_recent: int, watched: set[int], data: st.DataObject
) -> None:
    named = [(version, key) for version, keys in enumerate(changes) for key in sorted(keys)]
    deleted = data.draw(st.sets(st.sampled_from(named), max_size=4)) if named else set()
    world, end, last = World(changes, deleted, ring, n_recent), NOTHING, len(changes) - 1
    with contextlib.ExitStack() as stack:
        for key in sorted(watched):
            stack.enter_context(world.upkeep.watch(KEYS[key]))
        for _ in range(data.draw(st.integers(1, 25))):
            match data.draw(st.sampled_from(ACTS)):
                case "announce":
                    start, end = end, data.draw(st.integers(end, last))
                    world.announce(start, end, rows=data.draw(st.booleans()))
                case "again" if end > NOTHING:  # a new owner goes on from its last barrier
                    start = data.draw(st.integers(NOTHING, end))
                    world.announce(start, data.draw(st.integers(start, end)), rows=data.draw(st.booleans()))
                case "lose":
                    end = data.draw(st.integers(end, last))
                case "crowd":
                    world.crowd()
                case "forget":
                    world.memory.drop(KEYS[data.draw(st.integers(0, len(KEYS) - 1))].key.text)
                case "read":
                    # Redis is ahead of what was announced, or behind it.
                    world.read(data.draw(st.integers(0, len(KEYS) - 1)), data.draw(st.integers(NOTHING, last)))
        for key in range(len(KEYS)):
            world.read(key, last)


def test_a_row_that_was_just_carried_answers_before_redis_has_it() -> None:
    world = World([{0, 1}, {0}, {3}, {0}], set(), 8, n_recent=2)
    world.announce(NOTHING, 1, rows=True)
    world.announce(1, 2, rows=True)
    assert [world.recent.find(KEYS[key], world.view) is not None for key in range(4)] == [False, True, False, True]
    held = world.recent.find(KEYS[1], world.view)
    assert held is not None
    assert (held.version, held.as_of) == (0, 2)
    world.read(1, NOTHING)
    assert world.memory.look(KEYS[1].key.text) is held or world.given[1] == 0


def test_a_row_that_had_to_leave_memory_answers_before_redis_has_it() -> None:
    world = World([{0}, {1}, {1}, {0}], set(), 8, n_recent=8)
    world.announce(NOTHING, 0, rows=True)
    world.read(1, 1)  # ahead of the stream
    world.announce(0, 2, rows=True)  # renewed in memory
    world.read(0, 3)
    world.crowd()
    found = [world.recent.find(KEYS[key], world.view) for key in (0, 1)]
    assert [held and (held.version, held.as_of) for held in found] == [(0, 2), (2, 2)]
    world.read(1, NOTHING)
    assert world.given[1] == 2


def test_rows_that_were_carried_are_forgotten_with_the_next_record_of_their_key_or_a_loss() -> None:
    world = World([{0, 1, 3}, {0}, {0, 1, 3}], set(), 8, n_recent=8)
    world.announce(NOTHING, 0, rows=True)
    world.announce(0, 1, rows=False)
    assert [world.recent.find(KEYS[key], world.view) is not None for key in (0, 1, 3)] == [False, True, True]
    world.read(1, 0)  # it is in memory from now on, which is renewed
    world.announce(1, 2, rows=True)
    world.announce(NOTHING, 0, rows=True)  # a take-over: older than what was heard
    assert [len(world.recent), world.memory.look(KEYS[1].key.text) is not None] == [2, True]
    assert [held and held.version for key in (0, 3) for held in [world.recent.find(KEYS[key], world.view)]] == [2, 2]
    world.upkeep.lose(Space.MARKET, 0, 2)
    assert not len(world.recent)


def test_what_is_held_or_watched_is_renewed_without_a_read() -> None:
    world = World([{0, 1, 2}, {0, 1, 2}], set(), 8)
    world.announce(NOTHING, 0, rows=True)
    world.read(0, 0)
    with world.upkeep.watch(KEYS[1]) as changed:
        world.announce(0, 1, rows=True)
        assert changed.is_set()
    assert [held.at.key.text for held in world.memory] == [KEYS[0].key.text, KEYS[1].key.text]
    assert [(held.version, held.as_of) for held in world.memory] == [(1, 1), (1, 1)]


def test_a_watcher_is_not_woken_by_another_facet() -> None:
    world = World([{0}, {1}], set(), 8)
    with world.upkeep.watch(KEYS[1]) as changed:
        world.announce(NOTHING, 0, rows=True)
        assert not changed.is_set()
        world.announce(0, 1, rows=True)
        assert changed.is_set()


def test_a_row_of_another_facet_drops_the_entry_instead_of_renewing_it() -> None:
    world = World([{0}, {0}], set(), 8)
    world.announce(NOTHING, 0, rows=True)
    world.read(0, 0)
    wrong = bytearray(world.carried(0, 1))
    wrong[66] = KEYS[1].key.facet
    changes = np.array([(KEYS[0].key.subject, 1 << KEYS[0].key.facet)], CHANGE)
    record = Invalidation(RecordType.CHANGES, Source.FRAMES, 1, 0, 1, changes=changes, rows=bytes(wrong))
    world.upkeep.hear(0, record, latest_ns=0)
    assert len(world.memory) == 0


def test_renewing_does_not_change_what_an_entry_costs() -> None:
    world = World([{0}, {0}], {(0, 0)}, 8)
    world.announce(NOTHING, 0, rows=False)
    world.read(0, 0)
    before = world.memory.bytes
    world.announce(0, 1, rows=True)
    (held,) = world.memory
    held.shown()
    world.memory.drop(held.at.key.text)
    assert before > 0
    assert world.memory.bytes == 0


def test_a_key_that_was_said_to_be_gone_does_not_come_back_from_a_tier_that_lost_data() -> None:
    world = World([{0}, {0}], {(1, 0)}, 8)
    world.read(0, 1)
    assert world.given[0] == 1
    world.read(0, 0)  # asserts that nothing older is given
    assert not world.view.admits(KEYS[0].floor, 0)
