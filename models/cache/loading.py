"""How long what a loader found is good for: life with jitter, stale bound, early refresh; what to do with an entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

from models.cache.write import MAX_TTL_MS

_SEED_BYTES = 8
_SEEDS = 1 << (8 * _SEED_BYTES)


class Freshness(Enum):
    """What a caller does with an entry."""

    FRESH = "fresh"  # answer with it
    EARLY = "early"  # answer with it, and load it again before it ends
    STALE = "stale"  # load; answer with it only if that fails, or takes too long
    ABSENT = "absent"  # load
    UNKNOWN = "unknown"  # no copy answers: load


@dataclass(frozen=True, kw_only=True)
class LoadPolicy:
    """How loads of one kind are kept; everybody who loads a key should use the same one.

    Attributes:
        ttl_ms: what was loaded is fresh for at most so long, at least 1.
        jitter_ratio: 0..1 below 1; a fresh life is shortened by up to this share of it, so that keys loaded together do
            not end together. It is never lengthened.
        stale_ms: so long after its fresh life a value may still be served, marked as stale, when a load fails or is
            slow. 0 = never.
        negative_ttl_ms: so long it is remembered that the loader found nothing (returned None). 0 = not at all.
        error_ttl_ms: so long this process raises a loader's error again without asking it. 0 = not at all.
        beta: how eagerly a value is loaded again before its end: 1 is right for most, more is earlier, 0 = not at all.
        soft_timeout_s: a caller waits so long for a load, then takes a stale value, or raises; the load goes on.
        hard_timeout_s: the loader is given up after this, and so is waiting for another process that loads.
        tags: of every entry that a load makes.

    Raises:
        ValueError: a number is out of its range; the message names it.
    """

    ttl_ms: int
    jitter_ratio: float = 0.0
    stale_ms: int = 0
    negative_ttl_ms: int = 1_000
    error_ttl_ms: int = 0
    beta: float = 1.0
    soft_timeout_s: float | None = None
    hard_timeout_s: float = 30.0
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ranges = {
            "ttl_ms": self.ttl_ms >= 1,
            "jitter_ratio": 0 <= self.jitter_ratio < 1,
            "stale_ms": self.stale_ms >= 0 and self.ttl_ms + self.stale_ms <= MAX_TTL_MS,
            "negative_ttl_ms": 0 <= self.negative_ttl_ms <= MAX_TTL_MS,
            "error_ttl_ms": self.error_ttl_ms >= 0,
            "beta": self.beta >= 0,
            "soft_timeout_s": self.soft_timeout_s is None or self.soft_timeout_s >= 0,
            "hard_timeout_s": self.hard_timeout_s > 0,
        }
        if wrong := [name for name, is_right in ranges.items() if not is_right]:
            raise ValueError(f"{wrong[0]} = {getattr(self, wrong[0])!r} is out of range: see LoadPolicy")

    def life_ms(self, key: str, now_ms: int, *, absent: bool) -> int:
        """Whole life of what was just loaded, stale time included; 0 = it is not to be kept.

        Args:
            now_ms: with the key the seed of the jitter, UTC ms.
            absent: the loader found nothing.
        """
        if absent:
            return self.negative_ttl_ms
        return max(1, self.ttl_ms - int(self.ttl_ms * self.jitter_ratio * _share(key, now_ms))) + self.stale_ms

    def judge(self, *, expires_at_ms: int | None, absent: bool, now_ms: int, load_ms: float, draw: float) -> Freshness:
        """What to do with a living entry.

        Args:
            expires_at_ms: end of its whole life; None = it has no end.
            absent: it says that the loader found nothing.
            now_ms: UTC ms.
            load_ms: what a load takes, 0 = not known.
            draw: a random number of (0, 1], new for each call.

        Source: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015:
            refresh when now - load time * beta * ln(draw) reaches the end.
        """
        if expires_at_ms is None:
            return Freshness.FRESH
        left_ms = expires_at_ms - now_ms - (0 if absent else self.stale_ms)
        if left_ms <= 0:
            return Freshness.STALE
        is_due = self.beta > 0 and -load_ms * self.beta * math.log(draw) >= left_ms
        return Freshness.EARLY if is_due and not absent else Freshness.FRESH


def _share(key: str, now_ms: int) -> float:
    """An even draw of 0..1 below 1 that depends on the arguments alone."""
    seed = blake2b(f"{now_ms}:{key}".encode("utf-8", "surrogatepass"), digest_size=_SEED_BYTES).digest()
    return int.from_bytes(seed, "big") / _SEEDS
