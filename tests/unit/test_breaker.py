"""When a breaker opens and closes."""

from __future__ import annotations

from models.cache.breaker import Breaker
from models.cache.cost import Cost

FAILURE = RuntimeError("down")


def opened() -> Breaker:
    breaker = Breaker(first_pause_s=0.125, longest_pause_s=0.75)
    for _ in range(3):
        breaker.failed(FAILURE, 0.0)
    return breaker


def test_it_opens_at_the_third_failure_in_a_row() -> None:
    breaker = Breaker()
    for expected in (False, False, True):
        breaker.failed(FAILURE, 0.0)
        assert breaker.is_open is expected
    assert breaker.failure is FAILURE


def test_it_opens_when_half_of_the_calls_fail_and_not_when_one_in_five_does() -> None:
    often, seldom = Breaker(), Breaker()
    for n in range(200):
        for breaker, every in ((often, 2), (seldom, 5)):
            if n % every:
                breaker.succeeded()
            else:
                breaker.failed(FAILURE, 0.0)
    assert (often.is_open, seldom.is_open) == (True, False)


def test_probes_come_after_pauses_that_double_up_to_a_bound() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(5):
        start = now
        while not breaker.probe_due(now):
            now += 1 / 64
        pauses.append(now - start)
        breaker.probed(FAILURE, now)
    assert pauses == [0.125, 0.25, 0.5, 0.75, 0.75]


def test_a_probe_that_succeeds_closes_it_and_two_failures_open_it_again() -> None:
    breaker = opened()
    breaker.probed(None, 1.0)
    assert (breaker.is_open, breaker.failure) == (False, None)
    breaker.failed(FAILURE, 1.0)
    assert not breaker.is_open
    breaker.failed(FAILURE, 1.0)
    assert breaker.is_open


def test_failures_of_calls_that_were_under_way_do_not_put_the_probe_off() -> None:
    breaker = opened()
    breaker.failed(FAILURE, 0.1)
    assert breaker.probe_due(0.125)


def test_a_tier_that_is_not_measured_yet_is_tried_first() -> None:
    assert Cost().expected_s(0.0) == 0.0


def test_a_tier_whose_answers_are_of_no_use_costs_more() -> None:
    useful, useless = Cost(), Cost()
    for _ in range(500):
        useful.read(0.001, 0.0, admitted=True)
        useless.read(0.0001, 0.0, admitted=False)
    assert useful.expected_s(0.0) < useless.expected_s(0.0)
    assert useless.expected_s(120.0) < useful.expected_s(120.0)  # nobody asked it since: it may have caught up


def test_a_probe_says_what_a_tier_costs_now() -> None:
    cost = Cost()
    for _ in range(500):
        cost.read(0.5, 0.0, admitted=True)
    cost.renewed(0.001, 3.0)
    assert cost.expected_s(3.0) == 0.001
