"""Tiers in the order of their cost, each looked after in the background: probed while it is down or nobody reads it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Self

from models.cache.breaker import Breaker
from models.cache.cost import Cost
from models.errors import MarketPrismError, PartlyUnavailable, ServiceUnavailable
from streams.cache.tier import Answer, Asked, LogTier, OwnTier, Tier, is_log_tier, is_own_tier
from streams.log import event

log = logging.getLogger(__name__)

_LOOK_S = 0.05  # between two looks at breakers and costs
_MEASURED_S = 2.0  # a tier that nobody read for so long is probed


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

    async def read_many(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """As `Tier.read_many`; a tier that is down is not asked, and one that fails fails for each key."""
        if self.breaker.is_open:
            return [self.is_down()] * len(asked)
        try:
            answers = await self.tier.read_many(asked)
        except MarketPrismError as exc:
            answers = [exc] * len(asked)
        failed = [answer for answer in answers if isinstance(answer, MarketPrismError)]
        if len(failed) == len(asked):
            self.failed(failed[0])
        else:
            self.breaker.succeeded()  # what a batch costs is not compared with what a read costs
        return answers

    def failed(self, failure: MarketPrismError) -> None:
        """Nothing of what it was asked for was answered."""
        if isinstance(failure, PartlyUnavailable):  # the tier itself knows which part to leave alone
            return
        was_open = self.breaker.is_open
        self.breaker.failed(failure, time.monotonic())
        if self.breaker.is_open and not was_open:
            event(log, "tier_down", level=logging.WARNING, tier=self.tier.name, detail=str(failure))

    def probe_due(self, now_s: float) -> bool:
        """Whether it has been down, or unread, for long enough."""
        if self.breaker.is_open:
            return self.breaker.probe_due(now_s)
        return now_s - self.cost.sampled_s > _MEASURED_S

    async def probe(self) -> None:
        """See whether it answers, and what that costs now."""
        started_s = time.monotonic()
        try:
            await self.tier.probe()
        except MarketPrismError as exc:
            if self.breaker.is_open:
                self.breaker.probed(exc, time.monotonic())
            else:
                self.failed(exc)
            return
        now_s = time.monotonic()
        self.cost.renewed(now_s - started_s, now_s)
        if self.breaker.is_open:
            self.breaker.probed(None, now_s)
            event(log, "tier_back", tier=self.tier.name)


class Ladder:
    """The tiers are open, and looked after, while it is entered.

    Args:
        tiers: in the order in which they are asked until they are measured.

    Attributes:
        rungs: in the order in which they are asked now, those that are down too.
        own: the tiers that are the reader's own.
        logs: the tiers that hold what the worker wrote.
    """

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self._as_given = tuple(map(Rung, tiers))
        self.rungs = self._as_given
        self.own = [rung.own for rung in self.rungs if rung.own is not None]
        self.logs = [rung.log for rung in self.rungs if rung.log is not None]
        self._watches: list[asyncio.Task[None]] = []
        self._closing = False
        self._stack = AsyncExitStack()

    def __getitem__(self, name: str) -> Tier:
        """The tier of a name. Raises: KeyError."""
        for rung in self._as_given:
            if rung.tier.name == name:
                return rung.tier
        raise KeyError(name)

    @property
    def order(self) -> list[str]:
        """Names of the tiers in the order in which they are asked now; those that are down are left out."""
        return [rung.tier.name for rung in self.rungs if not rung.breaker.is_open]

    def resume_at(self) -> Mapping[int, int] | None:
        """Where an own tier wants the invalidations to be heard from, so that what it kept may be believed."""
        asked = [own.resume_at() for own in self.own]
        return next((offsets for offsets in asked if offsets is not None), None)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for rung in self._as_given:
                stack.push_async_callback(rung.tier.close)
                await rung.tier.open()
            self._closing = False
            self._watches = [asyncio.create_task(self._look_after(rung)) for rung in self._as_given]
            stack.push_async_callback(self._end_watches)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _look_after(self, rung: Rung) -> None:
        """Probe the tier when it is due; keep the order of all tiers."""
        while not self._closing:
            await asyncio.sleep(_LOOK_S)
            now_s = time.monotonic()
            if rung.probe_due(now_s):
                await rung.probe()
                now_s = time.monotonic()
            self.rungs = tuple(sorted(self._as_given, key=lambda rung: rung.cost.expected_s(now_s)))

    async def _end_watches(self) -> None:
        self._closing = True  # a probe's client may swallow the cancellation, as redis-py does at times
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
