"""Parts of days, even rates, rounds, pauses at any time, and runs that go on after they were stopped or killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from agents.cli.main import cli
from models.days.plan import FaultPlan
from models.errors import NothingSelected, RunConflict
from models.market.fold import OfflineFold
from models.market.instruments import instrument_hash
from models.market.tick import Action, Flag, Kind, TickArray
from streams.clock import SettableClock
from streams.days.day import Day
from streams.days.feed import DayFeed, Selection
from streams.days.manifest import Origin
from streams.days.progress import Progress
from streams.days.replay import Pause, Replay, replay_day
from streams.days.run_record import read_run
from streams.days.writer import DayWriter
from streams.kafka.admin import describe_topics, ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.offsets import last_offsets
from streams.settings import Settings, environment_of
from streams.topics import FRAMES
from tests.conftest import WaitUntil
from tests.runs import all_rows, controls_in, folded, frames_of, is_chained
from tests.topics import records
from tests.workers import GOLDEN, REPLAY_DATA, sample_day

pytestmark = pytest.mark.integration

S = 10**9
DEADLINE_S = 60.0
SAMPLE = str(REPLAY_DATA / "sample-day")


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """The sample day in small row groups, with a checkpoint each minute."""
    sample = sample_day()
    with DayWriter(
        tmp_path_factory.mktemp("day") / "day", name="sample", origin=Origin(), checkpoint_s=60, row_group=5_000
    ) as writer:
        for ticks in sample.batches():
            writer.append(ticks)
        return writer.finish(sample.instruments)


@pytest.fixture(scope="module")
def rows(day: Day) -> TickArray:
    return np.concatenate(list(day.batches()))


async def test_a_range_opens_with_what_stands_and_holds_the_rows_of_its_time(
    settings: Settings, day: Day, rows: TickArray
) -> None:
    start, stop = day.manifest.ts_recv_min + 412 * S, day.manifest.ts_recv_min + 700 * S
    replay = Replay([day], settings, selection=Selection(start, stop))
    report = await replay.run()
    frames = await frames_of(replay.settings)
    found = all_rows(frames, day.instruments)
    assert found["seq"].tolist() == list(range(2, len(found) + 2))
    ends = np.flatnonzero(rows["flags"] & Flag.LAST)
    received = np.repeat(rows["ts_recv"][ends], np.diff(ends, prepend=-1))
    inside = rows[(received >= start) & (received < stop)]
    fields = [name for name in rows.dtype.names or () if name != "seq"]
    assert np.array_equal(found[-len(inside) :][fields], inside[fields])
    opening = found[: -len(inside)]
    assert len(opening) and set(opening["ts_recv"].tolist()) == {start}
    assert report.rows == len(found) and report.digest == folded(found, day.instruments)
    # what a reader holds at the end is what it would hold had it heard the whole day up to there
    kept = np.isin(rows["kind"], [Kind.QUOTE, Kind.BOOK])
    book_and_quote = folded_books(rows[(received < stop) & kept], day)
    assert folded_books(found[np.isin(found["kind"], [Kind.QUOTE, Kind.BOOK])], day) == book_and_quote
    # the range's bounds stand in the control rows
    for part in frames:
        assert controls_in(part)["action"].tolist() == [Action.CLEAR, Action.DELETE]
        assert controls_in(part)["ts_recv"].tolist() == [start, stop - 1]


def folded_books(rows: TickArray, day: Day) -> dict[str, tuple[object, ...]]:
    fold = OfflineFold([instrument.text for instrument in day.instruments])
    fold.update(rows)
    return {f.text: (f.quote, f.bids.tolist(), f.asks.tolist()) for f in fold.finals()}


def test_seeking_reads_no_row_group_that_lies_before_the_checkpoint(day: Day, rows: TickArray) -> None:
    start = day.manifest.ts_recv_min + 800 * S
    wanted = list(DayFeed([day], Selection(start)).batches(1000))
    path = day.path / "ticks.parquet"
    data = path.read_bytes()
    first_groups = len(data) // 2
    path.write_bytes(data[:4] + bytes(first_groups - 4) + data[first_groups:])
    try:
        again = list(DayFeed([day], Selection(start)).batches(1000))
    finally:
        path.write_bytes(data)
    assert np.array_equal(np.concatenate(again), np.concatenate(wanted))


async def test_only_the_chosen_instruments_and_venues_are_sent(settings: Settings, day: Day, rows: TickArray) -> None:
    chosen = Selection(instruments=("binance.spot.BTC-USDT",), venues=("okx",))
    replay = Replay([day], settings, selection=chosen)
    report = await replay.run()
    texts = [i.text for i in replay.feed.instruments]
    assert texts == [i.text for i in day.instruments if i.venue == "okx" or i.text == "binance.spot.BTC-USDT"]
    found = all_rows(await frames_of(replay.settings), replay.feed.instruments)
    mine = np.isin(rows["instrument_id"], [day.instruments.index(i) for i in replay.feed.instruments])
    assert np.array_equal(found[["ts_event", "price", "size"]], rows[mine][["ts_event", "price", "size"]])
    assert report.rows == replay.feed.rows == int(mine.sum())
    for wrong in (Selection(instruments=("a.spot.B-C",)), Selection(venues=("kraken",)), Selection(stop_ns=5)):
        with pytest.raises(NothingSelected):
            Replay([day], settings, selection=wrong)


async def test_at_a_rate_rows_are_due_evenly(settings: Settings, day: Day) -> None:
    replay = Replay([day], settings, rate=200_000, with_digest=False, lateness_bound_ms=1e6)
    report = await replay.run()
    assert report.valid and report.seconds >= day.rows / 200_000
    starts = set()
    for part in await frames_of(replay.settings):
        for frame in part[1:-1]:
            starts.add(frame.header.due_ns - (frame.header.last_position - 2) * 5_000)
            assert frame.header.sent_ns >= frame.header.due_ns
    assert len(starts) == 1


async def test_each_round_starts_anew_at_the_positions_behind_the_last(
    settings: Settings, day: Day, rows: TickArray
) -> None:
    replay = Replay([day], settings, rounds=3)
    report = await replay.run()
    frames = await frames_of(replay.settings)
    assert (report.rows, report.rounds, report.digest) == (3 * day.rows, 3, GOLDEN["digest"])
    found = all_rows(frames, day.instruments)
    for number in range(3):
        part = found[number * day.rows : (number + 1) * day.rows]
        assert np.array_equal(part["seq"] - np.uint64(number * (day.rows + 2) + 1), rows["seq"])
        assert np.array_equal(part["ts_recv"], rows["ts_recv"])
    for chain in frames:
        assert is_chained(chain)
        assert controls_in(chain)["action"].tolist() == [Action.CLEAR, Action.DELETE] * 3


async def test_a_run_is_invalid_when_its_lateness_passes_the_bound(settings: Settings, day: Day) -> None:
    clock = SettableClock(1_760_000_000 * S)

    def slow() -> int:
        clock.advance(30_000_000)  # each look at the clock takes 30 ms
        return clock()

    report = await replay_day(day, settings, speed=1000, clock=slow, with_digest=False)
    assert not report.valid and report.lateness_p99_ms > report.lateness_bound_ms == 20
    assert (await replay_day(day, settings, speed=1000, clock=slow, with_digest=False, lateness_bound_ms=1e9)).valid


def test_the_command_fails_with_an_invalid_run_and_says_so(settings: Settings, tmp_path: Path) -> None:
    environment = environment_of(settings) | {"MARKETPRISM_SERVICES__STATE_DIR": str(tmp_path)}
    arguments = ["replay", SAMPLE, "--rate", "1000000", "--max-lateness", "0.000001", "--json", "--run-id", "late"]
    outcome = CliRunner().invoke(cli, arguments, env=environment)
    answer = json.loads(outcome.stdout.splitlines()[-1])
    assert answer["valid"] is False and answer["lateness_bound_ms"] == 0.000001
    assert outcome.exit_code == 1 and "the run is invalid" in str(outcome.exception)
    record = read_run(tmp_path / "runs" / "late.json")
    assert record.state == "done" and record.report is not None and record.report["valid"] is False


async def test_a_pause_can_come_at_any_time_and_steps_lead_from_pause_to_pause(settings: Settings, day: Day) -> None:
    pauses: list[Pause] = []

    def once(progress: Progress) -> None:
        if not pauses and progress.sent > 5_000:
            replay.pause()

    async def on_pause(pause: Pause) -> int | None:
        frames = await frames_of(replay.settings)
        assert len(all_rows(frames, day.instruments)) == pause.seq
        assert pause.offsets == {partition: len(part) - 1 for partition, part in enumerate(frames)}
        pauses.append(pause)
        return 300 if len(pauses) < 4 else None

    replay = Replay([day], settings, speed=300, on_pause=on_pause, progress=once)
    report = await replay.run()
    assert (report.rows, report.digest) == (day.rows, GOLDEN["digest"])
    steps = np.diff([pause.seq for pause in pauses])
    assert len(pauses) == 4 and (steps >= 300).all() and (steps < 330).all()  # to the end of an event


@pytest.mark.parametrize("live", [False, True])
async def test_a_run_that_was_stopped_goes_on_where_its_log_ends(
    settings: Settings, day: Day, rows: TickArray, tmp_path: Path, live: bool
) -> None:
    if live:
        await ensure_topics(settings)
        await replay_day(day, settings, live=True, with_digest=False)  # somebody else's rows are there already

    def stop(progress: Progress) -> None:
        if progress.sent > 20_000:
            first.stop()

    options = {"run_id": "twice", "record": tmp_path / "run.json", "live": live}
    first = Replay([day], settings, speed=300, progress=stop, **options)  # type: ignore[arg-type]
    stopped = await first.run()
    assert stopped.state == "stopped" and stopped.digest is None and stopped.rows < day.rows
    record = read_run(tmp_path / "run.json")
    assert record.state == "stopped"
    second = Replay(record.open_days(), settings, resume=record, **options)  # type: ignore[arg-type]
    report = await second.run()
    assert (report.rows, report.digest) == (day.rows - stopped.rows, GOLDEN["digest"])
    mine = [[f for f in part if f.header.source == source_of(second)] for part in await frames_of(second.settings)]
    found = all_rows(mine, day.instruments)
    found["seq"] -= np.uint64(1)
    assert np.array_equal(found, rows)
    assert all(is_chained(part) for part in mine)
    assert read_run(tmp_path / "run.json").state == "done"


def source_of(replay: Replay) -> int:
    return instrument_hash(replay.source)


@pytest.mark.parametrize("plan", [None, '{"seed": 4, "faults": [{"fault": "drop", "share": 0.002}]}'])
async def test_a_killed_replay_is_continued_and_nothing_is_lost_or_twice(
    settings: Settings, rows: TickArray, tmp_path: Path, wait_until: WaitUntil, plan: str | None
) -> None:
    environment = environment_of(settings) | {"MARKETPRISM_SERVICES__STATE_DIR": str(tmp_path)}
    more = []
    if plan is not None:
        (tmp_path / "plan.json").write_text(plan)
        more = ["--faults", str(tmp_path / "plan.json")]
    run = replace(settings, topics=replace(settings.topics, prefix=f"{settings.topics.prefix}run.killed."))

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agents.cli.main", "replay", *arguments, "--json", "--max-lateness", "60000",
            env=environment, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    first = await start(SAMPLE, "--speed", "200", "--run-id", "killed", *more)

    async def under_way() -> bool:
        there = await describe_topics(run, [run.topics.prefix + FRAMES])
        return bool(there) and sum((await last_offsets(run)).values()) > 100

    try:
        await wait_until(under_way, DEADLINE_S, "frames of the run")
    finally:
        first.send_signal(signal.SIGKILL)
        await first.communicate()
    before = await frames_of(run)
    assert read_run(tmp_path / "runs" / "killed.json").state == "running"

    second = await start("--resume", "killed")
    out, _ = await second.communicate()
    answer = json.loads(out.splitlines()[-1])
    assert second.returncode == 0
    frames = await frames_of(run)
    for old, new in zip(before, frames, strict=True):
        assert [frame.header for frame in old] == [frame.header for frame in new[: len(old)]]
    found = all_rows(frames, sample_day().instruments)
    assert len(found) == len(np.unique(found["seq"]))
    assert answer["digest"] == folded(found, sample_day().instruments)
    fields = ["ts_recv", "ts_event", "price", "size", "instrument_id"]
    if plan is None:
        assert np.array_equal(found[fields], rows[fields])
        assert all(is_chained(part) for part in frames)
    else:
        lost = answer["faults"][0]["rows"]
        assert lost and len(found) == len(rows) - lost
    third = await start("--resume", "killed")
    await third.communicate()
    assert third.returncode == 1


async def test_a_run_of_other_days_is_not_continued(settings: Settings, day: Day, tmp_path: Path) -> None:
    await Replay([day], settings, record=tmp_path / "run.json", with_digest=False).run()
    record = read_run(tmp_path / "run.json")
    manifest = day.path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"name": "sample"', '"name": "simple"').replace(day.manifest.sha256, "0" * 64))
    try:
        with pytest.raises(RunConflict, match="start a new run"):
            record.open_days()
    finally:
        manifest.write_text(text)
    with pytest.raises(RunConflict, match="no record"):
        read_run(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--loop", "--rounds", "2"], "--rounds"),
        (["--from", "yesterday"], "--from"),
        (["--rate", "0"], "--rate"),
        (["--resume", "x"], "--resume"),
        (["--rate", "5", "--speed", "2"], "--speed"),
        (["--run-id", "a/b"], "--run-id"),
    ],
)
def test_senseless_options_are_wrong_use(arguments: list[str], named: str) -> None:
    outcome = CliRunner().invoke(cli, ["replay", SAMPLE, *arguments])
    assert outcome.exit_code == 2 and named in outcome.stderr


def test_a_run_that_goes_on_keeps_its_options() -> None:
    outcome = CliRunner().invoke(cli, ["replay", "--resume", "x", "--from", "14:30", "--live"])
    assert outcome.exit_code == 2 and "--live, --from" in outcome.stderr


async def test_a_run_that_goes_on_reads_no_rows_that_the_log_has(
    settings: Settings, day: Day, rows: TickArray, tmp_path: Path
) -> None:
    rounds, newest = [0], [0]

    def stop_in_the_second(progress: Progress) -> None:
        rounds[0] += progress.sent < newest[0]
        newest[0] = progress.sent
        if rounds[0] == 1 and progress.sent > 35_000:
            first.stop()

    options = {"run_id": "far", "record": tmp_path / "run.json", "rounds": 2, "with_digest": False}
    first = Replay([day], settings, speed=1000, progress=stop_in_the_second, **options)  # type: ignore[arg-type]
    stopped = await first.run()
    assert (stopped.state, stopped.rounds) == ("stopped", 1)
    record, path = read_run(tmp_path / "run.json"), day.path / "ticks.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 2) + data[len(data) // 2 + 4 :])
    try:
        second = Replay(record.open_days(), settings, resume=record, **options)  # type: ignore[arg-type]
        report = await second.run()
    finally:
        path.write_bytes(data)
    assert (report.state, report.rounds) == ("done", 2)
    assert stopped.rows + report.rows == 2 * day.rows
    frames = await frames_of(second.settings)
    found = all_rows(frames, day.instruments)
    assert np.array_equal(found["ts_event"], np.concatenate([rows, rows])["ts_event"])
    assert all(is_chained(part) for part in frames)
    # and once more, when only the end of the run is missing
    third = Replay(record.open_days(), settings, resume=record, **options)  # type: ignore[arg-type]
    assert (await third.run()).rows == 0 and len(all_rows(await frames_of(third.settings), day.instruments)) == len(
        found
    )


async def test_a_repetition_that_a_crash_cut_comes_when_the_run_goes_on(
    make_settings: Callable[[Path], Settings], tmp_path: Path
) -> None:
    plan = msgspec.convert({"seed": 5, "faults": [{"fault": "duplicate", "share": 0.01}]}, FaultPlan)
    whole, cut = make_settings(tmp_path / "whole"), make_settings(tmp_path / "cut")
    day = sample_day()
    options = {"run_id": "twice", "faults": plan, "rate": 200_000, "lateness_bound_ms": 1e6, "with_digest": False}
    replay = Replay([day], whole, record=tmp_path / "run.json", **options)  # type: ignore[arg-type]
    report = await replay.run()
    assert report.rows_repeated > 100
    wanted = await frames_of(replay.settings)
    # a log that ends behind a frame whose repetition is missing, in each partition
    again = Replay([day], cut, resume=read_run(tmp_path / "run.json"), **options)  # type: ignore[arg-type]
    await ensure_topics(again.settings)
    producer = await start_producer(cut.kafka)
    n_kept = {}
    try:
        for record in await records(replay.settings, FRAMES, cut.kafka.partitions):
            of = wanted[record.partition]
            repeats = [k for k, f in enumerate(of) if f.header.first_position <= of[max(k - 1, 0)].header.last_position]
            n_kept[record.partition] = repeats[1 + len(repeats) // 2]
            if record.offset < n_kept[record.partition]:
                topic = again.settings.topics.prefix + FRAMES
                await producer.send_and_wait(topic, record.value, partition=record.partition)
    finally:
        await stop_client(producer)
    rest = await again.run()
    kept = sum(len(f.ticks) for p, n in n_kept.items() for f in wanted[p][n:])
    assert (
        rest.rows + rest.rows_repeated + sum(len(controls_in(part[n_kept[p] :])) for p, part in enumerate(wanted))
        == kept
    )
    for old, new in zip(wanted, await frames_of(again.settings), strict=True):
        before, after = (np.sort(np.concatenate([f.ticks["seq"] for f in part])) for part in (old, new))
        assert np.array_equal(before, after)
