"""Which tiers a reader has besides memory, as the settings say."""

from __future__ import annotations

from streams.cache.connect import connect_redis
from streams.cache.reads import RedisTier
from streams.cache.tier import Tier
from streams.settings import Settings


def make_tiers(settings: Settings) -> list[Tier]:
    """In the order in which they are asked until they are measured."""
    return [RedisTier(connect_redis(settings.redis), url=settings.redis.url, prefix=settings.topics.prefix)]
