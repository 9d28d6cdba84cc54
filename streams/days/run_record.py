"""The record of a run: what was asked for, the plan of faults, and what came of it; enough to go on after a crash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec

from models.days.plan import FaultPlan
from models.errors import RunConflict
from streams.days.day import Day
from streams.days.feed import Selection
from streams.days.report import FaultDone, ReplayReport


class RunDay(msgspec.Struct, frozen=True):
    """A day by its folder; `sha256` is its manifest's."""

    path: str
    name: str
    sha256: str


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

    @classmethod
    def of(cls, days: Sequence[Day], selection: Selection, **options: Any) -> RunRecord:
        """Of a run that begins; `options` are the other fields."""
        return cls(
            days=tuple(RunDay(str(day.path.resolve()), day.name, day.manifest.sha256) for day in days),
            start_ns=selection.start_ns,
            stop_ns=selection.stop_ns,
            instruments=selection.instruments,
            venues=selection.venues,
            **options,
        )

    def ended(self, report: ReplayReport) -> RunRecord:
        """With what came of it."""
        done = tuple(msgspec.convert(report.faults, list[FaultDone]))
        return msgspec.structs.replace(self, state=report.state, faults=done, report=asdict(report))

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


def read_run(path: Path) -> RunRecord:
    """Raises: RunConflict when there is no record of a run."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunRecord)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RunConflict(f"{path}: no record of a run ({exc}); runs are kept in <services.state_dir>/runs") from exc
