"""A quiet partition hears how far its live source has come, once a second, for as long as a window may be open."""

from __future__ import annotations

from models.windows.window import SECOND_NS
from streams.client.quiet import LIVE_NS, QuietPartitions

START_NS = 1_760_000_000 * SECOND_NS


def wrote(quiet: QuietPartitions, partitions: list[int], recv_ns: int, at_s: float, behind_ns: int = 0) -> None:
    quiet.wrote(partitions, recv_ns, now_ns=recv_ns + behind_ns, at_s=at_s)


def test_only_partitions_without_a_frame_for_a_second_are_due_and_time_goes_on_from_the_newest_row() -> None:
    quiet = QuietPartitions(3)
    wrote(quiet, [0, 1, 2], START_NS, at_s=100.0)
    assert quiet.due(100.9) == {}
    wrote(quiet, [1], START_NS + SECOND_NS, at_s=100.9)
    due = quiet.due(101.1)
    assert set(due) == {0, 2}
    assert abs(due[0] - (START_NS + SECOND_NS // 5)) < 1000  # a second's grace less than the newest row and 0.2 s
    assert quiet.due(101.2) == {}
    assert set(quiet.due(102.2)) == {0, 1, 2}


def test_a_source_that_wrote_nothing_moves_nothing() -> None:
    assert QuietPartitions(4).due(5.0) == {}


def test_an_older_row_does_not_take_time_back() -> None:
    quiet = QuietPartitions(2)
    wrote(quiet, [0], START_NS, at_s=10.0)
    quiet.wrote([0], START_NS - SECOND_NS, now_ns=START_NS, at_s=10.5)
    assert quiet.due(11.0) == {1: START_NS}


def test_a_source_of_another_time_moves_no_partition_but_those_it_writes_to() -> None:
    """Somebody who loads one instrument's day after the other's: what is quiet now is yet to come."""
    quiet = QuietPartitions(2)
    wrote(quiet, [0], START_NS, at_s=10.0, behind_ns=LIVE_NS + 1)
    assert quiet.due(12.0) == {}
    wrote(quiet, [0], START_NS + SECOND_NS, at_s=13.0, behind_ns=LIVE_NS)
    assert set(quiet.due(14.0)) == {0, 1}


def test_a_source_that_ended_says_nothing_more_once_every_window_has_closed() -> None:
    quiet = QuietPartitions(1)
    wrote(quiet, [0], START_NS, at_s=0.0)
    last = [at_s for at_s in range(1, 200) if quiet.due(float(at_s))][-1]
    assert 61 < last < 70
