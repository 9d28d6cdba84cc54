"""How far apart the turns of costly work are."""

from __future__ import annotations

import pytest

from streams.pace import Pace


@pytest.mark.parametrize(("took_s", "next_at"), [(0.1, 11.1), (1.0, 14.0), (3.0, 18.0)])
def test_a_turn_rests_the_least_a_multiple_of_its_length_or_the_most(took_s: float, next_at: float) -> None:
    pace = Pace(1.0, most_s=5.0, rest=3.0)
    assert pace.wait_s(10.0, 10.0) == 0
    ended = 10.0 + took_s
    pace.had(10.0, ended)
    assert pace.wait_s(ended, since=ended) == pytest.approx(next_at - ended)
    assert pace.wait_s(next_at + 0.1, since=ended) == 0


def test_what_comes_after_a_long_rest_waits_as_long_as_if_it_had_come_at_once() -> None:
    pace = Pace(1.0, most_s=5.0, rest=3.0)
    pace.had(10.0, 11.0)
    assert pace.wait_s(100.0, since=100.0) == pytest.approx(3.0)
    pace.had(103.0, 103.1)
    assert pace.wait_s(200.0, since=200.0) == pytest.approx(0.3)
