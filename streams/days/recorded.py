"""Where a recording's days and spools lie, and where it goes on."""

from __future__ import annotations

import re
from pathlib import Path

from streams.days.day import Day
from streams.days.manifest import Recording
from streams.days.spool import SpoolHead


class RecordedDays:
    """Day 1 is the folder `out` itself, day n is `<out>.<n>`; a spool is `.<name of its day>.recording` beside it."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def path(self, number: int) -> Path:
        return self.out if number == 1 else self.out.with_name(f"{self.out.name}.{number}")

    def spool(self, number: int) -> Path:
        path = self.path(number)
        return path.with_name(f".{path.name}.recording")

    def days(self) -> dict[int, Recording]:
        """What each finished day was recorded from, by number.

        Raises:
            CorruptDay: one has no readable manifest.
            FileExistsError: one was not made by a recorder.
        """
        found = {}
        for number in self._numbers(rf"{re.escape(self.out.name)}(\.([0-9]+))?"):
            recording = Day.open(self.path(number)).manifest.origin.recording
            if recording is None:
                raise FileExistsError(
                    f"{self.path(number)} is there already and was not recorded: choose another place"
                )
            found[number] = recording
        return found

    def spools(self) -> list[int]:
        """Numbers of the spools that are there, rising."""
        return self._numbers(rf"\.{re.escape(self.out.name)}(\.([0-9]+))?\.recording")

    def newest(self) -> int:
        """Highest number of a day or a spool, 0 = nothing is here."""
        return max([*self.days(), *self.spools()], default=0)

    def last_head(self) -> tuple[int, SpoolHead] | None:
        """Number and begin of the day that follows the newest finished one; None = there is none."""
        days = self.days()
        if not days:
            return None
        last = days[max(days)]
        offsets = {partition: end for partition, (_, end) in last.offsets.items()}
        return max(days) + 1, SpoolHead(last.topic, last.topic_id, offsets, last.positions)

    def _numbers(self, pattern: str) -> list[int]:
        if not self.out.parent.is_dir():
            return []
        matches = (re.fullmatch(pattern, path.name) for path in self.out.parent.iterdir() if path.is_dir())
        return sorted(int(match[2] or 1) for match in matches if match)
