"""Which tiers a reader has besides memory, as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streams.cache.cluster import ClusterTier, connect_cluster
from streams.cache.connect import connect_redis
from streams.cache.disk_tier import DiskTier
from streams.cache.reads import RedisTier
from streams.cache.rocks_tier import RocksTier
from streams.cache.tier import Tier
from streams.cache.tiered import Views
from streams.clock import Clock
from streams.settings import Settings


def make_tiers(
    settings: Settings, views: Views, *, follow: bool, positions: Callable[[], Mapping[int, int]], clock: Clock
) -> list[Tier]:
    """In the order in which they are asked until they are measured.

    Args:
        views: what the reader knows of each partition.
        follow: the reader hears invalidations; without them only Redis can be believed.
        positions: next invalidation to hear, by partition; empty = not known.
        clock: UTC ns.
    """
    redis = redis_tier(settings)
    if not follow:
        return [redis]
    made: dict[str, Callable[[], Tier]] = {
        "rocksdb": lambda: RocksTier(settings),
        "disk": lambda: DiskTier(settings, views, positions=positions, clock=clock),
        "redis": lambda: redis,
    }
    return [made[name]() for name in dict.fromkeys(settings.reader.tiers.split(","))]


def redis_tier(settings: Settings) -> RedisTier:
    """The tier of one Redis, or of a Redis Cluster."""
    url, prefix = settings.redis.url, settings.topics.prefix
    if not settings.redis.cluster:
        return RedisTier(connect_redis(settings.redis), url=url, prefix=prefix)
    n_partitions, timeout_s = settings.kafka.partitions, settings.redis.timeout_s
    cluster = connect_cluster(settings.redis)
    return ClusterTier(cluster, url=url, prefix=prefix, n_partitions=n_partitions, timeout_s=timeout_s)
