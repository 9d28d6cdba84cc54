"""Generic entries: what one write changes, what the next barrier writes, which entries a floor covers."""

from __future__ import annotations

import pytest

from models.cache.entry import StoredEntry, decode_entry, encode_grave
from models.cache.graves import MAX_OVERTAKEN
from models.cache.partition import BURIED_AFTER_MS, EntryChange, EntryPartition
from models.cache.version import version
from models.cache.write import CacheWrite
from models.market import pages
from streams.kafka.owned import OwnedPartition

NOW_MS = 1_760_000_000_000


class Log:
    """A partition that is given one write an offset."""

    def __init__(self) -> None:
        self.partition = EntryPartition()
        self.offset = -1

    def __call__(self, op: str, key: str = "", append_ms: int = NOW_MS, **fields: object) -> EntryChange:
        self.offset += 1
        write = CacheWrite(op, key, **fields)  # type: ignore[arg-type]
        change = self.partition.apply(write, version=self.offset, append_ms=append_ms)
        assert change is not None
        return change


@pytest.fixture
def log() -> Log:
    return Log()


def test_put_stores_version_value_and_tags(log: Log) -> None:
    change = log("put", "app:a", value=b"\x01", ttl_ms=5, tags=("red", "blue"))
    assert change[:2] == (0, "app:a")
    assert decode_entry(change.stored or b"") == (0, StoredEntry(NOW_MS + 5, ("red", "blue"), b"\x01"))
    assert change.floor == ""


def test_life_counts_from_the_append_time_however_often_the_write_is_replayed(log: Log) -> None:
    change = log("put", "app:a", value=b"\x01", ttl_ms=60_000, append_ms=NOW_MS)
    again = EntryPartition().apply(
        CacheWrite("put", "app:a", b"\x01", ttl_ms=60_000), version=0, append_ms=NOW_MS
    )  # a worker that replays it a year later sees the same append time
    assert change == again
    assert change.expires_at_ms == NOW_MS + 60_000


def test_put_without_ttl_never_expires(log: Log) -> None:
    change = log("put", "app:a", value=b"\x01")
    assert change.expires_at_ms is None
    assert decode_entry(change.stored or b"") == (0, StoredEntry(None, (), b"\x01"))


def test_delete_is_a_change_without_a_value(log: Log) -> None:
    log("put", "app:a", value=b"\x01")
    assert log("delete", "app:a") == EntryChange(1, "app:a", None, None, "")
    assert log("delete", "app:never") == EntryChange(2, "app:never", None, None, "")


@pytest.mark.parametrize(
    ("op", "fields", "floor"),
    [
        ("delete_tag", {"tag": "red"}, "t:red"),
        ("clear", {"namespace": "app"}, "n:app"),
        ("clear", {"namespace": None}, "*"),
    ],
)
def test_tag_namespace_and_flush_all_raise_their_floor(log: Log, op: str, fields: dict[str, str], floor: str) -> None:
    log("put", "app:a", value=b"\x01")
    assert log(op, **fields) == EntryChange(1, "", None, None, floor)
    assert log.partition.floors == {floor: 1}
    log("delete", "app:a")
    log(op, **fields)
    assert log.partition.floors == {floor: 3}


def test_floor_covers_what_is_older_and_nothing_else(log: Log) -> None:
    covered = log.partition.covered
    log.offset = 9
    log("delete_tag", tag="red")  # 10
    assert covered("app:a", 9, ("blue", "red"))
    assert not covered("app:a", 10, ("red",))
    assert not covered("app:a", 9, ("blue",))
    log("clear", namespace="app")  # 11
    assert covered("app:a", 10, ())
    assert not covered("app:a", 12, ())
    assert not covered("apple:a", 10, ())
    log("clear", namespace=None)  # 12
    assert covered("apple:a", 11, ())
    assert not covered("apple:a", 13, ())


def test_floor_of_a_tag_is_not_the_floor_of_a_namespace_with_its_name(log: Log) -> None:
    log.offset = 9
    log("delete_tag", tag="app")
    assert not log.partition.covered("app:a", 3, ())
    log("clear", namespace="red")
    assert not log.partition.covered("other:a", 3, ("red",))


def test_flush_writes_the_newest_state_of_each_key_once(log: Log) -> None:
    log("put", "app:a", value=b"\x01")
    log("put", "app:b", value=b"\x02")
    newest = log("put", "app:a", value=b"\x03")
    log("delete", "app:b")
    log("clear", namespace="gone")
    groups = log.partition.flush()
    assert sorted(groups) == [[(b"Eapp:a", newest.stored)], [(b"Eapp:b", encode_grave(3))]]
    assert all(key[:1] == pages.ENTRY for [(key, _)] in groups)
    assert log.partition.flush() == []


def test_writes_at_or_below_a_held_version_change_nothing() -> None:
    partition = EntryPartition()
    partition.held = partition.applied = version(1, 5)
    put = CacheWrite("put", "app:a", b"\x01")
    for old in (0, version(0, 2**40), version(1, 5)):
        assert partition.apply(put, version=old, append_ms=NOW_MS) is None
        assert partition.apply(CacheWrite("clear"), version=old, append_ms=NOW_MS) is None
    assert (partition.applied, partition.unsaved, partition.floors) == (version(1, 5), {}, {})
    assert partition.apply(put, version=version(1, 6), append_ms=NOW_MS) is not None
    assert partition.apply(put, version=version(1, 6), append_ms=NOW_MS) is None
    assert partition.applied == version(1, 6)


def test_record_that_held_no_write_moves_the_version_and_never_back() -> None:
    partition = EntryPartition()
    partition.advance(7)
    assert partition.apply(CacheWrite("delete", "app:a"), version=7, append_ms=NOW_MS) is None
    partition.advance(3)
    assert partition.applied == 7


def test_pages_that_are_written_again_bring_the_entries_that_rest_on_disk() -> None:
    first = OwnedPartition(0, "")
    first.entries.apply(CacheWrite("put", "a:1", b"\x01"), version=1, append_ms=0)
    first.entries.apply(CacheWrite("put", "a:2", b"\x02"), version=2, append_ms=0)
    records = sorted((key, body) for group in first.flush().groups for key, body in group if body is not None)

    again = OwnedPartition(0, "")
    again.load(records)
    again.entries.apply(CacheWrite("delete", "a:2"), version=3, append_ms=0)
    again.rewrite_pages(records)

    written = dict(record for group in again.flush().groups for record in group)
    assert written[b"Ea:1"] == dict(records)[b"Ea:1"]
    assert written[b"Ea:2"] == encode_grave(3)


def test_what_a_barrier_took_counts_until_it_is_durable(log: Log) -> None:
    """A rewrite of Redis meanwhile would else take older entries from the disk and claim to be complete."""
    put = log("put", "app:a", value=b"\x01")
    log.partition.flush()
    assert log.partition.unsaved == {"app:a": put.stored}
    newer = log("put", "app:a", value=b"\x02")
    log.partition.saved()
    assert log.partition.unsaved == {"app:a": newer.stored}, "the flush held the older one"
    log.partition.flush()
    log.partition.saved()
    assert log.partition.unsaved == {}


LATE_MS = NOW_MS + 5 + BURIED_AFTER_MS


def save(log: Log) -> None:
    log.partition.flush()
    log.partition.saved()


def test_an_expired_entry_is_over_once_the_log_on_disk_and_the_clock_are_long_past_its_end(log: Log) -> None:
    stored = log("put", "app:a", value=b"\x01", ttl_ms=5).stored or b""
    over = log.partition.over
    save(log)
    assert over("app:a", stored, now_ms=LATE_MS) is None, "the log may be behind"
    log("put", "app:b", value=b"\x01", append_ms=LATE_MS)
    assert over("app:a", stored, now_ms=LATE_MS) is None, "a replay would begin before that put"
    save(log)
    assert over("app:a", stored, now_ms=LATE_MS) == 0
    assert over("app:a", stored, now_ms=LATE_MS - 1) is None, "the log's clock may be ahead"
    log("put", "app:b", value=b"\x01", append_ms=LATE_MS - 1)
    save(log)
    assert over("app:a", stored, now_ms=LATE_MS) is None, "or it was, and was set back"


def test_an_entry_below_a_floor_is_over_once_the_floor_is_on_disk(log: Log) -> None:
    stored = log("put", "app:a", value=b"\x01").stored or b""
    log("clear", namespace="app")
    assert log.partition.over("app:a", stored, now_ms=NOW_MS) is None
    save(log)
    assert log.partition.over("app:a", stored, now_ms=NOW_MS) == 0
    log("clear", namespace="app")
    assert log.partition.over("app:a", stored, now_ms=NOW_MS) is None, "the newest floor, and no other is remembered"
    newer = log("put", "app:a", value=b"\x01").stored or b""
    save(log)
    assert log.partition.over("app:a", newer, now_ms=NOW_MS) is None
    assert log.partition.over("app:a", encode_grave(0), now_ms=NOW_MS) is None


def test_what_is_buried_becomes_a_grave_of_its_version_unless_it_was_written_meanwhile(log: Log) -> None:
    log("put", "app:a", value=b"\x01")
    newer = log("put", "app:b", value=b"\x01")
    log.partition.bury([("app:b", 1)])
    save(log)
    log.partition.bury([("app:a", 0)])
    assert log.partition.flush() == [[(b"Eapp:a", encode_grave(0))]]
    assert newer.stored is not None and len(log.partition.graves) == 1
    log.partition.saved()
    log.partition.advance(MAX_OVERTAKEN + 1)
    save(log)
    assert log.partition.flush() == [[(b"Eapp:a", None)]]
