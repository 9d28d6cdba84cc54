"""Settings: one frozen dataclass a subject; defaults < file (TOML) < environment (`MARKETPRISM_<SUBJECT>__<FIELD>`).

The types carry the allowed ranges, so a new setting is one line here and needs no other place.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from models.errors import SettingsError

ENVIRONMENT_PREFIX = "MARKETPRISM_"
FILE_VARIABLE = "MARKETPRISM_FILE"
TEST_PREFIX = "MARKETPRISM_TEST_"  # belongs to the test suite, not to a process
DEFAULT_FILE = "marketprism.toml"

Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1..65535")]
Seconds = Annotated[float, Meta(gt=0, le=3600, description="seconds, above 0 and at most 3600")]
# The alphabet that is legal both in a topic name and, outside the hash tag, in a Redis key.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,100}\Z", description="1..100 letters, digits, . _ or -")]
OptionalName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,100}\Z", description="0..100 letters, digits, . _ or -")]
_ADDRESS = r"([^\s,:@/\[\]]+|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}"
Addresses = Annotated[str, Meta(pattern=rf"^{_ADDRESS}(,{_ADDRESS})*\Z", description="host:port[,host:port...]")]
_TIERS = r"^(rocksdb|disk|redis)(,(rocksdb|disk|redis))*\Z"
Text = Annotated[str, Meta(min_length=1, description="a text that is not empty")]


@dataclass(frozen=True)
class KafkaSettings:
    bootstrap: Addresses = "127.0.0.1:19092"
    # P: 4 on one machine, 60 on a cluster; never changes in place
    partitions: Annotated[int, Meta(ge=1, le=1000, description="partitions, 1..1000")] = 4
    replication: Annotated[int, Meta(ge=1, le=9, description="copies, 1..9")] = 1
    connect_timeout_s: Seconds = 10.0  # first contact; a command must not hang on a broker that is not there
    request_timeout_s: Seconds = 30.0


@dataclass(frozen=True)
class RedisSettings:
    url: Annotated[
        str, Meta(pattern=r"^(rediss?|unix)://.", description="redis://, rediss:// or unix:// and an address")
    ] = "redis://127.0.0.1:16379/0"
    timeout_s: Seconds = 1.0  # redis-py's defaults hold a caller of a dead server for many seconds
    cluster: bool = False  # the address is a node of a Redis Cluster


@dataclass(frozen=True)
class ServicesSettings:
    state_dir: Text = ".marketprism"
    cache_dir: Text = "~/.cache/marketprism"  # downloaded jars, shared by all state folders
    kafka_port: Port = 19092
    controller_port: Port = 19093
    redis_port: Port = 16379

    def __post_init__(self) -> None:
        if len({self.kafka_port, self.controller_port, self.redis_port}) < 3:
            raise SettingsError("services.kafka_port, services.controller_port and services.redis_port must differ")


@dataclass(frozen=True)
class TopicsSettings:
    prefix: OptionalName = ""  # "run.<id>." for a replay's own topics and keys


@dataclass(frozen=True)
class WorkerSettings:
    id: Name = "marketprism"  # consumer group; all workers of a site share it
    data_dir: Text = ".marketprism/worker"
    port: Port = 8801  # /metrics, /health, /ready
    commit_interval_s: Annotated[float, Meta(ge=0.05, le=60, description="seconds, 0.05..60")] = 1.0
    session_timeout_s: Annotated[float, Meta(ge=2, le=300, description="seconds, 2..300")] = 6.0
    # rows that one invalidation carries, so that readers need not read them back; 0 = none
    invalidation_rows: Annotated[int, Meta(ge=0, le=65_536, description="rows, 0..65536")] = 16_384
    instance_id: OptionalName = ""  # static membership: a restart under the same name skips the rebalance
    # a round, a barrier, a rebalance or a recovery that does not move for this long ends the worker
    stall_timeout_s: Annotated[float, Meta(ge=1, le=3600, description="seconds, 1..3600")] = 120.0
    disk_reserve_mb: Annotated[int, Meta(ge=0, le=1 << 20, description="MiB, 0..1048576")] = 64  # less is a full disk
    checkpoint_dir: str = ""  # empty = no checkpoints
    checkpoint_interval_s: Annotated[float, Meta(ge=0.1, le=86_400, description="seconds, 0.1..86400")] = 300.0


@dataclass(frozen=True)
class PublisherSettings:
    name: Name = "publisher"
    frame_ticks: Annotated[int, Meta(ge=1, le=4096, description="ticks, 1..4096")] = 4096
    frame_ms: Annotated[float, Meta(gt=0, le=1000, description="milliseconds, above 0 and at most 1000")] = 7.0
    # back-pressure beyond this
    buffer_ticks: Annotated[int, Meta(ge=4096, le=1 << 26, description="ticks, 4096..67108864")] = 262_144
    delivery_timeout_s: Seconds = 30.0


@dataclass(frozen=True)
class InstrumentsSettings:
    strict: bool = False  # refuse instruments that nobody defined instead of defining them on the spot


@dataclass(frozen=True)
class ReaderSettings:
    memory_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 40, description="bytes, 65536..1099511627776")] = 64 << 20
    policy: Literal["s3fifo", "adaptive", "lru", "lfu", "lirs", "tinylfu"] = "s3fifo"  # docs/caching.md says which
    # how long a read waits for a tier to reach its floor before TooStale
    max_wait_s: Annotated[float, Meta(ge=0, le=60, description="seconds, 0..60")] = 1.0
    # keys whose newest invalidation is remembered
    floor_ring: Annotated[int, Meta(ge=16, le=1 << 26, description="keys, 16..67108864")] = 65_536
    # besides memory, in the order in which they are asked until they are measured
    tiers: Annotated[str, Meta(pattern=_TIERS, description="rocksdb, disk and redis, in any order, by commas")] = (
        "redis"
    )
    # generic values larger than this are put packed with zstd; 0 = never
    compress_above_bytes: Annotated[int, Meta(ge=0, le=1 << 24, description="bytes, 0..16777216")] = 16_384
    disk_follow_s: Annotated[float, Meta(ge=0.01, le=60, description="seconds, 0.01..60")] = 0.1
    disk_dir: Text = ".marketprism/reader"  # of the tier `disk`; one reader process has it
    disk_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 44, description="bytes, 65536..17592186044416")] = 1 << 30


@dataclass(frozen=True)
class AuditSettings:
    # of Redis, compared with the worker's pages each second; 0 = off
    keys_per_s: Annotated[int, Meta(ge=0, le=10_000, description="keys, 0..10000")] = 20


@dataclass(frozen=True)
class ClockSettings:
    max_skew_ms: Annotated[float, Meta(ge=0, le=60_000, description="milliseconds, 0..60000")] = 50.0


@dataclass(frozen=True)
class LogSettings:
    level: Literal["INFO", "WARNING", "ERROR"] = "INFO"  # DEBUG records that nobody reads cost 10 % of a worker
    format: Literal["plain", "json"] = "plain"


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
    audit: AuditSettings = field(default_factory=AuditSettings)
    clock: ClockSettings = field(default_factory=ClockSettings)
    log: LogSettings = field(default_factory=LogSettings)


Value = int | float | bool | str


@dataclass(frozen=True)
class Effective:
    """One setting as it holds: `name` is `subject.field`, `where` the file or variable it came from ('' = default)."""

    name: str
    value: Value
    origin: Literal["default", "file", "environment"]
    where: str = ""

    @property
    def shown(self) -> Value:
        """The value as it may be printed: secrets masked."""
        value: Value = masked(self.name, self.value)
        return value


def load_settings(environ: Mapping[str, str] | None = None, file: Path | str | None = None) -> Settings:
    """Effective settings of this process; the one place that reads the environment.

    Args:
        environ: variables to read instead of the process's own.
        file: TOML file to read; else the one `MARKETPRISM_FILE` names; else `marketprism.toml` where it exists.

    Raises:
        SettingsError: a setting is unknown, of a wrong type or out of range, or the file cannot be read.
    """
    values: dict[str, dict[str, Any]] = {}
    for setting in effective_settings(environ, file):
        subject, name = setting.name.split(".")
        values.setdefault(subject, {})[name] = setting.value
    return Settings(**{subject: cls(**values[subject]) for subject, cls in _subjects().items()})


def effective_settings(environ: Mapping[str, str] | None = None, file: Path | str | None = None) -> list[Effective]:
    """Every setting with its origin, in the order of the dataclasses. Arguments and errors as `load_settings`."""
    environ = os.environ if environ is None else environ
    path = settings_file(environ, file)
    found = {
        name: Effective(name, default, "default")
        for subject, cls in _subjects().items()
        for name, default in ((f"{subject}.{f.name}", getattr(cls, f.name)) for f in fields(cls))
    }
    known, types = list(found), _types()
    for name, raw in _from_file(path, known) if path else ():
        value = _converted(name, raw, types[name], strict=True, where=str(path))
        found[name] = Effective(name, value, "file", str(path))
    for name, raw, variable in _from_environment(environ, known):
        value = _converted(name, raw, types[name], strict=False, where=variable)
        found[name] = Effective(name, value, "environment", variable)
    return list(found.values())


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give another process exactly these settings, whatever file lies in its folder."""
    return {
        f"{ENVIRONMENT_PREFIX}{subject.upper()}__{field_.name.upper()}": str(
            getattr(getattr(settings, subject), field_.name)
        )
        for subject, cls in _subjects().items()
        for field_ in fields(cls)
    }


def settings_file(environ: Mapping[str, str] | None = None, file: Path | str | None = None) -> Path | None:
    """The settings file that is read, None if there is none. A file that was asked for must exist.

    Raises:
        SettingsError: the named file does not exist.
    """
    environ = os.environ if environ is None else environ
    named = file or environ.get(FILE_VARIABLE)
    path = Path(named or DEFAULT_FILE)
    if path.is_file():
        return path
    if named:
        source = "" if file else f" (from {FILE_VARIABLE})"
        raise SettingsError(f"settings file {path}{source} does not exist: name another one or leave it out")
    return None


def masked(name: str, value: Any) -> Any:
    """`value` as it may be shown: secret names give `***`, and a URL loses its password."""
    if _SECRET_NAME.search(name.rpartition(".")[2]) and value != "":
        return "***"
    return masked_url(value) if isinstance(value, str) else value


def masked_url(text: str) -> str:
    """`text` with the password and the secret parameters of a URL replaced; other texts as they are."""
    if "://" not in text:
        return text
    text = re.sub(r"(://[^:/@]*:).*@", r"\1***@", text)  # up to the last @: a password may hold @ and / itself
    return re.sub(rf"([?&][^=&]*{_SECRET_WORDS}[^=&]*=)[^&]*", r"\1***", text, flags=re.IGNORECASE)


_SECRET_WORDS = "(?:password|passwd|token|secret|key)"
_SECRET_NAME = re.compile(_SECRET_WORDS, re.IGNORECASE)
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _subjects() -> dict[str, type[Any]]:
    return get_type_hints(Settings)


def _types() -> dict[str, Any]:
    """Type of each setting by `subject.field`, with the ranges that `Annotated` carries."""
    return {
        f"{subject}.{name}": hint
        for subject, cls in _subjects().items()
        for name, hint in get_type_hints(cls, include_extras=True).items()
    }


def _from_file(path: Path, known: list[str]) -> list[tuple[str, Any]]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise SettingsError(f"settings file {path} cannot be read: {exc}") from exc
    found = []
    for subject, content in table.items():
        if not isinstance(content, dict):
            raise SettingsError(f"{subject} in {path} is no subject: write [subject] and below it field = value")
        if subject not in _subjects():
            raise SettingsError(f"unknown subject [{subject}] in {path}{_suggestion(subject, list(_subjects()))}")
        for name, raw in content.items():
            if f"{subject}.{name}" not in known:
                close = _suggestion(f"{subject}.{name}", known)
                raise SettingsError(f"unknown setting {subject}.{name} in {path}{close}")
            found.append((f"{subject}.{name}", raw))
    return found


def _from_environment(environ: Mapping[str, str], known: list[str]) -> list[tuple[str, str, str]]:
    names = {ENVIRONMENT_PREFIX + name.upper().replace(".", "__"): name for name in known}
    found = []
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(TEST_PREFIX) or variable == FILE_VARIABLE:
            continue
        if variable not in names:
            # compared without the prefix that all share, or any name would look near
            close = _suggestion(variable[len(ENVIRONMENT_PREFIX) :], [n[len(ENVIRONMENT_PREFIX) :] for n in names])
            raise SettingsError(f"unknown setting {variable} in the environment{close}")
        found.append((names[variable], environ[variable], variable))
    return found


def _converted(name: str, raw: Any, kind: Any, *, strict: bool, where: str) -> Any:
    try:
        return msgspec.convert(raw, kind, strict=strict)
    except msgspec.ValidationError:
        shown = masked(name, raw)
        raise SettingsError(f"{name} = {shown!r} (from {where}) is not allowed: it must be {_allowed(kind)}") from None


def _allowed(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    for meta in getattr(kind, "__metadata__", ()):
        base = get_args(kind)[0]
        return f"{meta.description}" if base is str else f"{_TYPE_NAMES[base]} ({meta.description})"
    return _TYPE_NAMES[kind]


def _suggestion(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    prefix = ENVIRONMENT_PREFIX if name.isupper() else ""
    return f": did you mean {prefix}{close[0]}?" if close else "; `marketprism settings` lists them all"
