"""The one catalogue of Prometheus metrics: `marketprism_<subject>_<name>_<unit>`, labels bounded, never a symbol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol
from weakref import WeakSet

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from models.cache.stats import CacheStats

TICKS = Counter("marketprism_market_ticks", "Rows applied to the state.")
FRAMES = Counter("marketprism_market_frames", "Frames applied to the state.")
GAPS = Counter("marketprism_market_gaps", "Jumps of dense sources: rows that never arrived.")
REPEATED = Counter("marketprism_market_repeated", "Rows dropped because their source's position had come already.")
BAD_BOOKS = Counter("marketprism_market_bad_books", "Books that began to await a snapshot.")
WINDOWS = Counter("marketprism_windows_closed", "Windows that closed, of all lengths.")
LATE_TRADES = Counter("marketprism_windows_late_trades", "Trades that came after their window had closed.")
JSON_RECORDS = Counter("marketprism_gateway_records", "JSON ticks packed into frames.")
GATEWAY_CPU = Counter("marketprism_gateway_cpu_seconds", "CPU of parsing JSON ticks and packing frames.")
DEAD = Counter("marketprism_dead_letters", "Records refused.", ["reason"])
WRITES = Counter("marketprism_cache_writes", "Cache writes applied.", ["op"])
WITHOUT_EFFECT = Counter(
    "marketprism_cache_writes_without_effect",
    "Cache writes that changed nothing: late fills, lost put_ifs, refused increments, repetitions.",
    ["op"],
)
LOADS = Counter("marketprism_loads", "Loads and what came of them, stale answers, waits given up.", ["outcome"])
INVALIDATIONS = Counter("marketprism_cache_invalidations", "Instruments and keys announced.", ["space"])
REWRITES = Counter("marketprism_redis_rewrites", "Partitions rewritten in Redis from their pages.", ["space"])
REDIS_UP = Gauge("marketprism_redis_up", "1 while Redis holds what the pages hold.")
BARRIERS = Counter("marketprism_barrier_flushes", "Barriers that made state durable.")
BARRIER_SECONDS = Histogram(
    "marketprism_barrier_seconds",
    "Duration of a barrier.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
CHANGELOG_RECORDS = Counter("marketprism_changelog_records", "State pages sent to the changelog, by count.")
CHANGELOG_BYTES = Counter("marketprism_changelog_bytes", "State pages sent to the changelog.")
ROUND_SECONDS = Histogram(
    "marketprism_round_seconds",
    "From a round's hand-over until it is visible everywhere.",
    ["topic"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
PARTITIONS = Gauge("marketprism_worker_partitions", "Partitions owned.")
RECOVERY_RECORDS = Counter("marketprism_recovery_records", "Changelog records applied by recoveries.")
RECOVERY_REMAINING = Gauge("marketprism_recovery_remaining_records", "Changelog records that a recovery has to read.")
RECOVERY_SECONDS = Gauge("marketprism_recovery_seconds", "From joining the group to serving, at the last recovery.")
DISK_FULL = Gauge("marketprism_worker_disk_full", "1 while barriers wait for room on the disk.")
CHECKPOINTS = Counter("marketprism_checkpoints", "Checkpoints of stores made.")
AUDITED = Counter("marketprism_audit_keys", "Keys of Redis compared with the worker's pages.")
AUDIT_VIOLATIONS = Counter("marketprism_audit_violations", "Keys that differed at an equal version; must stay 0.")
AUDIT_LAG = Histogram(
    "marketprism_audit_redis_lag_seconds",
    "How far Redis' mark is behind what is applied, in log-append time, at each look.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5, 30),
)


class ReaderMemory(Protocol):
    """A reader's memory tier, as far as it is counted."""

    stats: CacheStats

    @property
    def bytes(self) -> int: ...

    def __len__(self) -> int: ...


READERS: WeakSet[ReaderMemory] = WeakSet()  # of this process


class _Readers(Collector):
    """Sums over all readers of the process when it is scraped: a counter of its own at each hit would cost more."""

    def collect(self) -> Iterator[Metric]:
        readers = list(READERS)
        hits = CounterMetricFamily("marketprism_reader_hits", "Reads that found an entry in memory.")
        hits.add_metric([], sum(reader.stats.hits for reader in readers))
        misses = CounterMetricFamily("marketprism_reader_misses", "Reads that found none.")
        misses.add_metric([], sum(reader.stats.misses for reader in readers))
        left = CounterMetricFamily("marketprism_reader_left", "Entries that left memory.", labels=["reason"])
        for reason in CacheStats().left:
            left.add_metric([reason.value], sum(reader.stats.left[reason] for reader in readers))
        size = GaugeMetricFamily("marketprism_reader_memory_bytes", "What the entries in memory take.")
        size.add_metric([], sum(reader.bytes for reader in readers))
        entries = GaugeMetricFamily("marketprism_reader_memory_entries", "Entries in memory.")
        entries.add_metric([], sum(len(reader) for reader in readers))
        yield from (hits, misses, left, size, entries)


REGISTRY.register(_Readers())
UNREADABLE = Counter(
    "marketprism_cache_unreadable", "Entries that were a miss because their bytes could not be read.", ["reason"]
)
