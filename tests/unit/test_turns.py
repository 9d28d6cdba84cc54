"""When fetches leave: apart while the log is read to its end, at once while it holds more."""

from __future__ import annotations

import pytest
from faust.types import TP

from streams.kafka.turns import FetchTurns

A, B = TP("frames", 0), TP("frames", 1)


def test_the_first_fetch_and_one_after_a_long_answer_do_not_wait() -> None:
    turns = FetchTurns(0.004)
    assert turns.wait_s(1, 100.0) == 0
    turns.asked(1, 100.0)
    assert turns.wait_s(1, 100.2) == 0


def test_fetches_from_one_broker_leave_apart_and_others_do_not_wait_for_them() -> None:
    turns = FetchTurns(0.004)
    turns.asked(1, 100.0)
    assert turns.wait_s(1, 100.001) == pytest.approx(0.003)
    assert turns.wait_s(2, 100.001) == 0


def test_a_backlog_never_waits() -> None:
    turns = FetchTurns(0.004)
    turns.asked(1, 100.0)
    turns.answered(A, 5, 10)
    turns.answered(B, 5, 20)
    turns.read({A: 10, B: 19})
    assert turns.wait_s(1, 100.001) == 0
    turns.read({B: 20})
    assert turns.wait_s(1, 100.001) > 0


def test_who_is_behind_in_one_topic_is_not_in_another() -> None:
    turns, other = FetchTurns(), TP("json", 0)
    turns.answered(A, 5, 10)
    turns.answered(other, 5, 10)
    turns.read({A: 10, other: 3})
    assert turns.behind == {"json"}
    turns.read({other: 10})
    assert not turns.behind


def test_an_end_belongs_to_the_fetch_that_was_sent_last() -> None:
    turns = FetchTurns()
    turns.answered(A, 5, 10)
    turns.answered(A, 7, 12)
    assert turns.ends == {A: (7, 12)}
