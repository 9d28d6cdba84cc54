"""Proof that a day's files are what its manifest says; every difference is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from models.errors import CorruptDay
from models.market.tick import Flag, Kind, TickArray
from streams.days.checkpoints import false_checkpoints
from streams.days.day import Day
from streams.days.manifest import MANIFEST, TICKS, Manifest, file_entry

Progress = Callable[[int, int], None]  # rows done, in all


class Verification(msgspec.Struct, frozen=True):
    """`rows` were read well; `problems` name file, place and difference."""

    ok: bool
    rows: int
    problems: list[str]


def verify_day(path: str | Path, progress: Progress | None = None) -> Verification:
    """Check a day's manifest, checksums, counts, ranges, order and checkpoints. Reads everything two or three times."""
    try:
        day = Day.open(path)
    except CorruptDay as exc:
        return Verification(False, 0, [str(exc)])
    problems = _check_files(day)
    survey = _Survey(day.manifest)
    try:
        for ticks in day.raw_batches():
            survey.add(ticks)
            if progress:
                progress(survey.rows, day.rows)
    except CorruptDay as exc:
        problems.append(f"{exc} (after row {survey.rows})")
    else:
        survey.finish()
    problems += survey.problems
    if not problems:
        problems += false_checkpoints(day.path, day.manifest, day.batches())
    return Verification(not problems, survey.rows, problems)


def _check_files(day: Day) -> list[str]:
    manifest, problems = day.manifest, []
    if manifest.checksum() != manifest.sha256:
        problems.append(f"{MANIFEST}: its own checksum does not match: a value was changed")
    elif (day.path / MANIFEST).read_bytes() != manifest.encode():
        problems.append(f"{MANIFEST}: the values are right, but the file was written anew by something else")
    names = [entry.name for entry in manifest.files]
    if names.count(TICKS) != 1:
        problems.append(f"{MANIFEST}: it lists {names}, not one {TICKS}")
    for entry in manifest.files:
        path = day.path / entry.name
        if Path(entry.name).name != entry.name:
            problems.append(f"{MANIFEST}: file {entry.name!r} is not inside the day")
        elif not path.is_file():
            problems.append(f"{entry.name}: missing")
        elif (found := file_entry(path)) != entry:
            if found.bytes != entry.bytes:
                problems.append(f"{entry.name}: {found.bytes} bytes, the manifest says {entry.bytes}")
            problems.append(f"{entry.name}: SHA-256 {found.sha256}, the manifest says {entry.sha256}")
    return problems


class _Survey:
    """Counts over the rows, compared with the manifest at the end. Each disorder is named once, where it begins."""

    def __init__(self, manifest: Manifest) -> None:
        self.problems: list[str] = []
        self.rows = 0
        self._manifest = manifest
        self._named: set[str] = set()
        self._recv = self._event = (2**63 - 1, -(2**63))
        self._last_recv = -(2**63)
        self._open_event = False
        self._per_instrument = np.zeros(len(manifest.instruments), np.int64)
        self._per_kind = np.zeros(256, np.int64)

    def add(self, ticks: TickArray) -> None:
        if not len(ticks):
            return
        recv, event, ids = ticks["ts_recv"], ticks["ts_event"], ticks["instrument_id"]
        row = np.arange(self.rows + 1, self.rows + len(ticks) + 1, dtype=np.uint64)
        self._name("seq is not dense 1..N", ticks["seq"] != row)
        self._name("ts_recv goes back", np.diff(recv, prepend=self._last_recv if self.rows else recv[0]) < 0)
        known = (ids >= 0) & (ids < len(self._per_instrument))
        control = (ids == -1) & (ticks["kind"] == Kind.CONTROL)
        self._name("instrument_id is not in the manifest", ~known & ~control)
        self._name("kind is unknown", ~np.isin(ticks["kind"], [int(kind) for kind in Kind]))
        self._per_instrument += np.bincount(ids[known], minlength=len(self._per_instrument))
        self._per_kind += np.bincount(ticks["kind"], minlength=256)
        self._recv = min(self._recv[0], int(recv.min())), max(self._recv[1], int(recv.max()))
        self._event = min(self._event[0], int(event.min())), max(self._event[1], int(event.max()))
        self._last_recv = int(recv[-1])
        self._open_event = not ticks["flags"][-1] & Flag.LAST
        self.rows += len(ticks)

    def _name(self, what: str, wrong: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        if what not in self._named and wrong.any():
            self._named.add(what)
            self.problems.append(f"{TICKS}: {what} (first at row {self.rows + int(np.argmax(wrong)) + 1})")

    def finish(self) -> None:
        manifest = self._manifest
        if self._open_event:
            self.problems.append(f"{TICKS}: the last event has no row with flag LAST")
        self._compare("rows", self.rows, manifest.rows)
        if self.rows:
            self._compare("ts_recv", self._recv, (manifest.ts_recv_min, manifest.ts_recv_max))
            self._compare("ts_event", self._event, (manifest.ts_event_min, manifest.ts_event_max))
        kinds = {kind.name.lower(): int(self._per_kind[kind]) for kind in Kind if self._per_kind[kind]}
        self._compare("rows by kind", kinds, manifest.kinds)
        for index, (entry, rows) in enumerate(zip(manifest.instruments, self._per_instrument.tolist(), strict=True)):
            self._compare(f"rows of {entry.text}", rows, entry.rows)
            if entry.id != index or entry.text != entry.instrument.text:
                self.problems.append(f"{MANIFEST}: instrument {index} is {entry.text}, id {entry.id}")

    def _compare(self, what: str, found: object, said: object) -> None:
        if found != said:
            self.problems.append(f"{TICKS}: {what} {found}, the manifest says {said}")
