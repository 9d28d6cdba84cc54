"""`TieredCache`: the tiers of a reader in the order of their cost, asked until one answer is new enough."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import msgspec

from models.cache.coherence import PartitionView
from models.cache.keys import Location, Space
from models.cache.version import NOTHING
from models.errors import MarketPrismError, TooStale
from streams.cache.held import Held
from streams.cache.ladder import Ladder
from streams.cache.recent import RecentRows
from streams.cache.tier import Asked, OwnTier, Tier

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.002, 0.05

Views = Mapping[tuple[Space, int], PartitionView]
AgeMs = Callable[[Held], float | None]


class Found(msgspec.Struct, frozen=True, gc=False):
    """An admitted answer.

    Attributes:
        tier: the name of who gave it.
        age_ms: it is proven to be no older; None = nothing is proven.
    """

    held: Held
    tier: str
    age_ms: float | None


class TieredCache:
    """Reads through tiers. Memory is asked by the caller, before; it is where admitted answers are kept.

    Tiers are asked in the order of what a useful answer of theirs costs, as measured; a tier that is down is passed by
    until a probe of the background finds it well. The first answer that is admitted wins and is kept in memory and in
    the reader's own tiers, where an older one never replaces a newer.

    Args:
        views: what is known of each partition.
        memory: where every admitted answer is kept.
        tiers: in the order in which they are asked until they are measured.
        max_wait_s: how long a read waits for a tier to reach its floor.
        age_ms: upper bound of an answer's age, None = not proven.
        keeps: store answers at all.
        recent: asked before any tier, because no tier may have yet what was just heard.
    """

    def __init__(
        self,
        views: Views,
        memory: OwnTier,
        tiers: Sequence[Tier],
        *,
        max_wait_s: float,
        age_ms: AgeMs,
        keeps: bool = True,
        recent: RecentRows | None = None,
    ) -> None:
        self._views = views
        self._keep_in_memory = memory.keep
        self._ladder = Ladder(tiers)
        self._max_wait_s = max_wait_s
        self._age_ms = age_ms
        self._keeps = keeps
        self._recent = RecentRows(0) if recent is None else recent

    def __repr__(self) -> str:
        return f"TieredCache({', '.join(map(repr, self._ladder.rungs))})"

    def __getitem__(self, name: str) -> Tier:
        """The very tier of a name, with all its own methods. Raises: KeyError."""
        return self._ladder[name]

    @property
    def order(self) -> list[str]:
        """Names of the tiers in the order in which they are asked now; those that are down are left out."""
        return self._ladder.order

    def resume_at(self) -> Mapping[int, int] | None:
        """Where an own tier wants the invalidations to be heard from, so that what it kept may be believed."""
        return self._ladder.resume_at()

    async def __aenter__(self) -> Self:
        await self._ladder.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._ladder.__aexit__(*exc)

    async def load_floors(self, partition: int) -> int:
        """Take the group floors of a generic partition from every log tier that answers; as of which version.

        Raises:
            ServiceUnavailable, CorruptStore: none answers.
        """
        failure: MarketPrismError | None = None
        loaded: list[int] = []
        for tier in self._ladder.logs:
            try:
                loaded.append(await tier.load_floors(partition, self._views[Space.GENERIC, partition]))
            except MarketPrismError as exc:
                failure = exc
        if failure is not None and not loaded:
            raise failure
        return max(loaded, default=NOTHING)

    async def read(self, at: Location, max_age_ms: float | None = None) -> Found:
        """The first answer that is new enough; wait for one, within bounds.

        Args:
            max_age_ms: it must be proven to be no older.

        Raises:
            TooStale: no tier caught up with what was heard, or with `max_age_ms`, in time.
            ServiceUnavailable, CorruptStore: no log tier answers.
        """
        view = self._views[at.key.space, at.partition]
        if (found := self._recall(at, view, max_age_ms)) is not None:
            return found
        failure: MarketPrismError | None = None
        hope = False
        for rung in self._ladder.rungs:
            if rung.breaker.is_open:
                failure = failure or rung.is_down()
                continue
            started_s = time.monotonic()
            try:
                held = await rung.tier.read(at, view)
            except MarketPrismError as exc:
                failure = exc
                rung.failed(exc)
                continue
            found = None if held is None else self._admit(rung.tier.name, rung.own, held, view, max_age_ms)
            now_s = time.monotonic()
            rung.breaker.succeeded()
            rung.cost.read(now_s - started_s, now_s, admitted=found is not None)
            if found is not None:
                return found
            hope = hope or (held is not None and rung.log is not None)
        if failure is not None and not hope:
            raise failure
        (result,) = await self.read_many((at,), max_age_ms)
        if isinstance(result, MarketPrismError):
            raise result
        return result

    async def read_many(
        self, places: Sequence[Location], max_age_ms: float | None = None
    ) -> list[Found | MarketPrismError]:
        """As `read`, a round of each tier for all keys; results in their order, a failure in the place of its key."""
        results: list[Found | MarketPrismError | None] = [None] * len(places)
        left = {n: (at, self._views[at.key.space, at.partition]) for n, at in enumerate(places)}
        end_s, wait_s = time.monotonic() + self._max_wait_s, _FIRST_WAIT_S
        self._recall_many(left, results, max_age_ms)
        while left:
            refused, failures = await self._round(left, results, max_age_ms)
            for n in [n for n in left if n in failures and n not in refused]:
                results[n] = failures[n]
                del left[n]
            self._recall_many(left, results, max_age_ms)  # what made an answer too old was heard while it was asked for
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                for n, (at, view) in left.items():
                    results[n] = self._too_stale(at, view, refused.get(n), max_age_ms)
                left = {}
            if left:
                await asyncio.sleep(min(wait_s, left_s))
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
                self._recall_many(left, results, max_age_ms)
        return [result for result in results if result is not None]

    async def _round(
        self, left: dict[int, Asked], results: list[Found | MarketPrismError | None], max_age_ms: float | None
    ) -> tuple[dict[int, Held], dict[int, MarketPrismError]]:
        """Ask each tier once for what is left, and take out what is found.

        Returns:
            by number of the key, what log tiers had that was not new enough, and why tiers did not answer.
        """
        refused: dict[int, Held] = {}
        failures: dict[int, MarketPrismError] = {}
        for rung in self._ladder.rungs:
            if not left:
                break
            answers = await rung.read_many(list(left.values()))
            for n, answer in zip(list(left), answers, strict=True):
                if isinstance(answer, MarketPrismError):
                    failures[n] = answer
                elif answer is not None:
                    found = self._admit(rung.tier.name, rung.own, answer, left[n][1], max_age_ms)
                    if found is not None:
                        results[n] = found
                        del left[n]
                    elif rung.log is not None and (n not in refused or refused[n].as_of < answer.as_of):
                        refused[n] = answer
        return refused, failures

    def _recall_many(
        self, left: dict[int, Asked], results: list[Found | MarketPrismError | None], max_age_ms: float | None
    ) -> None:
        for n, (at, view) in list(left.items()):
            if (found := self._recall(at, view, max_age_ms)) is not None:
                results[n] = found
                del left[n]

    def _recall(self, at: Location, view: PartitionView, max_age_ms: float | None) -> Found | None:
        held = self._recent.find(at, view)
        return None if held is None else self._admit(self._recent.name, None, held, view, max_age_ms)

    def _admit(
        self, name: str, own_tier: OwnTier | None, held: Held, view: PartitionView, max_age_ms: float | None
    ) -> Found | None:
        """Rule 9, in one step with keeping the answer: what is heard later finds the entry in memory."""
        version, as_of = held.version, held.as_of
        if not view.accept(held.at.floor, as_of, as_of if version == NOTHING else version):
            return None
        if self._keeps and view.synced:
            self._keep_in_memory(held)
            for own in self._ladder.own:
                if own is not own_tier:
                    own.keep(held)
        age_ms = self._age_ms(held)
        if max_age_ms is None or (age_ms is not None and age_ms <= max_age_ms):
            return Found(held, name, age_ms)
        return None

    def _too_stale(self, at: Location, view: PartitionView, newest: Held | None, max_age_ms: float | None) -> TooStale:
        floor, as_of = view.floors.floor(at.floor), NOTHING if newest is None else newest.as_of
        if as_of < floor:
            why = f"the tiers' mark {as_of} of partition {at.partition} is below {floor}, which was heard of already"
        else:
            why = f"its age is not proven to be below {max_age_ms} ms"
        return TooStale(f"{at.key.text}: {why}; waited {self._max_wait_s} s. Is a worker running?")
