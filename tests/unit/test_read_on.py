"""Where a worker reads its sources on: at what the group committed, but not beyond the next record its pages need."""

from __future__ import annotations

from typing import Any

import pytest
from faust.types import TP

from agents.duties import at_end
from models.cache.keys import Space
from models.cache.version import version
from models.cache.write import CacheWrite
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


def test_pages_of_an_older_epoch_need_a_topic_from_its_first_record() -> None:
    """Another owner may have raised the same epoch, applied what the topic has now, and committed it."""
    owned = OwnedPartition(0, "", epoch=2)
    owned.market.advance(version(1, 7))
    owned.entries.advance(version(2, 5))
    assert needed(owned) == {FRAMES_0: 0, WRITES_0: 6}
    assert to_go_back({FRAMES_0: 9, WRITES_0: 6}, needed(owned)) == {FRAMES_0: 0}
    assert not at_end(owned.next_offset(Space.MARKET), 5), "no heartbeat may vouch for what was not read"
    assert at_end(owned.next_offset(Space.MARKET), 0)
    assert [at_end(owned.next_offset(Space.GENERIC), end) for end in (6, 7)] == [True, False]


@pytest.mark.parametrize(("ids", "beyond_end"), [(("new", "w"), set()), (("f", "w"), {Space.MARKET})])
def test_a_new_epoch_starts_over_with_the_topic_that_is_another_and_goes_on_with_the_other(
    ids: tuple[str, str], beyond_end: set[Space]
) -> None:
    owned = OwnedPartition(0, "", epoch=1, topic_ids={FRAMES: "f", WRITES: "w"})
    increments = [CacheWrite("incr", "n:a", by=1) for _ in range(2)]
    owned.market.applied = owned.market.held = version(1, 7)
    owned.entries.apply(increments[0], version=version(1, 5), append_ms=0)
    frames, writes = ids
    topics = {Space.MARKET: (FRAMES, frames), Space.GENERIC: (WRITES, writes)}
    assert owned.check_topics(topics, beyond_end=beyond_end)
    assert (owned.epoch, owned.topic_ids) == (2, {FRAMES: frames, WRITES: "w"})
    assert needed(owned) == {FRAMES_0: 0, WRITES_0: 6}
    assert owned.announced[Space.GENERIC] == owned.entries.applied == version(2, 5)
    again, further = (
        owned.entries.apply(incr, version=version(2, at), append_ms=0)
        for incr, at in zip(increments, (5, 6), strict=True)
    )
    assert again is None, "it was counted in the epoch before"
    assert further is not None and further.outcome is not None and further.outcome.value == 2


def test_topics_that_are_the_same_raise_nothing() -> None:
    owned = OwnedPartition(0, "", epoch=1)
    same = {Space.MARKET: (FRAMES, "f"), Space.GENERIC: (WRITES, "w")}
    for _ in range(2):  # a first look, which knows of no ids, and another
        assert not owned.check_topics(same, beyond_end=set())
    assert (owned.epoch, owned.topic_ids) == (1, {FRAMES: "f", WRITES: "w"})


def test_only_what_was_committed_beyond_the_pages_is_gone_back_from() -> None:
    assert to_go_back({FRAMES_0: 9, WRITES_0: 5}, {FRAMES_0: 8, WRITES_0: 6}) == {FRAMES_0: 8}
    assert to_go_back({FRAMES_0: 8, WRITES_0: None}, {FRAMES_0: 8, WRITES_0: 0}) == {}
    assert to_go_back({TP("md.json.v1", 0): 3}, {FRAMES_0: 0}) == {}
