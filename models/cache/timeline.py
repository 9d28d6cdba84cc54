"""What the log says of each key: the states it went through, by version and by instant (for the history checker)."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from models.cache.keys import Space, parse_key
from models.cache.version import NOTHING
from models.cache.write import CacheWrite

END = 1 << 63  # after every version and every instant

_ENCODER = msgspec.json.Encoder(order="deterministic")


class Place(NamedTuple):
    """One partition of one source topic: versions compare only inside it."""

    space: Space
    partition: int


class State(NamedTuple):
    """A key from one version on.

    Attributes:
        version: of the record that made it, -1 = before all records.
        at_ms: log-append time, UTC ms.
        value: see `fingerprint`; None = there is no value.
        expires_at_ms: UTC ms from which on there is none, None = never.
        tags: of the value.
    """

    version: int
    at_ms: int
    value: str | None
    expires_at_ms: int | None = None
    tags: tuple[str, ...] = ()

    def absent_from_ms(self) -> int | None:
        """Instant from which on this state is a miss; None = it is a value until the next state."""
        return self.at_ms if self.value is None else self.expires_at_ms


BEFORE = State(NOTHING, 0, None)


def fingerprint(value: Any) -> str:
    """A value as one text: equal values give equal texts, whatever the order of their keys."""
    return _ENCODER.encode(value).decode()


class Timelines:
    """All keys of a log. Feed it the records of each partition in the order of their offsets."""

    def __init__(self) -> None:
        self._states: dict[str, list[State]] = {}
        self._versions: dict[str, list[int]] = {}
        self._keys: dict[Place, set[str]] = defaultdict(set)
        self._changed: dict[tuple[Place, int], list[str]] = defaultdict(list)
        self._places: dict[str, Place] = {}
        self._tags: dict[tuple[Place, int], str] = {}  # deleted by the record of this version

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def row(self, partition: int, key: str, *, version: int, at_ms: int, value: str) -> None:
        """A record of `md.frames.v1` left this value in a market key."""
        self._add(Place(Space.MARKET, partition), key, State(version, at_ms, value))

    def write(self, partition: int, write: CacheWrite, *, version: int, at_ms: int) -> None:
        """A record of `cache.writes.v1`; one of tags or namespaces ends what stands under them."""
        place = Place(Space.GENERIC, partition)
        if write.op == "put":
            expires = None if write.ttl_ms is None else at_ms + write.ttl_ms
            value = fingerprint(msgspec.msgpack.decode(write.value))
            self._add(place, write.key, State(version, at_ms, value, expires, write.tags))
            return
        if write.op == "delete":
            gone = [write.key]
        elif write.op == "delete_tag":
            self._tags[place, version] = write.tag
            gone = [key for key in self._keys[place] if write.tag in self._states[key][-1].tags]
        elif write.op == "clear":
            gone = [key for key in self._keys[place] if write.namespace in (None, parse_key(key).namespace)]
        else:
            raise ValueError(
                f"a history of {write.op!r} writes cannot be checked: the log alone does not say what they did"
            )
        for key in sorted(gone):
            if write.op == "delete" or self._states[key][-1].value is not None:
                self._add(place, key, State(version, at_ms, None))

    def place(self, key: str) -> Place | None:
        """Where the log has the key; None if it never names it."""
        return self._places.get(key)

    def states(self, key: str) -> Sequence[State]:
        """Versions rising; the first one is `BEFORE`."""
        return self._states.get(key, (BEFORE,))

    def span(self, key: str, nth: int) -> tuple[int, int]:
        """Versions as of which the nth state holds, `[first, end)`."""
        states = self.states(key)
        return states[nth].version, states[nth + 1].version if nth + 1 < len(states) else END

    def as_of(self, key: str, version: int) -> int:
        """Index of the state that holds as of a version."""
        return max(0, bisect_right(self._versions.get(key, ()), version) - 1)

    def made(self, key: str, version: int) -> int | None:
        """Index of the state that the record of this version made; None = it did not change the key."""
        nth = self.as_of(key, version)
        return nth if self.states(key)[nth].version == version and version != NOTHING else None

    def changed(self, place: Place, version: int) -> Sequence[str]:
        """Keys that the record of this version changed."""
        return self._changed.get((place, version), ())

    def deleted_tag(self, place: Place, version: int) -> str | None:
        """The tag that the record of this version deleted, None if it is another write."""
        return self._tags.get((place, version))

    def last(self, at_ms: int) -> dict[str, State]:
        """The values that stand at the log's end, without those that have expired."""
        ends = {key: states[-1] for key, states in self._states.items()}
        gone = {key: end.absent_from_ms() for key, end in ends.items()}
        return {key: end for key, end in ends.items() if (at := gone[key]) is None or at > at_ms}

    def _add(self, place: Place, key: str, state: State) -> None:
        states = self._states.setdefault(key, [BEFORE])
        versions = self._versions.setdefault(key, [NOTHING])
        if state.version <= versions[-1]:
            raise ValueError(f"{key}: version {state.version} follows {versions[-1]}; feed records in their order")
        states.append(state)
        versions.append(state.version)
        self._keys[place].add(key)
        self._places[key] = place
        self._changed[place, state.version].append(key)
