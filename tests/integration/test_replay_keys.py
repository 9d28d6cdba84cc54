"""A running `marketprism replay` steered as people steer it: keys of a real terminal, and signals."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from streams.days.run_record import read_run
from streams.kafka.admin import describe_topics
from streams.settings import Settings, environment_of
from streams.topics import FRAMES
from tests.conftest import ROOT, WaitUntil
from tests.runs import all_rows, folded, frames_of
from tests.terminal import Terminal, in_terminal
from tests.workers import REPLAY_DATA, sample_day

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
REPLAY = [sys.executable, "-m", "agents.cli.main", "replay"]
SAMPLE = str(REPLAY_DATA / "sample-day")
CTRL_C = "\x03"
ERASED = "\x1b[2K"


class Seat:
    """Somebody at a terminal in which a run of the sample is going on."""

    def __init__(self, terminal: Terminal, run: Settings, wait_until: WaitUntil) -> None:
        self.terminal, self._run, self._wait = terminal, run, wait_until
        self._n_pauses = 0

    async def rows(self) -> int:
        """Market rows of the run that are in Kafka."""
        if not await describe_topics(self._run, [self._run.topics.prefix + FRAMES]):
            return 0
        return len(all_rows(await frames_of(self._run), sample_day().instruments))

    async def more_than(self, rows: int) -> None:
        async def there() -> bool:
            return await self.rows() > rows

        await self._wait(there, DEADLINE_S, f"row {rows + 1}; the terminal shows {self.terminal.text[-2000:]!r}")

    async def paused(self) -> int:
        """Wait for a pause that was not seen yet; after which row it is: no more are in Kafka, and no fewer."""
        self._n_pauses += 1
        await self.shown(lambda: len(self._pauses()) == self._n_pauses, "pause")
        at = self._pauses()[-1]
        assert await self.rows() == at
        before, _, after = self.terminal.text.rpartition("paused at ")
        assert before.endswith(("\n", ERASED)) and ERASED not in after  # nothing is drawn over what is asked
        return at

    async def shown(self, condition: Callable[[], bool], what: str) -> None:
        await self._wait(condition, DEADLINE_S, f"{what}; the terminal shows {self.terminal.text[-2000:]!r}")

    async def ended(self) -> int:
        return await asyncio.wait_for(self.terminal.process.wait(), DEADLINE_S)

    def pause_signal(self) -> None:
        self.terminal.process.send_signal(signal.SIGUSR1)

    def _pauses(self) -> list[int]:
        return [int(at) for at in re.findall(r"paused at ([0-9]+): Enter", self.terminal.text)]


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    return environment_of(settings) | {"MARKETPRISM_SERVICES__STATE_DIR": str(tmp_path), "TERM": "xterm"}


@pytest.fixture
def run(settings: Settings) -> Settings:
    return replace(settings, topics=replace(settings.topics, prefix=f"{settings.topics.prefix}run.keys."))


async def test_a_run_pauses_steps_goes_on_and_ends_by_keys(
    run: Settings, environment: dict[str, str], wait_until: WaitUntil
) -> None:
    command = [*REPLAY, SAMPLE, "--speed", "30", "--run-id", "keys", "--pause-at", "800"]
    async with in_terminal(command, environment, ROOT) as terminal:
        seat = Seat(terminal, run, wait_until)
        first = await seat.paused()
        assert 800 <= first < 830  # to the end of an event
        terminal.press("300\n")
        second = await seat.paused()
        assert 300 <= second - first < 330
        terminal.press("soon\n")
        await seat.shown(lambda: "'soon' is neither a number above 0 nor q" in terminal.text, "refusal")
        assert await seat.rows() == second
        terminal.press("\n")
        await seat.more_than(second)
        seat.pause_signal()
        third = await seat.paused()
        assert third > second
        terminal.press("q\n")
        assert await seat.ended() == 130
        assert "go on with `marketprism replay --resume keys`" in terminal.text
        assert await seat.rows() == third


async def test_signals_pause_and_resume_a_run_and_ctrl_c_ends_it_in_order(
    run: Settings, environment: dict[str, str], wait_until: WaitUntil, tmp_path: Path
) -> None:
    command = [*REPLAY, SAMPLE, "--speed", "20", "--to", "2025-10-09T08:55:20", "--run-id", "keys"]
    async with in_terminal(command, environment, ROOT) as terminal:
        seat = Seat(terminal, run, wait_until)
        await seat.more_than(0)
        await seat.shown(lambda: re.search(r"Replaying.* rows .*/s  lag .* ms  [0-9:]+ to go", terminal.text), "bar")
        seat.pause_signal()
        paused_at = await seat.paused()
        seat.pause_signal()
        await seat.more_than(paused_at)
        terminal.press(CTRL_C)
        assert await seat.ended() == 130
        before = await seat.rows()
        assert before > paused_at and read_run(tmp_path / "runs" / "keys.json").state == "stopped"
    async with in_terminal([*REPLAY, "--resume", "keys", "--max-lateness", "60000"], environment, ROOT) as terminal:
        assert await Seat(terminal, run, wait_until).ended() == 0
    found = all_rows(await frames_of(run), sample_day().instruments)
    record = read_run(tmp_path / "runs" / "keys.json")
    assert record.report is not None and record.report["rows"] == len(found) - before
    assert record.report["digest"] == folded(found, sample_day().instruments)


async def test_a_signal_ends_a_run_while_it_pauses(
    run: Settings, environment: dict[str, str], wait_until: WaitUntil, tmp_path: Path
) -> None:
    command = [*REPLAY, SAMPLE, "--speed", "0.001", "--run-id", "keys", "--pause-at", "1"]
    async with in_terminal(command, environment, ROOT) as terminal:
        seat = Seat(terminal, run, wait_until)
        await seat.paused()
        terminal.process.send_signal(signal.SIGTERM)
        assert await seat.ended() == 130
    assert read_run(tmp_path / "runs" / "keys.json").state == "stopped"
