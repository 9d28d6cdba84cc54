"""A tier in the order of tiers, with its breaker and its cost."""

from __future__ import annotations

from models.cache.breaker import Breaker
from models.cache.cost import Cost
from models.errors import ServiceUnavailable
from streams.cache.tier import LogTier, OwnTier, Tier, is_log_tier, is_own_tier


class Rung:
    """A tier with what is known of it; `log` and `own` are the tier again if it is of that kind."""

    __slots__ = ("breaker", "cost", "log", "own", "tier")

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.log: LogTier | None = tier if is_log_tier(tier) else None
        self.own: OwnTier | None = tier if is_own_tier(tier) else None
        self.breaker = Breaker()
        self.cost = Cost()

    def __repr__(self) -> str:
        return f"{self.tier.name}({self.breaker}, {self.cost})"

    def is_down(self) -> ServiceUnavailable:
        """What a read is told that passed it by."""
        return ServiceUnavailable(
            f"{self.breaker.failure} (the tier {self.tier.name} is tried again in the background)"
        )
