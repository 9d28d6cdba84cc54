"""Settings: one frozen dataclass a subject; defaults < file (TOML) < environment (`MARKETPRISM_<SUBJECT>__<FIELD>`)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class KafkaSettings:
    bootstrap: str = "127.0.0.1:19092"
    partitions: int = 4  # P: 4 on one machine, 60 on a cluster; never changes in place
    replication: int = 1
    request_timeout_s: float = 30.0


@dataclass(frozen=True)
class RedisSettings:
    url: str = "redis://127.0.0.1:16379/0"
    timeout_s: float = 1.0  # redis-py's defaults hold a caller of a dead server for many seconds


@dataclass(frozen=True)
class ServicesSettings:
    state_dir: str = ".marketprism"
    kafka_port: int = 19092
    controller_port: int = 19093
    redis_port: int = 16379


@dataclass(frozen=True)
class TopicsSettings:
    prefix: str = ""  # "run.<id>." for a replay's own topics and keys


@dataclass(frozen=True)
class WorkerSettings:
    id: str = "marketprism"  # consumer group; all workers of a site share it
    data_dir: str = ".marketprism/worker"
    port: int = 8801  # /metrics, /health, /ready
    commit_interval_s: float = 1.0
    session_timeout_s: float = 6.0
    instance_id: str = ""  # static membership: a restart under the same name skips the rebalance


@dataclass(frozen=True)
class PublisherSettings:
    name: str = "publisher"
    frame_ticks: int = 4096
    frame_ms: float = 5.0
    buffer_ticks: int = 262_144  # back-pressure beyond this
    delivery_timeout_s: float = 30.0


@dataclass(frozen=True)
class InstrumentsSettings:
    strict: bool = False  # refuse instruments that nobody defined instead of defining them on the spot


@dataclass(frozen=True)
class ReaderSettings:
    memory_bytes: int = 64 << 20
    max_wait_s: float = 1.0  # how long a read waits for a tier to reach its floor before TooStale
    floor_ring: int = 65_536  # keys whose newest invalidation is remembered


@dataclass(frozen=True)
class ClockSettings:
    max_skew_ms: float = 50.0


@dataclass(frozen=True)
class Settings:
    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    services: ServicesSettings = field(default_factory=ServicesSettings)
    topics: TopicsSettings = field(default_factory=TopicsSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    publisher: PublisherSettings = field(default_factory=PublisherSettings)
    instruments: InstrumentsSettings = field(default_factory=InstrumentsSettings)
    reader: ReaderSettings = field(default_factory=ReaderSettings)
    clock: ClockSettings = field(default_factory=ClockSettings)


def load_settings() -> Settings:
    """Effective settings of this process."""
    return Settings()
