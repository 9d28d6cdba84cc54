"""How often costly work is done while there is more to do: often enough, yet in a bounded share of the time."""

from __future__ import annotations


class Pace:
    """Turns `least_s` apart. What waits for one waits `rest` times as long as the last one took, but not `most_s`.

    Args:
        least_s: from the end of a turn to the begin of the next.
        most_s: from when something began to wait.
        rest: 15 = while something always waits, a turn after the other takes a sixteenth of the time.
    """

    def __init__(self, least_s: float = 1.0, *, most_s: float = 10.0, rest: float = 15.0) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._rest = rest
        self._not_before = 0.0
        self._rest_s = 0.0

    def wait_s(self, now: float, since: float) -> float:
        """Seconds until the next turn is due, 0 = it is, for what began to wait at `since`; both monotonic, s."""
        return max(0.0, self._not_before - now, since + self._rest_s - now)

    def had(self, began: float, ended: float) -> None:
        """A turn lasted from one instant to the other, monotonic, s."""
        self._not_before = ended + self._least_s
        self._rest_s = min(self._rest * (ended - began), self._most_s)
