"""A tier that misbehaves as planned: it throws, lags, forgets, falls behind and lies, by a seed.

    tier = ChaosTier(RedisTier(...), Chaos(throws=0.1, lags=0.05, lag_s=0.02, forgets=0.1, stale=0.1), seed=7)

The same seed and the same calls give the same faults. Whatever happens, a reader may answer late, miss or raise; it may
never answer with less than it has heard of. Only `lies` breaks that, and nothing but a checker of histories can see it.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import msgspec

from models.cache.coherence import PartitionView
from models.cache.keys import Location
from models.errors import MarketPrismError, ServiceUnavailable
from streams.cache.held import Held
from streams.cache.tier import Answer, Asked, Tier, Wrapper, is_own_tier

_REMEMBERED = 8  # earlier answers of a key


@dataclass(frozen=True)
class Chaos:
    """How often each fault comes, 0..1 of the calls.

    Attributes:
        throws: `ServiceUnavailable` instead of an answer.
        lags: the answer comes `lag_s` late.
        forgets: no answer, as from a tier that lost the key; what is to be kept is not kept.
        stale: an earlier answer again, with the version as of which it was right.
        lies: an earlier answer again, as if it were right as of the newest version that was ever answered.
    """

    throws: float = 0.0
    lags: float = 0.0
    forgets: float = 0.0
    stale: float = 0.0
    lies: float = 0.0
    lag_s: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "lag_s" and not 0 <= getattr(self, field.name) <= 1:
                raise ValueError(f"{field.name} {getattr(self, field.name)} is no share of the calls: 0 to 1")


class ChaosTier(Wrapper):
    """Around any tier, with that tier's own face.

    Attributes:
        plan: may be changed at any time.
        down: every call throws, probes included.
        calls: reads and probes that reached it, those that failed included.
        faults: how many of each kind came.
    """

    def __init__(self, inner: Tier, plan: Chaos | None = None, *, seed: int = 0) -> None:
        super().__init__(inner)
        self.plan = plan or Chaos()
        self.down = False
        self.calls = 0
        self.faults: dict[str, int] = defaultdict(int)
        self._random = random.Random(seed)
        self._said: dict[str, list[Held]] = defaultdict(list)
        if is_own_tier(inner):  # only then has this tier such a method
            self.keep = self._keep

    async def read(self, at: Location, view: PartitionView) -> Held | None:
        """See `Tier.read`."""
        await self._meddle()
        return self._changed(at, await self.inner.read(at, view))

    async def read_many(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """See `Tier.read_many`; each key has its own faults."""
        await self._meddle(throws=False)
        answers: list[Answer] = []
        for (at, _), answer in zip(asked, await self.inner.read_many(asked), strict=True):
            if self._comes("throws"):
                answers.append(ServiceUnavailable(f"chaos: {self.name} throws for {at.key.text}"))
            elif isinstance(answer, MarketPrismError):
                answers.append(answer)
            else:
                answers.append(self._changed(at, answer))
        return answers

    async def probe(self) -> None:
        """See `Tier.probe`."""
        await self._meddle(throws=False)
        await self.inner.probe()

    def _keep(self, held: Held) -> None:
        if is_own_tier(self.inner) and not self.down and not self._comes("forgets"):
            self.inner.keep(held)

    async def _meddle(self, *, throws: bool = True) -> None:
        self.calls += 1
        if self.down or (throws and self._comes("throws")):
            raise ServiceUnavailable(f"chaos: {self.name} throws")
        if self._comes("lags"):
            await asyncio.sleep(self.plan.lag_s)

    def _changed(self, at: Location, held: Held | None) -> Held | None:
        said = self._said[at.key.text]
        if held is not None and (not said or held.as_of > said[-1].as_of):
            said.append(_copy(held))
            del said[:-_REMEMBERED]
        if self._comes("forgets"):
            return None
        if said and self._comes("stale"):
            return _copy(self._random.choice(said))
        if said and self._comes("lies"):
            lie = _copy(self._random.choice(said))
            lie.as_of = said[-1].as_of
            return lie
        return held

    def _comes(self, fault: str) -> bool:
        comes: bool = self._random.random() < getattr(self.plan, fault)
        if comes:
            self.faults[fault] += 1
        return comes


def _copy(held: Held) -> Held:
    return msgspec.structs.replace(held)
