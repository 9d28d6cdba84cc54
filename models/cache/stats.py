"""What a cache counted: requests, hits, and what left for which reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.cache.policy import Reason


@dataclass(slots=True)
class CacheStats:
    """Counters of one cache or one simulated policy.

    Attributes:
        left: entries that left, by reason; `heard` is a listener that counts them.
    """

    hits: int = 0
    misses: int = 0
    left: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))

    @property
    def requests(self) -> int:
        return self.hits + self.misses

    @property
    def hit_ratio(self) -> float:
        """0..1; 0 without a request."""
        return self.hits / self.requests if self.requests else 0.0

    def heard(self, key: object, weight: int, reason: Reason) -> None:
        self.left[reason] += 1

    def part_of(self, optimum: CacheStats) -> float:
        """Hit ratio over that of the optimum, 0..1; 1 where even the optimum hits nothing."""
        return self.hit_ratio / optimum.hit_ratio if optimum.hits else 1.0
