"""A worker's own counters, as its port tells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from models.errors import ServiceUnavailable
from models.perf.histogram import Histogram
from streams.settings import Settings

_TIMEOUT_S = 10


@dataclass(frozen=True)
class WorkerCounters:
    """Counters of one instant, or the difference of two.

    Attributes:
        ticks: rows applied.
        frames, rounds: that they came in.
        gaps: jumps of dense sources.
        rewrites: partitions written anew in Redis.
        barriers: that made state durable.
        changelog_records, changelog_bytes: sent by them, before compression.
        invalidations: instruments named to readers.
        json_records: that the gateway took, refused ones among them.
        gateway_cpu_s: CPU that it took to parse them and to pack frames.
        dead: records refused.
    """

    ticks: int
    frames: int
    rounds: int
    gaps: int
    rewrites: int
    barriers: int
    changelog_records: int
    changelog_bytes: int
    invalidations: int
    json_records: int = 0
    gateway_cpu_s: float = 0.0
    dead: int = 0

    def since(self, before: Self) -> WorkerCounters:
        names = WorkerCounters.__dataclass_fields__
        return WorkerCounters(**{name: getattr(self, name) - getattr(before, name) for name in names})


_SAMPLES = {
    "ticks": "marketprism_market_ticks_total",
    "frames": "marketprism_market_frames_total",
    "rounds": "marketprism_round_seconds_count",
    "gaps": "marketprism_market_gaps_total",
    "rewrites": "marketprism_redis_rewrites_total",
    "barriers": "marketprism_barrier_flushes_total",
    "changelog_records": "marketprism_changelog_records_total",
    "changelog_bytes": "marketprism_changelog_bytes_total",
    "invalidations": "marketprism_cache_invalidations_total",
    "json_records": "marketprism_gateway_records_total",
    "gateway_cpu_s": "marketprism_gateway_cpu_seconds_total",
    "dead": "marketprism_dead_letters_total",
}


async def read_counters(settings: Settings) -> WorkerCounters:
    """Counters of the worker with these settings. Raises: ServiceUnavailable: its port does not answer."""
    return parse_counters(await read_metrics(settings))


async def read_metrics(settings: Settings) -> str:
    """All metrics of the worker with these settings, in Prometheus' text form.

    Raises:
        ServiceUnavailable: its port does not answer.
    """
    url = f"http://127.0.0.1:{settings.worker.port}/metrics"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session,
            session.get(url) as answer,
        ):
            return await answer.text()
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise ServiceUnavailable(f"the worker at {url} does not answer: {exc}") from exc


def parse_counters(text: str) -> WorkerCounters:
    """Counters in Prometheus' text form, summed over labels; one that is not there is 0."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    found = {name: totals.get(sample, 0.0) for name, sample in _SAMPLES.items()}
    return WorkerCounters(
        **{name: found[name] if name.endswith("_s") else int(found[name]) for name in found}  # type: ignore[arg-type]
    )


def parse_histogram(text: str, name: str) -> Histogram:
    """A histogram in Prometheus' text form, summed over labels."""
    totals: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{name}_bucket":
                bound = float(sample.labels["le"])
                totals[bound] = totals.get(bound, 0.0) + sample.value
    return Histogram.of_totals(totals)
