"""What a generated day is made from: these numbers and nothing else decide its rows."""

from __future__ import annotations

import msgspec

from models.days.profile import PROFILES, Profile
from models.errors import InvalidRecipe

MAX_SYMBOLS = 100_000
MIN_DURATION_S = 60


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments of a generated day.

    Attributes:
        seed: 0 or more.
        symbols, events: how many; an event is a message, of one or more rows.
        venue_kind: equity or crypto.
        start_ns: ns UTC, whole seconds; the session's or the day's begin.
        duration_s: how long messages come from then on.
        anomalies: how many are planted; each adds events or, where a feed is stale, takes some away.
    """

    seed: int
    symbols: int
    events: int
    venue_kind: str
    start_ns: int
    duration_s: int
    anomalies: int = 0

    def validate(self) -> None:
        """Raises: InvalidRecipe when the numbers do not fit together."""
        if self.venue_kind not in PROFILES:
            raise InvalidRecipe(f"venue kind {self.venue_kind!r} is none of {', '.join(PROFILES)}")
        longest = self.profile.session_s
        if not MIN_DURATION_S <= self.duration_s <= longest:
            raise InvalidRecipe(
                f"a day of kind {self.venue_kind} lasts {MIN_DURATION_S} to {longest} s, not {self.duration_s}"
            )
        if self.seed < 0:
            raise InvalidRecipe(f"the seed is {self.seed}: it must be 0 or more")
        if not 1 <= self.symbols <= MAX_SYMBOLS:
            raise InvalidRecipe(f"a day has 1 to {MAX_SYMBOLS} symbols, not {self.symbols}")
        if self.anomalies < 0 or self.anomalies > self.duration_s // 60:
            most = self.duration_s // 60
            raise InvalidRecipe(f"{self.anomalies} anomalies do not fit into {self.duration_s} s: at most {most} do")

    @property
    def profile(self) -> Profile:
        return PROFILES[self.venue_kind]
