"""Errors of loaders, remembered for a while by those who ask for it, so that a source in trouble is left in peace."""

from __future__ import annotations

from collections import OrderedDict

_MAX_KEYS = 4_096


class Failures:
    """The last error of a key, until an instant; at most 4,096 keys, the oldest go first."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[int, Exception]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failed)

    def remember(self, key: str, error: Exception, until_ns: int) -> None:
        """Replaces what was remembered of the key."""
        self._failed.pop(key, None)
        self._failed[key] = until_ns, error
        if len(self._failed) > _MAX_KEYS:
            self._failed.popitem(last=False)

    def check(self, key: str, now_ns: int) -> None:
        """Raises: the key's error, if its time is not over."""
        if (found := self._failed.get(key)) is None:
            return
        until_ns, error = found
        if now_ns < until_ns:
            raise error.with_traceback(None)  # else it grows with each raise
        del self._failed[key]
