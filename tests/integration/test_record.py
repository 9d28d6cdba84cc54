"""Recording a run gives the day that was replayed, also when the recorder is killed, and when days rotate."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from agents.cli.main import cli
from models.days.plan import FaultCode, FaultPlan
from models.market.tick import TICK, TickArray
from streams.days.day import Day
from streams.days.feed import DayFeed
from streams.days.manifest import Recording
from streams.days.record import Recorder, Rotation
from streams.days.replay import Pause, Replay
from streams.days.verify import verify_day
from streams.kafka.clients import start_producer, stop_client
from streams.settings import Settings, environment_of
from streams.topics import FRAMES
from tests.conftest import WaitUntil
from tests.runs import all_rows, controls_in, frames_of
from tests.workers import GOLDEN, sample_day

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
FIELDS = ["ts_recv", "ts_event", "venue_seq", "price", "size", "ref_id", "kind", "action", "side", "flags"]


async def recorded(run: Settings, out: Path, **options: Any) -> Recorder:
    """Record all that is in a run's log now."""
    recorder = Recorder(run, out, start="earliest", until_end=True, **options)
    await recorder.run()
    return recorder


def rows_of(*days: Day) -> TickArray:
    return np.concatenate([ticks for day in days for ticks in day.batches()])


def names_in(folder: Path, *, hidden: bool = True) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if hidden or not path.name.startswith("."))


def recording_of(day: Day) -> Recording:
    recording = day.manifest.origin.recording
    assert recording is not None
    return recording


async def test_a_recorded_run_is_the_day_that_was_replayed(settings: Settings, tmp_path: Path) -> None:
    replay = Replay([sample_day()], settings)
    await replay.run()
    (day,) = (await recorded(replay.settings, tmp_path / "day")).report.days
    assert verify_day(day.path).problems == []
    assert day.manifest.checkpoints
    assert DayFeed([day]).digest() == GOLDEN["digest"]
    before, after = rows_of(sample_day()), rows_of(day)
    assert np.array_equal(before[FIELDS], after[FIELDS])
    texts = [[i.text for i in of.instruments] for of in (sample_day(), day)]
    assert [texts[0][i] for i in before["instrument_id"]] == [texts[1][i] for i in after["instrument_id"]]
    assert names_in(tmp_path) == ["day"]
    held = recording_of(day)
    assert (held.rows_repeated, held.rows_unknown, held.gaps, held.missing) == (0, 0, 0, 0)
    # nothing new: no further day
    assert (await recorded(replay.settings, tmp_path / "day")).report.days == []
    assert names_in(tmp_path, hidden=False) == ["day"]


@asynccontextmanager
async def recording(run: Settings, out: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`marketprism day record` as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agents.cli.main", "day", "record", "--out", str(out), "--from", "earliest", "--json",
        env=environment_of(run), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_what_kill_9_cut_is_closed_and_verified_at_the_next_start_and_nothing_is_lost_or_twice(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    day = sample_day()
    gates = [asyncio.Event(), asyncio.Event()]
    waiting = iter(gates)

    async def hold(_: Pause) -> None:
        """A third of the day for each recorder, however slow it is."""
        await next(waiting).wait()

    thirds = [day.rows // 3, 2 * day.rows // 3]
    replay = Replay([day], settings, speed=300, lateness_bound_ms=1e9, pause_at=thirds, on_pause=hold)
    run, out = replay.settings, tmp_path / "live"
    going = asyncio.create_task(replay.run())
    spool = tmp_path / ".live.recording" / "frames.bin"
    sizes = []
    try:
        async with recording(run, out) as first:
            await wait_until(lambda: spool.exists() and spool.stat().st_size > 200_000, DEADLINE_S, "frames on disk")
            first.send_signal(signal.SIGKILL)
            await first.wait()
            sizes.append(spool.stat().st_size)
        assert not out.exists()
        gates[0].set()
        with spool.open("ab") as stream:
            stream.write(spool.read_bytes()[:70])  # as if the last record had been cut
        async with recording(run, out) as second:
            await wait_until(out.exists, DEADLINE_S, "the day that was cut")
            next_spool = tmp_path / ".live.2.recording" / "frames.bin"
            await wait_until(
                lambda: next_spool.exists() and next_spool.stat().st_size > 100_000, DEADLINE_S, "more frames on disk"
            )
            second.send_signal(signal.SIGTERM)
            answer = json.loads((await second.communicate())[0].splitlines()[-1])
        assert second.returncode == 0
    finally:
        for gate in gates:
            gate.set()
        report = await going
    assert answer["closed_after_crash"] == 1 and len(answer["days"]) == 2
    assert (await recorded(run, out)).report.days  # the rest
    days = [Day.open(out), *(Day.open(tmp_path / f"live.{n}") for n in (2, 3))]
    assert [verify_day(day.path).problems for day in days] == [[], [], []]
    assert sum(day.rows for day in days) == report.rows
    found = rows_of(*days)
    whole = rows_of(sample_day())
    order = np.lexsort((found["price"], found["venue_seq"], found["ts_event"], found["ts_recv"]))
    wanted = np.lexsort((whole["price"], whole["venue_seq"], whole["ts_event"], whole["ts_recv"]))
    assert np.array_equal(found[order][FIELDS[:4]], whole[wanted][FIELDS[:4]])
    for one, next_ in pairwise(days):
        assert {p: end for p, (_, end) in recording_of(one).offsets.items()} == {
            p: begin for p, (begin, _) in recording_of(next_).offsets.items()
        }


async def test_full_days_rotate_and_only_the_newest_are_kept(settings: Settings, tmp_path: Path) -> None:
    small = replace(settings, publisher=replace(settings.publisher, frame_ticks=256))
    replay = Replay([sample_day()], small)
    report = await replay.run()
    n_bytes = sum(len(f.ticks) for part in await frames_of(replay.settings) for f in part) * 10
    rotation = Rotation(max_bytes=n_bytes // 4)
    whole = await recorded(replay.settings, tmp_path / "all" / "day", rotation=rotation)
    days = whole.report.days
    assert len(days) >= 3 and sum(day.rows for day in days) == report.rows
    assert DayFeed(days).rows == report.rows
    kept = await recorded(replay.settings, tmp_path / "some" / "day", rotation=rotation, keep=2)
    assert [path.name for path in kept.report.deleted] == [day.path.name for day in kept.report.days[:-2]]
    assert names_in(tmp_path / "some", hidden=False) == sorted(day.path.name for day in kept.report.days[-2:])
    # a recorder that starts again goes on behind the newest day, though the first are gone
    assert (await recorded(replay.settings, tmp_path / "some" / "day")).report.days == []


async def test_a_crash_between_a_day_and_the_end_of_its_spool_repeats_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = Replay([sample_day()], settings, with_digest=False)
    await replay.run()

    class Killed(BaseException):
        pass

    real = shutil.rmtree

    def die(path: Path, **options: Any) -> None:
        if Path(path).suffix == ".recording":
            raise Killed
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr("streams.days.record.shutil.rmtree", die)
        with pytest.raises(Killed):
            await recorded(replay.settings, tmp_path / "day")
    assert (tmp_path / "day").exists() and (tmp_path / ".day.recording").exists()
    again = await recorded(replay.settings, tmp_path / "day")
    assert again.report.days == [] and not (tmp_path / ".day.recording").exists()
    assert DayFeed([Day.open(tmp_path / "day")]).digest() == GOLDEN["digest"]


async def test_what_faults_lost_or_repeated_is_counted_and_not_recorded_twice(
    settings: Settings, tmp_path: Path
) -> None:
    faults = [{"fault": "drop", "share": 0.002}, {"fault": "duplicate", "share": 0.002}]
    replay = Replay([sample_day()], settings, faults=msgspec.convert({"seed": 5, "faults": faults}, FaultPlan))
    report = await replay.run()
    (day,) = (await recorded(replay.settings, tmp_path / "day")).report.days
    held = recording_of(day)
    assert (day.rows, held.rows_repeated) == (report.rows, report.rows_repeated)
    # the frame that ends a run shows a hole too, where the last rows of a partition were lost
    assert held.gaps == report.gaps
    assert DayFeed([day]).digest() == report.digest
    assert len(all_rows(await frames_of(replay.settings), sample_day().instruments)) == day.rows + held.rows_repeated


async def test_a_recorded_run_keeps_what_control_rows_told_of_its_faults(settings: Settings, tmp_path: Path) -> None:
    faults = [
        {"fault": "drop", "share": 0.002},
        {"fault": "duplicate", "share": 0.003},
        {"fault": "reorder", "share": 0.003, "within_ms": 50},
        {"fault": "clock_skew", "clock": "receiver", "skew_ms": -5, "venues": ["okx"], "from_s": 100, "to_s": 200},
    ]
    replay = Replay([sample_day()], settings, faults=msgspec.convert({"seed": 5, "faults": faults}, FaultPlan))
    await replay.run()
    (day,) = (await recorded(replay.settings, tmp_path / "day")).report.days
    assert verify_day(day.path).problems == []
    found = np.concatenate(list(day.controls()))
    frames = await frames_of(replay.settings)
    sent = np.concatenate([controls_in(part) for part in frames])
    sent = sent[np.argsort(sent["seq"], kind="stable")]
    fields = [name for name in TICK.names or () if name != "seq"]
    assert np.array_equal(found[fields], sent[fields])
    log = all_rows(frames, sample_day().instruments)
    positions, first_of = np.unique(log["seq"], return_index=True)
    assert np.array_equal(found["seq"], np.searchsorted(positions, sent["seq"]))
    # a repeated or reordered event is its instrument's next one behind the control row
    rows, hashes = rows_of(day), np.array([i.hash for i in day.instruments], np.uint64).view(np.int64)
    for note in found[np.isin(found["side"], (FaultCode.DUPLICATE, FaultCode.REORDER)) & (found["action"] == 1)]:
        (instrument,) = np.flatnonzero(hashes == note["ref_id"])
        first = note["seq"] + np.argmax(rows["instrument_id"][int(note["seq"]) :] == instrument)
        assert positions[int(first)] == note["price"]
    # and their own times moved nobody's: the receiver's clock steps back once, at the window's begin
    assert np.array_equal(rows["ts_recv"], np.maximum.accumulate(log["ts_recv"][first_of]))
    assert list(sample_day().controls()) == []


async def test_a_record_that_is_no_frame_is_passed_over_once(settings: Settings, tmp_path: Path) -> None:
    replay = Replay([sample_day()], settings, with_digest=False)
    await replay.run()
    producer = await start_producer(settings.kafka)
    try:
        await producer.send_and_wait(replay.settings.topics.prefix + FRAMES, b"no frame", partition=0)
    finally:
        await stop_client(producer)
    report = (await recorded(replay.settings, tmp_path / "day")).report
    (day,) = report.days
    assert (report.corrupt, recording_of(day).frames_corrupt, recording_of(day).missing) == (1, 1, 0)
    assert DayFeed([day]).digest() == GOLDEN["digest"]
    assert (await recorded(replay.settings, tmp_path / "day")).report.frames == 0


async def test_several_sources_are_merged_by_time_of_receipt(settings: Settings, tmp_path: Path) -> None:
    run = Replay([sample_day()], settings, run_id="one").settings
    for name in ("one", "two"):
        live = replace(settings, topics=replace(settings.topics, prefix=run.topics.prefix))
        if name == "one":
            await Replay([sample_day()], settings, run_id="one", with_digest=False).run()
        else:
            await Replay([sample_day()], live, run_id="two", live=True, with_digest=False).run()
    (day,) = (await recorded(run, tmp_path / "day")).report.days
    assert day.rows == 2 * GOLDEN["rows"]
    assert verify_day(day.path).problems == []
    assert (np.diff(rows_of(day)["ts_recv"]) >= 0).all()


def test_a_folder_that_no_recorder_made_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "day"
    shutil.copytree(sample_day().path, out)
    outcome = CliRunner().invoke(cli, ["day", "record", "--out", str(out)], env=environment_of(settings))
    assert outcome.exit_code == 1 and "choose another place" in str(outcome.exception)
    assert verify_day(out).ok
