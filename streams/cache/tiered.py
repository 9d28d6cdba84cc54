"""`TieredCache`: the tiers of a reader in the order of their cost, asked until one answer is new enough."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Self

import msgspec

from models.cache.coherence import PartitionView
from models.cache.keys import Location, Space
from models.cache.version import NOTHING
from models.errors import MarketPrismError, PartlyUnavailable, TooStale
from streams.cache.held import Held
from streams.cache.recent import RecentRows
from streams.cache.rung import Rung
from streams.cache.tier import Answer, Asked, OwnTier, Tier
from streams.log import event

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.002, 0.05
_LOOK_S = 0.05  # between two looks at breakers and costs
_MEASURED_S = 2.0  # a tier that nobody read for so long is probed

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
        self._rungs = [Rung(tier) for tier in tiers]
        self._order = tuple(self._rungs)
        self._own = [rung.own for rung in self._rungs if rung.own is not None]
        self._max_wait_s = max_wait_s
        self._age_ms = age_ms
        self._keeps = keeps
        self._recent = RecentRows(0) if recent is None else recent
        self._watches: list[asyncio.Task[None]] = []
        self._closing = False
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"TieredCache({', '.join(map(repr, self._order))})"

    def __getitem__(self, name: str) -> Tier:
        """The very tier of a name, with all its own methods. Raises: KeyError."""
        for rung in self._rungs:
            if rung.tier.name == name:
                return rung.tier
        raise KeyError(name)

    @property
    def order(self) -> list[str]:
        """Names of the tiers in the order in which they are asked now; those that are down are left out."""
        return [rung.tier.name for rung in self._order if not rung.breaker.is_open]

    def resume_at(self) -> Mapping[int, int] | None:
        """Where an own tier wants the invalidations to be heard from, so that what it kept may be believed."""
        asked = [rung.own.resume_at() for rung in self._rungs if rung.own is not None]
        return next((offsets for offsets in asked if offsets is not None), None)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for rung in self._rungs:
                stack.push_async_callback(rung.tier.close)
                await rung.tier.open()
            self._closing = False
            self._watches = [asyncio.create_task(self._look_after(rung)) for rung in self._rungs]
            stack.push_async_callback(self._end_watches)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def load_floors(self, partition: int) -> int:
        """Take the group floors of a generic partition from every log tier that answers; as of which version.

        Raises:
            ServiceUnavailable, CorruptStore: none answers.
        """
        failure: MarketPrismError | None = None
        loaded: list[int] = []
        for rung in self._rungs:
            if rung.log is not None:
                try:
                    loaded.append(await rung.log.load_floors(partition, self._views[Space.GENERIC, partition]))
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
        for rung in self._order:
            if rung.breaker.is_open:
                failure = failure or rung.is_down()
                continue
            started_s = time.monotonic()
            try:
                held = await rung.tier.read(at, view)
            except MarketPrismError as exc:
                failure = exc
                self._failed(rung, exc)
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
        for rung in self._order:
            if not left:
                break
            answers = await self._ask(rung, list(left.values()))
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

    async def _ask(self, rung: Rung, asked: list[Asked]) -> Sequence[Answer]:
        if rung.breaker.is_open:
            return [rung.is_down()] * len(asked)
        try:
            answers = await rung.tier.read_many(asked)
        except MarketPrismError as exc:
            answers = [exc] * len(asked)
        failed = [answer for answer in answers if isinstance(answer, MarketPrismError)]
        if len(failed) == len(asked):
            self._failed(rung, failed[0])
        else:
            rung.breaker.succeeded()  # what a batch costs is not compared with what a read costs
        return answers

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
            for own in self._own:
                if own is not own_tier:
                    own.keep(held)
        age_ms = self._age_ms(held)
        if max_age_ms is None or (age_ms is not None and age_ms <= max_age_ms):
            return Found(held, name, age_ms)
        return None

    def _failed(self, rung: Rung, failure: MarketPrismError) -> None:
        if isinstance(failure, PartlyUnavailable):  # the tier itself knows which part to leave alone
            return
        was_open = rung.breaker.is_open
        rung.breaker.failed(failure, time.monotonic())
        if rung.breaker.is_open and not was_open:
            event(log, "tier_down", level=logging.WARNING, tier=rung.tier.name, detail=str(failure))

    async def _look_after(self, rung: Rung) -> None:
        """Probe the tier while it is down, or while nobody reads it; keep the order of all tiers."""
        while not self._closing:
            await asyncio.sleep(_LOOK_S)
            now_s = time.monotonic()
            if rung.breaker.probe_due(now_s) or (
                not rung.breaker.is_open and now_s - rung.cost.sampled_s > _MEASURED_S
            ):
                await self._probe(rung)
                now_s = time.monotonic()
            self._order = tuple(sorted(self._rungs, key=lambda rung: rung.cost.expected_s(now_s)))

    async def _probe(self, rung: Rung) -> None:
        started_s = time.monotonic()
        try:
            await rung.tier.probe()
        except MarketPrismError as exc:
            if rung.breaker.is_open:
                rung.breaker.probed(exc, time.monotonic())
            else:
                self._failed(rung, exc)
            return
        now_s = time.monotonic()
        rung.cost.renewed(now_s - started_s, now_s)
        if rung.breaker.is_open:
            rung.breaker.probed(None, now_s)
            event(log, "tier_back", tier=rung.tier.name)

    async def _end_watches(self) -> None:
        self._closing = True  # a probe's client may swallow the cancellation, as redis-py does at times
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)

    def _too_stale(self, at: Location, view: PartitionView, newest: Held | None, max_age_ms: float | None) -> TooStale:
        floor, as_of = view.floors.floor(at.floor), NOTHING if newest is None else newest.as_of
        if as_of < floor:
            why = f"the tiers' mark {as_of} of partition {at.partition} is below {floor}, which was heard of already"
        else:
            why = f"its age is not proven to be below {max_age_ms} ms"
        return TooStale(f"{at.key.text}: {why}; waited {self._max_wait_s} s. Is a worker running?")
