"""Redis Cluster as a tier: a node that is away harms only the keys that it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterError, RedisClusterException

from models.cache import version as versions
from models.cache.breaker import Breaker
from models.cache.coherence import PartitionView
from models.cache.keys import Space, floors_key, mark_key
from models.cache.mark import unpack_mark
from models.errors import MarketPrismError, PartlyUnavailable, ServiceUnavailable
from streams.cache.connect import redis_errors
from streams.cache.held import held_book
from streams.cache.reads import RedisTier, Waiting, answered
from streams.settings import RedisSettings

_TRY_AGAIN_S = 0.02
_UNKNOWN = ""  # name of the node of a slot that no node is known to have


def connect_cluster(settings: RedisSettings) -> RedisCluster:
    """A client that finds all nodes from the one in `redis.url`, when it is first used. `aclose()` it."""
    return RedisCluster.from_url(
        settings.url,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        retry=Retry(NoBackoff(), 0),  # callers have another tier
        require_full_coverage=False,
        decode_responses=False,
    )


class ClusterTier(RedisTier):
    """All keys of a partition share a hash tag, so the mark and the values beside it are one MGET, as on one server.

    While a slot moves to another node its keys are on two of them, and Redis answers TRYAGAIN to a request that needs
    both: it is sent again until `timeout_s` is over (protocol rule 17). Each node has a breaker of its own; the first
    request after a pause is its probe.

    Args:
        redis: from `connect_cluster`; closed with the tier.
        url: for error messages.
        prefix: the run's prefix.
        n_partitions: of the source topics.
        timeout_s: of one request with all its repetitions.
    """

    def __init__(self, redis: RedisCluster, *, url: str, prefix: str, n_partitions: int, timeout_s: float) -> None:
        super().__init__(redis, url=url, prefix=prefix)
        self._cluster: Any = redis
        self._n_partitions = n_partitions
        self._timeout_s = timeout_s
        self._breakers: dict[str, Breaker] = {}

    async def probe(self) -> None:
        """The marks of all partitions: one that answers is enough. Raises: ServiceUnavailable."""
        keys = [mark_key(self._prefix, Space.GENERIC, partition) for partition in range(self._n_partitions)]
        with redis_errors(self._url):
            if not self._known:
                await self._cluster.initialize()
            answers = await asyncio.gather(*(self._cluster.get(key) for key in keys), return_exceptions=True)
            failures = [answer for answer in answers if isinstance(answer, BaseException)]
            if len(failures) == len(keys):
                raise failures[0]

    async def load_floors(self, partition: int, view: PartitionView) -> int:
        """See `LogTier.load_floors`."""
        mark_name, floors_name = mark_key(self._prefix, Space.GENERIC, partition), floors_key(self._prefix, partition)
        with redis_errors(self._url):
            before = unpack_mark(await self._again(lambda: self._cluster.get(mark_name)))
            fields = await self._again(lambda: self._cluster.hgetall(floors_name))
            after = unpack_mark(await self._again(lambda: self._cluster.get(mark_name)))
        if (after.version, after.floors) < (before.version, before.floors):
            raise ServiceUnavailable(f"Redis lost data of partition {partition} while it was read")
        for name, version in fields.items():
            view.groups.note(name.decode(), versions.from_bytes(version))
        view.groups_version = max(view.groups_version, before.floors)
        return before.version

    async def _serve(self, batch: list[Waiting]) -> None:
        by_node: dict[str, list[Waiting]] = {}
        for waiting in batch:
            by_node.setdefault(self._node(waiting.at.mark_key), []).append(waiting)
        await asyncio.gather(*(self._serve_node(name, part) for name, part in by_node.items()))

    async def _serve_node(self, name: str, part: list[Waiting]) -> None:
        breaker = self._breakers.setdefault(name, Breaker())
        failure: Exception | None = breaker.failure
        if not breaker.is_open or breaker.probe_due(time.monotonic()):
            probes = breaker.is_open
            if probes:
                breaker.probed(failure or ServiceUnavailable(name), time.monotonic())  # the next probe is not due yet
            try:
                await self._answer(part)
            except Exception as exc:
                failure = exc
                breaker.failed(exc, time.monotonic())
            else:
                if probes:
                    breaker.probed(None, time.monotonic())
                else:
                    breaker.succeeded()
                return
        if isinstance(failure, MarketPrismError):
            failure = PartlyUnavailable(f"{failure} (node {name or 'not known'} of the cluster)")
        for waiting in part:
            waiting.fail(failure or PartlyUnavailable(name))

    async def _fetch(self, batch: list[Waiting]) -> list[Waiting]:
        groups: dict[bytes, list[Waiting]] = {}
        for waiting in batch:
            groups.setdefault(waiting.at.mark_key, []).append(waiting)
        parts = await asyncio.gather(*(self._mget(mark, group) for mark, group in groups.items()))
        return [waiting for part in parts for waiting in part]

    async def _mget(self, mark: bytes, group: Sequence[Waiting]) -> list[Waiting]:
        keys = [mark, *(waiting.at.redis_key for waiting in group)]
        return answered(group, [mark], await self._again(lambda: self._cluster.mget(keys)))

    async def _fetch_books(self, batch: list[Waiting]) -> None:
        await asyncio.gather(*map(self._fetch_book, batch))

    async def _fetch_book(self, waiting: Waiting) -> None:
        """Between two reads of the mark, of which the older counts: a transaction of the client costs a thread."""
        at = waiting.at
        before = unpack_mark(await self._again(lambda: self._cluster.get(at.mark_key)))
        fields = await self._again(lambda: self._cluster.hgetall(at.redis_key))
        after = unpack_mark(await self._again(lambda: self._cluster.get(at.mark_key)))
        waiting.answer(held_book(at, waiting.view, min(before, after, key=lambda mark: mark.version), fields))

    async def _again(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The client repeats TRYAGAIN for 0.4 s, then it gives up with ClusterError."""
        end = time.monotonic() + self._timeout_s
        while True:
            try:
                return await call()
            except ClusterError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(_TRY_AGAIN_S)

    @property
    def _known(self) -> bool:
        return bool(self._cluster.nodes_manager.slots_cache)

    def _node(self, key: bytes) -> str:
        if not self._known:
            return _UNKNOWN
        try:
            node = self._cluster.get_node_from_key(key)
        except RedisClusterException:
            return _UNKNOWN
        return _UNKNOWN if node is None else str(node.name)
