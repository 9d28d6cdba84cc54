"""The history checker: do the answers that readers got keep what is promised (architecture, section 5)?

It knows nothing of tiers or floors. It holds what was answered against the log alone: an answer is right as of some
versions of its partition, and for each reader and key those must be able to rise without going back and without staying
behind what the reader had heard. The smallest version that is possible is chosen each time, so a history is refused
only if no choice at all would do. (The idea of a checker beside the system is Jepsen's; the four guarantees need no
search, because the log has an order.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

import msgspec

from models.cache.keys import Space
from models.cache.timeline import END, Place, State, Timelines
from models.cache.version import NOTHING

_MS = 1_000_000
_TICK_MS = 1  # the log's instants are whole ms


class Guarantee(Enum):
    NEVER_BACK = "versions of a key never go back for a reader"
    NOT_OLDER_THAN_HEARD = "never older than the newest invalidation heard, or the reader's own write"
    AGE_PROVEN = "the answer was the log's at some instant within its age"
    AT_REST = "once the stream rests, all copies agree"
    IN_THE_LOG = "what is answered is what the log's record of that version says, and has not expired"


class Answer(msgspec.Struct, frozen=True, tag=True):
    """A reader was given a value, or a miss.

    Attributes:
        reader: one instance: after a restart it is another one.
        version: -1 = a miss.
        value: `timeline.fingerprint` of it, "" for a miss.
        at_ns: when, UTC ns of the clock that the log's times are of.
        age_ns: the age that was claimed, None = none.
        asked_ns: `max_staleness_s` of the read, None = none.
    """

    reader: str
    key: str
    version: int
    value: str
    at_ns: int
    age_ns: int | None = None
    asked_ns: int | None = None


class Heard(msgspec.Struct, frozen=True, tag=True):
    """A reader heard, and believed, an invalidation up to a version of one partition."""

    reader: str
    space: Space
    partition: int
    version: int


class Wrote(msgspec.Struct, frozen=True, tag=True):
    """A write of the reader's own was acknowledged; it counts for the keys that it changed.

    One that deletes a tag counts for older values that carry it: the reader cannot know who got the tag since.
    """

    reader: str
    partition: int
    version: int


Event = Answer | Heard | Wrote


class Violation(NamedTuple):
    """Attributes:
    detail: what was answered and what would have been right.
    """

    guarantee: Guarantee
    reader: str
    key: str
    version: int
    detail: str


def check(log: Timelines, events: Iterable[Event], *, skew_ms: float = 0.0) -> list[Violation]:
    """Guarantees 1 to 3 over what readers were told, each reader's events in the order in which they happened.

    Args:
        log: all records that there were at the end.
        skew_ms: by how much a reader's clock may be wrong: it is what decides there that a value has expired.
    """
    checker = _Checker(log, skew_ms)
    for event in events:
        checker.take(event)
    return checker.violations


def check_at_rest(
    log: Timelines, tier: str, found: Mapping[str, tuple[int, str]], *, at_ms: int, whole: bool = True
) -> list[Violation]:
    """Guarantee 4 for one tier: it holds the log's last states and nothing else.

    Args:
        tier: its name, for the messages.
        found: version and fingerprint by key; misses left out.
        at_ms: UTC ms; what expires around it must be left out by the caller.
        whole: every value must be there; else (a reader's memory) what is there must be right.
    """
    expected = log.last(at_ms)
    violations = []
    for key in sorted(expected.keys() | found.keys()):
        state, got = expected.get(key), found.get(key)
        if got is None and not whole:
            continue
        if (state and (state.version, state.value)) != got:
            detail = f"the log ends with {_shown(state)}, {tier} has {'nothing' if got is None else got}"
            violations.append(Violation(Guarantee.AT_REST, tier, key, got[0] if got else NOTHING, detail))
    return violations


class _Checker:
    """Attributes:
    violations: found so far.
    """

    def __init__(self, log: Timelines, skew_ms: float) -> None:
        self.violations: list[Violation] = []
        self._log = log
        self._expiry_ms = skew_ms + _TICK_MS
        self._given: dict[tuple[str, str], int] = defaultdict(lambda: NOTHING)  # smallest version it may be as of
        self._wrote: dict[tuple[str, str], int] = defaultdict(lambda: NOTHING)
        self._tags: dict[tuple[str, Place, str], int] = defaultdict(lambda: NOTHING)  # deleted by the reader itself
        self._heard: dict[tuple[str, Place], int] = defaultdict(lambda: NOTHING)

    def take(self, event: Event) -> None:
        match event:
            case Heard(reader, space, partition, version):
                place = reader, Place(space, partition)
                self._heard[place] = max(self._heard[place], version)
            case Wrote(reader, partition, version):
                self._own(reader, Place(Space.GENERIC, partition), version)
            case Answer():
                self._answer(event)

    def _own(self, reader: str, place: Place, version: int) -> None:
        if (tag := self._log.deleted_tag(place, version)) is not None:
            self._tags[reader, place, tag] = max(self._tags[reader, place, tag], version)
            return
        for key in self._log.changed(place, version):
            self._wrote[reader, key] = max(self._wrote[reader, key], version)

    def _answer(self, answer: Answer) -> None:
        if (why := self._foreign(answer)) is not None:
            self._found(Guarantee.IN_THE_LOG, answer, why)
            return
        at = answer.reader, answer.key
        given = self._given[at]
        place = self._log.place(answer.key)
        heard = max(self._wrote[at], self._own_tags(answer), self._heard[answer.reader, place] if place else NOTHING)
        as_of = self._smallest(answer, max(given, heard))
        if as_of is None:
            back = self._smallest(answer, given) is None
            guarantee = Guarantee.NEVER_BACK if back else Guarantee.NOT_OLDER_THAN_HEARD
            low = given if back else heard
            right = self._log.states(answer.key)[self._log.as_of(answer.key, low)]
            self._found(guarantee, answer, f"as of {low} or later; then the log has {_shown(right)}")
        self._given[at] = max(given, answer.version if as_of is None else as_of)
        self._age(answer)

    def _own_tags(self, answer: Answer) -> int:
        """Newest version at which the reader itself deleted a tag of the value that it was given."""
        place, nth = self._log.place(answer.key), self._log.made(answer.key, answer.version)
        tags = () if nth is None else self._log.states(answer.key)[nth].tags
        gone = [self._tags[answer.reader, place, tag] for tag in tags if place]
        return max((version for version in gone if version > answer.version), default=NOTHING)

    def _foreign(self, answer: Answer) -> str | None:
        """Why the answer is none that the log could give at all."""
        if answer.version == NOTHING:
            return None
        nth = self._log.made(answer.key, answer.version)
        state = None if nth is None else self._log.states(answer.key)[nth]
        if state is None or state.value != answer.value:
            return f"{answer.value}, but the log's record is {_shown(state)}"
        if (end := state.expires_at_ms) is not None and answer.at_ns >= (end + self._expiry_ms) * _MS:
            return f"it expired {answer.at_ns / _MS - end:.1f} ms ago"
        return None

    def _smallest(self, answer: Answer, low: int) -> int | None:
        """The smallest version, `low` or above, as of which the answer is right."""
        log, key = self._log, answer.key
        for nth in range(log.as_of(key, low), len(log.states(key))):
            first, end = log.span(key, nth)
            if max(first, low) < end and self._is(answer, log.states(key)[nth]):
                return max(first, low)
        return None

    def _is(self, answer: Answer, state: State) -> bool:
        if answer.version != NOTHING:
            return state.version == answer.version
        absent_ms = self._absent_from_ms(state)
        return absent_ms is not None and absent_ms * _MS <= answer.at_ns

    def _absent_from_ms(self, state: State) -> float | None:
        """From when on a reader may say that there is no value: one whose clock is fast, a little early."""
        absent_ms = state.absent_from_ms()
        return absent_ms if absent_ms is None or state.value is None else absent_ms - self._expiry_ms

    def _age(self, answer: Answer) -> None:
        if answer.age_ns is None:
            if answer.asked_ns is not None:
                self._found(Guarantee.AGE_PROVEN, answer, "a bound was asked for, and no age was proven")
            return
        if answer.asked_ns is not None and answer.age_ns > answer.asked_ns:
            self._found(Guarantee.AGE_PROVEN, answer, f"older than the {answer.asked_ns} ns asked for")
        oldest_ms, newest_ms = (answer.at_ns - answer.age_ns) // _MS - _TICK_MS, answer.at_ns // _MS + _TICK_MS
        if not any(first <= newest_ms and end >= oldest_ms for first, end in self._times(answer)):
            self._found(Guarantee.AGE_PROVEN, answer, f"not current between {oldest_ms} and {newest_ms} ms")

    def _times(self, answer: Answer) -> Iterator[tuple[int, int]]:
        """Stretches of time in which the log said so, both ends included, UTC ms.

        A value that expires is a miss from then on for whoever knows of it, also if the log has a newer one.
        """
        states = self._log.states(answer.key)
        made = self._log.made(answer.key, answer.version)
        for nth in range(len(states)) if made is None else (made,):
            if self._is(answer, states[nth]):
                yield states[nth].at_ms, states[nth + 1].at_ms if nth + 1 < len(states) else END

    def _found(self, guarantee: Guarantee, answer: Answer, detail: str) -> None:
        age = "" if answer.age_ns is None else f", age {answer.age_ns / _MS:.1f} ms"
        shown = f"at {answer.at_ns / _MS:.1f} ms version {answer.version}{age}: {detail}"
        self.violations.append(Violation(guarantee, answer.reader, answer.key, answer.version, shown))


def _shown(state: State | None) -> str:
    if state is None:
        return "nothing"
    until = "" if state.expires_at_ms is None else f" until {state.expires_at_ms} ms"
    return f"version {state.version} = {'no value' if state.value is None else state.value}{until}"
