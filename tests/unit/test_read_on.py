"""Where a worker reads its sources on: at what the group committed, but not beyond the next record its pages need."""

from __future__ import annotations

from typing import Any

from faust.types import TP

from models.cache.version import version
from streams.kafka.owned import OwnedPartition
from streams.kafka.ownership import Ownership
from streams.kafka.transport import to_go_back
from streams.settings import Settings
from streams.topics import FRAMES, WRITES

FRAMES_0, WRITES_0 = TP(FRAMES, 0), TP(WRITES, 0)


def needed(owned: OwnedPartition) -> dict[TP, int]:
    unused: Any = None
    ownership = Ownership(Settings(), table=unused, producer=unused, coherence=unused)
    ownership.partitions[owned.number] = owned
    return ownership.needed()


def test_pages_need_the_record_behind_the_newest_that_was_applied() -> None:
    owned = OwnedPartition(0, "")
    assert needed(owned) == {FRAMES_0: 0, WRITES_0: 0}
    owned.market.advance(version(0, 7))
    assert needed(owned) == {FRAMES_0: 8, WRITES_0: 0}


def test_pages_of_an_older_epoch_say_nothing_of_a_topic() -> None:
    owned = OwnedPartition(0, "", epoch=2)
    owned.market.advance(version(1, 7))
    owned.entries.advance(version(2, 5))
    assert needed(owned) == {WRITES_0: 6}


def test_only_what_was_committed_beyond_the_pages_is_gone_back_from() -> None:
    assert to_go_back({FRAMES_0: 9, WRITES_0: 5}, {FRAMES_0: 8, WRITES_0: 6}) == {FRAMES_0: 8}
    assert to_go_back({FRAMES_0: 8, WRITES_0: None}, {FRAMES_0: 8, WRITES_0: 0}) == {}
    assert to_go_back({TP("md.json.v1", 0): 3}, {FRAMES_0: 0}) == {}
