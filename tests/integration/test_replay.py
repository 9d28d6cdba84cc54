"""A replay on a real Kafka: what lies in the topics is the day, framed, numbered and stamped as docs/wire.md says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiokafka import TopicPartition
from click.testing import CliRunner

from agents.cli.main import cli
from models.market.digest import digest
from models.market.fold import OfflineFold
from models.market.frame import Frame, decode
from models.market.instruments import decode_definition, instrument_hash, partition_of
from models.market.tick import TICK, Action, Flag, Kind, TickArray
from streams.clock import SettableClock
from streams.days.day import Day
from streams.days.replay import Pause, Replay, ReplayReport, replay_day
from streams.kafka.admin import ensure_topics
from streams.kafka.clients import start_consumer, stop_client
from streams.settings import Settings
from streams.topics import FRAMES, INSTRUMENTS

pytestmark = pytest.mark.integration

REPLAY_DATA = Path(__file__).parents[2] / "replay_data"
GOLDEN = json.loads((REPLAY_DATA / "sample-day.golden.json").read_text())
MS = 1_000_000


@pytest.fixture(scope="module")
def day() -> Day:
    return Day.open(REPLAY_DATA / "sample-day")


async def records(settings: Settings, topic: str, partitions: int) -> list[list[bytes]]:
    """Everything that lies in a topic, by partition."""
    consumer = await start_consumer(settings.kafka, topic, range(partitions))
    try:
        parts = [TopicPartition(topic, partition) for partition in range(partitions)]
        ends = await consumer.end_offsets(parts)
        found: list[list[bytes]] = [[] for _ in parts]
        while any([await consumer.position(tp) < ends[tp] for tp in parts]):
            for tp, batch in (await consumer.getmany(timeout_ms=200)).items():
                found[tp.partition] += [record.value for record in batch]
        return found
    finally:
        await stop_client(consumer)


async def frames_of(report: ReplayReport, settings: Settings) -> list[list[Frame]]:
    topic = report.prefix + FRAMES
    return [[decode(value) for value in part] for part in await records(settings, topic, settings.kafka.partitions)]


def rows_in(frames: list[Frame], day: Day) -> TickArray:
    """The market rows of frames, with the day's instrument ids."""
    ids = {instrument.hash: index for index, instrument in enumerate(day.instruments)}
    parts = [np.empty(0, TICK)]
    for frame in frames:
        if frame.ticks["kind"][0] != Kind.CONTROL:
            ticks = frame.ticks.copy()
            of = np.array([ids[int(h)] for h in frame.instruments["hash"]], np.int32)
            ticks["instrument_id"] = of[ticks["instrument_id"]]
            parts.append(ticks)
    return np.concatenate(parts)


def folded(frames: list[list[Frame]], day: Day) -> str:
    rows = np.concatenate([rows_in(part, day) for part in frames])
    fold = OfflineFold([instrument.text for instrument in day.instruments])
    fold.update(rows[np.argsort(rows["seq"])])
    return digest(fold.finals())


async def test_a_run_holds_every_row_once_in_chained_frames_between_two_control_rows(
    settings: Settings, day: Day
) -> None:
    report = await replay_day(day, settings, run_id="whole")
    assert report.prefix == f"{settings.topics.prefix}run.whole."
    assert (report.rows, report.digest) == (GOLDEN["rows"], GOLDEN["digest"])
    frames = await frames_of(report, settings)
    assert report.frames == sum(map(len, frames)) - 2 * len(frames)
    assert report.offsets == {partition: len(part) - 1 for partition, part in enumerate(frames)}

    source = instrument_hash(f"day/{day.name}/whole")
    for partition, part in enumerate(frames):
        begin, end = part[0], part[-1]
        assert begin.ticks[["kind", "action", "instrument_id", "seq"]].tolist() == [(Kind.CONTROL, Action.CLEAR, -1, 1)]
        assert end.ticks[["kind", "action", "instrument_id"]].tolist() == [(Kind.CONTROL, Action.DELETE, -1)]
        assert end.header.first_position == day.rows + 2
        mine = {i.hash for i in day.instruments if partition_of(i.text, len(frames)) == partition}
        assert set(begin.instruments["hash"].tolist()) == mine
        before = 0
        for frame in part:
            assert frame.header.dense and frame.header.source == source
            assert frame.header.prev_position == before
            assert frame.header.n_ticks <= 4096 and frame.ticks["flags"][-1] & Flag.LAST
            before = frame.header.last_position

    rows = np.concatenate([rows_in(part, day) for part in frames])
    rows = rows[np.argsort(rows["seq"])]
    rows["seq"] -= np.uint64(1)
    assert np.array_equal(rows, np.concatenate(list(day.batches())))
    assert folded(frames, day) == GOLDEN["digest"]


async def test_definitions_are_in_the_log_of_the_run(settings: Settings, day: Day) -> None:
    report = await replay_day(day, settings, with_digest=False)
    assert report.digest is None
    (defined,) = await records(settings, report.prefix + INSTRUMENTS, 1)
    assert {decode_definition(value) for value in defined} == set(day.instruments)


async def test_at_a_speed_frames_leave_when_due_and_never_before(settings: Settings, day: Day) -> None:
    speed = 900
    report = await replay_day(day, settings, speed=speed)
    frames = await frames_of(report, settings)
    assert folded(frames, day) == report.digest == GOLDEN["digest"]
    assert report.lateness_p50_ms <= report.lateness_p99_ms <= report.lateness_max_ms
    length_s = (day.manifest.ts_recv_max - day.manifest.ts_recv_min) / 1e9 / speed
    assert report.seconds >= length_s
    starts = set()
    for part in frames:
        for frame in part[1:-1]:
            first, last = frame.ticks["ts_recv"][[0, -1]]
            assert frame.header.sent_ns >= frame.header.due_ns
            assert last - first <= (settings.publisher.frame_ms + 2) * MS * speed
            starts.add(frame.header.due_ns - int((last - day.manifest.ts_recv_min) / speed))
    assert max(starts) - min(starts) <= 1  # one clock for all, to the rounding


async def test_a_pause_comes_when_everything_before_it_is_acknowledged_and_nothing_after_it_is_sent(
    settings: Settings, day: Day
) -> None:
    seen: list[tuple[Pause, list[list[Frame]]]] = []

    async def look(pause: Pause) -> None:
        report = ReplayReport("", replaying.settings.topics.prefix, 0, 0, 0, 0, 0, 0, 0, None, {})
        seen.append((pause, await frames_of(report, settings)))

    asked = (1000, 1001, 30_000, day.rows)
    replaying = Replay([day], settings, pause_at=asked, on_pause=look)
    report = await replaying.run()
    assert report.rows == day.rows
    flags = np.concatenate(list(day.batches()))["flags"]
    ends = np.flatnonzero(flags & Flag.LAST) + 1
    wanted = sorted(
        {int(ends[np.searchsorted(ends, seq)]) for seq in asked[:-1]}
    )  # at the end there is nothing to wait for
    assert [pause.seq for pause, _ in seen] == wanted
    for pause, frames in seen:
        assert sum(len(rows_in(part, day)) for part in frames) == pause.seq
        assert pause.offsets == {partition: len(part) - 1 for partition, part in enumerate(frames)}


async def test_a_pause_does_not_make_what_follows_late(settings: Settings, day: Day) -> None:
    clock = SettableClock(1_760_000_000 * 10**9)

    async def wait(_: Pause) -> None:
        clock.advance(10**12)

    def look() -> int:
        clock.advance(50_000)  # each look takes its time, so that what is due comes
        return clock()

    report = await replay_day(
        day, settings, speed=50_000, pause_at=[20_000], on_pause=wait, clock=look, with_digest=False
    )
    assert report.rows == day.rows
    assert report.lateness_max_ms < 10_000  # the pause took a million


async def test_live_rows_go_to_the_live_topics(settings: Settings, day: Day) -> None:
    await ensure_topics(settings)
    report = await replay_day(day, settings, live=True, with_digest=False)
    assert report.prefix == settings.topics.prefix
    frames = await frames_of(report, settings)
    assert sum(len(rows_in(part, day)) for part in frames) == day.rows


async def test_rows_that_do_not_fit_the_buffer_wait_for_acknowledgements(settings: Settings, day: Day) -> None:
    narrow = replace(settings, publisher=replace(settings.publisher, buffer_ticks=4096, frame_ticks=512))
    report = await replay_day(day, narrow)
    frames = await frames_of(report, narrow)
    assert folded(frames, day) == GOLDEN["digest"]
    assert max(frame.header.n_ticks for part in frames for frame in part) <= 512


def test_the_command_answers_with_the_agreed_numbers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKETPRISM_KAFKA__BOOTSTRAP", settings.kafka.bootstrap)
    monkeypatch.setenv("MARKETPRISM_TOPICS__PREFIX", settings.topics.prefix)
    arguments = ["replay", str(REPLAY_DATA / "sample-day"), "--speed", "max", "--pause-at", "5000", "--json"]
    outcome = CliRunner().invoke(cli, arguments, input="\n", catch_exceptions=False)
    assert outcome.exit_code == 0
    paused, answer = (json.loads(line) for line in outcome.stdout.splitlines())
    assert 5000 <= paused["paused_at"] < 5024
    assert {name: answer[name] for name in ("rows", "digest")} == {name: GOLDEN[name] for name in ("rows", "digest")}
    assert {"frames", "seconds", "rows_per_s", "lateness_p99_ms"} <= answer.keys()


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "inf", "nan"])
def test_a_senseless_speed_is_wrong_use(speed: str) -> None:
    outcome = CliRunner().invoke(cli, ["replay", str(REPLAY_DATA / "sample-day"), "--speed", speed])
    assert outcome.exit_code == 2 and "--speed" in outcome.stderr
