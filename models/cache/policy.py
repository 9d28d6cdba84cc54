"""What an eviction policy is: it decides over keys and weights which stay, and never sees a value.

The live cache and the simulator use the same objects. A policy is bounded by entries, by weight (bytes, as a rule) or
by both, before and after every call. None of them is thread-safe, reads a clock or starts work of its own.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)


class Reason(Enum):
    """Why a key's entry left."""

    CAPACITY = "capacity"  # to make room, or because it grew beyond the whole bound
    EXPIRED = "expired"
    REPLACED = "replaced"  # put again: the key stays, what it stood for does not
    REMOVED = "removed"
    CLEARED = "cleared"


# key, weight of what left, reason. It hears of each entry once, and must neither raise nor call the policy.
Listener = Callable[[K, int, Reason], None]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Upper bounds, both ends included; at least one of them.

    Attributes:
        entries: number of keys; None = as many as the weight allows.
        weight: sum of weights, bytes as a rule; None = any.
    """

    entries: int | None = None
    weight: int | None = None

    def __post_init__(self) -> None:
        if self.entries is None and self.weight is None:
            raise ValueError("a capacity needs a bound: entries, weight or both")
        for name, bound in (("entries", self.entries), ("weight", self.weight)):
            if bound is not None and bound < 1:
                raise ValueError(f"a capacity of {bound} {name} holds nothing; give at least 1")

    @property
    def max_entries(self) -> int:
        return sys.maxsize if self.entries is None else self.entries

    @property
    def max_weight(self) -> int:
        return sys.maxsize if self.weight is None else self.weight

    def share(self, ratio: float) -> Capacity:
        """That part of both bounds, each at least 1."""
        entries, weight = (None if x is None else max(1, int(x * ratio)) for x in (self.entries, self.weight))
        return Capacity(entries, weight)


class Policy(Protocol[K]):
    """The face that all policies have."""

    name: ClassVar[str]

    @property
    def capacity(self) -> Capacity: ...

    @property
    def weight(self) -> int:
        """Sum of the weights of all keys."""
        ...

    def touch(self, key: K) -> bool:
        """A read of the key: whether it is there; a hit counts towards its staying."""
        ...

    def put(self, key: K, weight: int = 1) -> bool:
        """Let a key in, or give it another weight, which is no read and evicts others only as far as it grew.

        Returns:
            Whether the key is there now: a weight above the whole bound is refused, and the key's entry leaves.

        Raises:
            ValueError: the weight is below 1.
        """
        ...

    def remove(self, key: K) -> bool:
        """Drop a key; whether it was there."""
        ...

    def clear(self) -> None: ...

    def __contains__(self, key: object) -> bool: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[K]: ...


class Slot:
    """What a policy knows of a key that is there.

    Attributes:
        weight: as it was put.
        uses: reads, as far as the policy counts them.
        where: which of the policy's queues it is in; 0 = none yet.
    """

    __slots__ = ("uses", "weight", "where")

    def __init__(self, weight: int, where: int = 0) -> None:
        self.weight = weight
        self.uses = 0
        self.where = where


class BoundedPolicy(ABC, Generic[K]):
    """Accounts, bounds and reasons; what remains to a policy is its queues.

    A subclass gives `touch`, `_enter`, `_leave`, `_victim` and `_reset`, and says with `_COLD` and `_HOT` which of its
    queues a key goes to that another policy held.
    """

    name: ClassVar[str]
    _COLD: ClassVar[int] = 0
    _HOT: ClassVar[int] = 0

    def __init__(self, capacity: Capacity, listener: Listener[K] | None = None) -> None:
        self.capacity = capacity
        self.weight = 0
        self._listener = listener
        self._max_entries = capacity.max_entries
        self._max_weight = capacity.max_weight
        self._slots: dict[K, Slot] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[K]:
        return iter(self._slots)

    def __repr__(self) -> str:
        bounds = f"{self.capacity.entries or '-'} entries, {self.capacity.weight or '-'} weight"
        return f"{type(self).__name__}({len(self)} keys of weight {self.weight}; at most {bounds})"

    @abstractmethod
    def touch(self, key: K) -> bool: ...

    def put(self, key: K, weight: int = 1) -> bool:
        if weight < 1:
            raise ValueError(f"weight {weight} of key {key!r} is below 1")
        slot = self._slots.get(key)
        if slot is None:
            if weight > self._max_weight:
                return False
            self._insert(key, Slot(weight))
            return True
        before = slot.weight
        if self.weight + weight - before <= self._max_weight:
            self._reweigh(slot, weight - before)
            self._tell(key, before, Reason.REPLACED)
            return True
        # It steps out while room is made, so it cannot evict itself, and comes back to the queue it was in.
        self._drop(key, slot)
        if weight > self._max_weight:
            self._tell(key, before, Reason.CAPACITY)
            return False
        slot.weight = weight
        self._insert(key, slot)
        self._tell(key, before, Reason.REPLACED)
        return True

    def remove(self, key: K) -> bool:
        slot = self._slots.get(key)
        if slot is None:
            return False
        self._drop(key, slot)
        self._tell(key, slot.weight, Reason.REMOVED)
        return True

    def clear(self) -> None:
        gone = self._slots
        self._slots = type(gone)()
        self.weight = 0
        self._reset()
        for key, slot in gone.items():
            self._tell(key, slot.weight, Reason.CLEARED)

    def listen(self, listener: Listener[K] | None) -> None:
        """Tell this one from now on instead of the one that was told until now."""
        self._listener = listener

    def weight_of(self, key: K) -> int:
        """Raises: KeyError, the key is not there."""
        return self._slots[key].weight

    def pop(self) -> tuple[K, int]:
        """Take out whom the policy would evict next, untold: key and weight. Raises: KeyError, there is none."""
        if not self._slots:
            raise KeyError("the policy holds no key")
        key = self._victim()
        weight = self._slots.pop(key).weight
        self.weight -= weight
        return key, weight

    def release(self, key: K) -> int:
        """Take out a key, untold; its weight. Raises: KeyError, it is not there."""
        slot = self._slots[key]
        self._drop(key, slot)
        return slot.weight

    def evict(self) -> None:
        """Evict one key. Raises: KeyError, there is none."""
        key, weight = self.pop()
        self._tell(key, weight, Reason.CAPACITY)

    def adopt(self, key: K, weight: int, *, cold: bool) -> None:
        """Let in a key that another policy held, with the rank it had there instead of a beginner's."""
        self._insert(key, Slot(weight, self._COLD if cold else self._HOT))

    def _insert(self, key: K, slot: Slot) -> None:
        while len(self._slots) >= self._max_entries or self.weight + slot.weight > self._max_weight:
            self.evict()
        self._slots[key] = slot
        self.weight += slot.weight
        self._enter(key, slot)

    def _drop(self, key: K, slot: Slot) -> None:
        self._leave(key, slot)
        del self._slots[key]
        self.weight -= slot.weight

    def _reweigh(self, slot: Slot, by: int) -> None:
        """Change a weight in place; policies that weigh their queues add to it."""
        slot.weight += by
        self.weight += by

    def _tell(self, key: K, weight: int, reason: Reason) -> None:
        if self._listener is not None:
            self._listener(key, weight, reason)

    @abstractmethod
    def _enter(self, key: K, slot: Slot) -> None:
        """Queue a key: where `slot.where` says, or as a beginner where that is 0."""

    @abstractmethod
    def _leave(self, key: K, slot: Slot) -> None:
        """Take a key out of its queue; the slot keeps `where`."""

    @abstractmethod
    def _victim(self) -> K:
        """Choose who goes and take it out of its queue; called only while there are keys."""

    @abstractmethod
    def _reset(self) -> None:
        """Forget all queues and history."""
