"""Work that stands still is named once its deadline has passed, and not before."""

from __future__ import annotations

from streams.watchdog import Watchdog


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_work_is_overdue_after_its_deadline_and_progress_begins_it_anew() -> None:
    clock = Seconds()
    watchdog = Watchdog(10, clock)
    with watchdog.watching("a barrier of partitions [0]") as work:
        clock.now = 10
        assert watchdog.overdue() is None
        clock.now = 10.5
        assert watchdog.overdue() == "a barrier of partitions [0] made no progress for 10.5 s"
        watchdog.progress(work)
        assert watchdog.overdue() is None
    clock.now = 1000
    assert watchdog.overdue() is None, "it has ended"


def test_of_several_works_the_one_that_stands_longest_is_named() -> None:
    clock = Seconds()
    watchdog = Watchdog(1, clock)
    first = watchdog.begin("first")
    clock.now = 5
    with watchdog.watching("second"):
        clock.now = 7
        assert watchdog.overdue() == "first made no progress for 7.0 s"
        watchdog.end(first)
        watchdog.end(first)
        assert watchdog.overdue() == "second made no progress for 2.0 s"


def test_work_that_fails_has_ended() -> None:
    clock = Seconds()
    watchdog = Watchdog(1, clock)
    try:
        with watchdog.watching("it"):
            raise ValueError
    except ValueError:
        clock.now = 5
    assert watchdog.overdue() is None
