"""Floors against the full history: whatever the ring forgets, a floor is never too low."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.cache.coherence import PartitionView
from models.cache.floors import GroupFloors, KeyFloors, namespace_field, tag_field
from models.cache.version import NOTHING

KEYS = st.sampled_from("abcdefgh")
NAMED = st.lists(st.tuples(KEYS, st.integers(0, 50)), max_size=60)


@given(NAMED, st.integers(1, 10))
def test_a_floor_is_never_below_the_newest_version_that_named_the_key(named: list[tuple[str, int]], room: int) -> None:
    floors = KeyFloors(room)
    for key, version in named:
        floors.note(key, version)
        assert len(floors) <= room
    for key in "abcdefgh":
        assert floors.floor(key) >= max([v for k, v in named if k == key], default=NOTHING)


@given(NAMED)
def test_a_ring_that_forgot_nothing_is_exact(named: list[tuple[str, int]]) -> None:
    floors = KeyFloors(8)
    for key, version in named:
        floors.note(key, version)
    for key in "abcdefgh":
        assert floors.floor(key) == max([v for k, v in named if k == key], default=NOTHING)


@given(NAMED, st.integers(1, 10))
def test_a_floor_is_never_above_all_that_was_heard(named: list[tuple[str, int]], room: int) -> None:
    floors = KeyFloors(room)
    for key, version in named:
        floors.note(key, version)
    assert all(floors.floor(key) <= max([v for _, v in named], default=NOTHING) for key in "abcdefgh")


@given(NAMED, st.integers(1, 10))
def test_floors_never_fall(named: list[tuple[str, int]], room: int) -> None:
    floors, before = KeyFloors(room), dict.fromkeys("abcdefgh", NOTHING)
    for key, version in named:
        floors.note(key, version)
        now = {k: floors.floor(k) for k in before}
        assert all(now[k] >= before[k] for k in before)
        before = now


def test_the_key_named_longest_ago_falls_out_first() -> None:
    floors = KeyFloors(2)
    for key, version in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        floors.note(key, version)
    assert {key: floors.floor(key) for key in "abcx"} == {"a": 3, "b": 2, "c": 4, "x": 2}


FIELDS = st.one_of(
    st.just("*"), st.sampled_from("nm").map(namespace_field), st.sampled_from(["s", "t", "u"]).map(tag_field)
)


@given(
    st.lists(st.tuples(FIELDS, st.integers(0, 20)), max_size=30),
    st.integers(0, 25),
    st.sampled_from("nm"),
    st.sets(st.sampled_from(["s", "t", "u"])),
    st.integers(1, 4),
)
def test_an_entry_below_a_floor_of_its_groups_never_exists(
    noted: list[tuple[str, int]], version: int, namespace: str, tags: set[str], room: int
) -> None:
    bounded, exact = GroupFloors(room), GroupFloors()
    for field, at in noted:
        bounded.note(field, at)
        exact.note(field, at)
    mine = {"*", namespace_field(namespace), *map(tag_field, tags)}
    expected = all(version >= at for field, at in noted if field in mine)
    assert exact.exists(version, namespace, tags) == expected
    assert expected or not bounded.exists(version, namespace, tags)


RECORDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sets(KEYS)), max_size=20)


@given(RECORDS, KEYS, st.integers(NOTHING, 60), st.integers(1, 8))
def test_a_view_admits_no_mark_that_misses_a_change_it_heard_or_may_have_missed(
    records: list[tuple[int, int, set[str]]], key: str, mark: int, room: int
) -> None:
    """Records leave gaps of random length, as after a loss; the view is told of each."""
    view, at, needed = PartitionView(room), NOTHING, NOTHING
    for hole, length, names in records:
        start = at + hole
        if hole:
            view.miss(start if view.synced else None)
            needed = max(needed, start)
        at = start + length
        view.hear(start, at)
        for name in names:
            view.floors.note(name, at)
        if key in names:
            needed = max(needed, at)
    if view.admits(key, mark):
        assert mark >= needed


def test_a_watermark_from_the_future_voids_what_was_proven() -> None:
    view = PartitionView(4)
    view.prove(100, latest_ns=1_000)
    view.prove(50, latest_ns=1_000)
    assert view.watermark_ns == 100
    view.prove(1_001, latest_ns=1_000)
    assert view.watermark_ns == 0
