"""Keys that left: a policy that meets one of them again knows that it let go too soon."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from models.cache.policy import K


class Ghosts(Generic[K]):
    """A queue of keys without their entries, first in, first out."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: OrderedDict[K, None] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: K) -> None:
        """Remember a key that is not remembered yet."""
        self._keys[key] = None

    def pop(self) -> K:
        """Forget the oldest. Raises: KeyError, there is none."""
        return self._keys.popitem(last=False)[0]

    def discard(self, key: K) -> bool:
        """Forget a key; whether it was known."""
        return self._keys.pop(key, self) is None  # the values are None

    def clear(self) -> None:
        self._keys.clear()
