"""The history checker on histories made by hand: each guarantee kept, and each broken."""

from __future__ import annotations

import msgspec
import pytest

from models.cache.history import Answer, Event, Guarantee, Heard, Wrote, check, check_at_rest
from models.cache.keys import Space
from models.cache.timeline import Timelines, fingerprint
from models.cache.write import CacheWrite

KEY, OTHER = "session:1", "api:1"
START_MS = 1_760_000_000_000
MS = 1_000_000


def put(value: str, key: str = KEY, ttl_ms: int | None = None, tags: tuple[str, ...] = ()) -> CacheWrite:
    return CacheWrite("put", key, msgspec.msgpack.encode(value), ttl_ms, tags)


def log_of(*writes: CacheWrite) -> Timelines:
    """Offsets from 0 on, 10 ms apart, in partition 0."""
    log = Timelines()
    for offset, write in enumerate(writes):
        log.write(0, write, version=offset, at_ms=START_MS + 10 * offset)
    return log


def answer(
    version: int, value: str = "", *, key: str = KEY, at_ms: float = 1000, age_ms: int | None = None,
    asked_ms: int | None = None,
) -> Answer:  # fmt: skip
    ages = [None if ms is None else ms * MS for ms in (age_ms, asked_ms)]
    return Answer("r", key, version, fingerprint(value) if value else "", round((START_MS + at_ms) * MS), *ages)


def heard(version: int) -> Heard:
    return Heard("r", Space.GENERIC, 0, version)


def broken(log: Timelines, *events: Event, skew_ms: float = 0.0) -> list[Guarantee]:
    return [violation.guarantee for violation in check(log, events, skew_ms=skew_ms)]


ABC = log_of(put("a"), put("b"), put("c"))


def test_versions_that_rise_are_right_and_those_that_fall_are_not() -> None:
    assert broken(ABC, answer(-1), answer(0, "a"), answer(0, "a"), answer(2, "c")) == []
    assert broken(ABC, answer(1, "b"), answer(0, "a")) == [Guarantee.NEVER_BACK]
    assert broken(ABC, answer(0, "a"), answer(-1)) == [Guarantee.NEVER_BACK]


def test_a_miss_after_a_value_needs_a_delete_in_the_log() -> None:
    log = log_of(put("a"), CacheWrite("delete", KEY), put("c"))
    assert broken(log, answer(0, "a"), answer(-1), answer(2, "c")) == []
    assert broken(log, answer(-1), answer(0, "a"), answer(-1), answer(0, "a")) == [Guarantee.NEVER_BACK]


def test_what_was_heard_is_a_floor_for_every_key_of_its_partition() -> None:
    assert broken(ABC, heard(1), answer(1, "b")) == []
    assert broken(ABC, heard(1), answer(0, "a")) == [Guarantee.NOT_OLDER_THAN_HEARD]
    assert broken(ABC, Heard("another", Space.GENERIC, 0, 1), Heard("r", Space.GENERIC, 1, 1), answer(0, "a")) == []


@pytest.mark.parametrize(
    "write", [CacheWrite("delete_tag", tag="red"), CacheWrite("clear", namespace="session"), CacheWrite("clear")]
)
def test_what_is_deleted_by_tag_or_namespace_is_gone(write: CacheWrite) -> None:
    log = log_of(put("a", ttl_ms=60_000, tags=("red",)), write)
    assert broken(log, heard(1), answer(-1)) == []
    assert broken(log, heard(1), answer(0, "a")) == [Guarantee.NOT_OLDER_THAN_HEARD]
    assert broken(log, Wrote("r", 0, 1), answer(0, "a")) == [Guarantee.NOT_OLDER_THAN_HEARD]


def test_a_tag_or_a_namespace_of_others_ends_nothing() -> None:
    log = log_of(put("a"), CacheWrite("delete_tag", tag="red"), CacheWrite("clear", namespace="api"))
    assert broken(log, heard(2), Wrote("r", 0, 1), answer(0, "a")) == []
    assert broken(log, heard(2), answer(-1)) == [Guarantee.NOT_OLDER_THAN_HEARD]


def test_an_own_write_is_a_floor_for_its_key_alone() -> None:
    log = log_of(put("a"), put("x", OTHER), put("b"), put("y", OTHER))
    assert broken(log, Wrote("r", 0, 2), answer(2, "b"), answer(1, "x", key=OTHER)) == []
    assert broken(log, Wrote("r", 0, 2), answer(0, "a")) == [Guarantee.NOT_OLDER_THAN_HEARD]


def test_an_answer_must_be_what_the_log_has() -> None:
    assert broken(ABC, answer(1, "c")) == [Guarantee.IN_THE_LOG]
    assert broken(ABC, answer(7, "c")) == [Guarantee.IN_THE_LOG]


def test_a_value_ends_when_it_expires_and_not_before() -> None:
    log = log_of(put("a", ttl_ms=500))
    assert broken(log, answer(0, "a", at_ms=499), answer(-1, at_ms=501)) == []
    assert broken(log, answer(0, "a", at_ms=510)) == [Guarantee.IN_THE_LOG]
    assert broken(log, heard(0), answer(-1, at_ms=450)) == [Guarantee.NOT_OLDER_THAN_HEARD]
    assert broken(log, heard(0), answer(-1, at_ms=450), skew_ms=50) == []


def test_an_age_is_true_if_the_answer_was_the_logs_within_it() -> None:
    # "b" is current from 10 ms to 20 ms
    assert broken(ABC, answer(1, "b", at_ms=100, age_ms=90)) == []
    assert broken(ABC, answer(1, "b", at_ms=100, age_ms=70)) == [Guarantee.AGE_PROVEN]
    assert broken(ABC, answer(2, "c", at_ms=100, age_ms=1)) == []
    assert broken(ABC, answer(-1, at_ms=100, age_ms=90)) == [Guarantee.AGE_PROVEN]


def test_a_bound_that_was_asked_for_needs_a_proof_within_it() -> None:
    assert broken(ABC, answer(2, "c", age_ms=10, asked_ms=10)) == []
    assert broken(ABC, answer(2, "c", asked_ms=10)) == [Guarantee.AGE_PROVEN]
    assert broken(ABC, answer(2, "c", age_ms=11, asked_ms=10)) == [Guarantee.AGE_PROVEN]


def test_a_violation_says_what_would_have_been_right() -> None:
    (violation,) = check(ABC, [heard(1), answer(0, "a", age_ms=5000)])
    assert (violation.reader, violation.key, violation.version) == ("r", KEY, 0)
    assert 'as of 1 or later; then the log has version 1 = "b"' in violation.detail


def test_at_rest_a_copy_holds_the_last_states_and_nothing_else() -> None:
    log = log_of(put("a"), put("x", OTHER, ttl_ms=100), put("b"))
    end_ms = START_MS + 1_000
    assert check_at_rest(log, "redis", {KEY: (2, '"b"')}, at_ms=end_ms) == []
    assert check_at_rest(log, "memory", {}, at_ms=end_ms, whole=False) == []
    for wrong in ({}, {KEY: (0, '"a"')}, {KEY: (2, '"a"')}, {KEY: (2, '"b"'), OTHER: (1, '"x"')}):
        (violation,) = check_at_rest(log, "redis", wrong, at_ms=end_ms)
        assert violation.guarantee is Guarantee.AT_REST


def test_a_log_is_fed_in_its_order() -> None:
    with pytest.raises(ValueError, match="feed records in their order"):
        ABC.write(0, put("again"), version=1, at_ms=START_MS)
