"""The record of a run: what was asked for, the plan of faults, and what came of it; enough to go on after a crash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiokafka import TopicPartition

from models.days.plan import FaultPlan
from models.errors import CorruptFrame, RunConflict
from models.market.frame import decode_header
from streams.days.day import Day
from streams.days.feed import Selection
from streams.kafka.clients import start_consumer, stop_client
from streams.settings import Settings
from streams.topics import FRAMES

_POLL_MS = 200


class RunDay(msgspec.Struct, frozen=True):
    """A day by its folder; `sha256` is its manifest's."""

    path: str
    name: str
    sha256: str


class FaultDone(msgspec.Struct, frozen=True):
    """What fault `number` (from 1) of the plan did."""

    number: int
    fault: str
    events: int
    rows: int


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`. Only `state`, `report` and `faults` change after a run began.

    Attributes:
        starts: partition -> offset at which the run's first frame could be.
        state: `running` also after a crash.
        rounds: None = without end.
    """

    run_id: str
    prefix: str
    live: bool
    days: tuple[RunDay, ...]
    starts: dict[int, int]
    speed: float | None = None
    rate: float | None = None
    rounds: int | None = 1
    start_ns: int | None = None
    stop_ns: int | None = None
    instruments: tuple[str, ...] = ()
    venues: tuple[str, ...] = ()
    plan: FaultPlan | None = None
    state: Literal["running", "stopped", "done"] = "running"
    faults: tuple[FaultDone, ...] = ()
    report: dict[str, Any] | None = None
    tool: str = msgspec.field(default_factory=lambda: f"marketprism {version('marketprism')}")

    @property
    def selection(self) -> Selection:
        return Selection(self.start_ns, self.stop_ns, self.instruments, self.venues)

    def open_days(self) -> list[Day]:
        """Raises: CorruptDay when one cannot be read; RunConflict when it is not the one that was replayed."""
        days = [Day.open(entry.path) for entry in self.days]
        for entry, day in zip(self.days, days, strict=True):
            if day.manifest.sha256 != entry.sha256:
                raise RunConflict(f"{entry.path} is not the day that run {self.run_id} began with: start a new run")
        return days

    def write(self, path: Path) -> None:
        """Replace the file at once, durably; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part-{os.getpid()}")
        with temporary.open("wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)


def run_days_of(days: Sequence[Day]) -> tuple[RunDay, ...]:
    return tuple(RunDay(str(day.path.resolve()), day.name, day.manifest.sha256) for day in days)


def read_run(path: Path) -> RunRecord:
    """Raises: RunConflict when there is no record of a run."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RunConflict(f"{path}: no record of a run ({exc}); runs are kept in <services.state_dir>/runs") from exc


async def held_positions(settings: Settings, source: int, starts: dict[int, int] | None) -> dict[int, int]:
    """How far a source's rows are in the log: partition -> its last position there, partitions without any left out.

    Args:
        source: its hash.
        starts: partition -> offset from which on to look; None = only this source writes to the topic, so its last
            record tells.

    Raises:
        ServiceUnavailable: no broker, or no topic.
    """
    topic, numbers = settings.topics.prefix + FRAMES, range(settings.kafka.partitions)
    consumer = await start_consumer(settings.kafka, topic, numbers)
    found: dict[int, int] = {}
    try:
        parts = [TopicPartition(topic, number) for number in numbers]
        ends, begins = await consumer.end_offsets(parts), await consumer.beginning_offsets(parts)
        for tp in parts:
            at = ends[tp] - 1 if starts is None else starts[tp.partition]
            consumer.seek(tp, max(at, begins[tp]))
        while waiting := [tp for tp in parts if await consumer.position(tp) < ends[tp]]:
            for tp, records in (await consumer.getmany(*waiting, timeout_ms=_POLL_MS)).items():
                for record in records:
                    try:
                        header = decode_header(record.value or b"")
                    except CorruptFrame:
                        continue
                    if header.source == source:
                        found[tp.partition] = max(found.get(tp.partition, 0), header.last_position)
    finally:
        await stop_client(consumer)
    return found
