"""Dead letters on a real broker: kept as they came, listed, sent again once; and the commands that do it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agents.cli.main import cli
from models.errors import PublishFailed
from models.market.instruments import partition_of
from streams.kafka.admin import ensure_topics
from streams.kafka.deadletter import DeadLetter, DeadLetters, Resubmission
from streams.settings import Settings
from streams.topics import DEAD, FRAMES, JSON_TICKS, TOPICS, WRITES
from tests.topics import records

pytestmark = pytest.mark.integration

NOW_MS = 1_760_000_000_000
TEXT = "binance.spot.BTC-USDT"
TICK = (
    b'{"exchange":"binance","market_type":"spot","symbol":"BTC-USDT","data_type":"trade","ts_ms":1760000000000,'
    b'"price":"1","quantity":"%d","side":"sell"}'
)


def letter(value: bytes, reason: str = "bad_number", **more: Any) -> DeadLetter:
    return DeadLetter(value=value, reason=reason, detail="why", ts_ms=NOW_MS, **more)


async def test_a_letter_keeps_bytes_reason_and_origin(settings: Settings) -> None:
    await ensure_topics(settings)
    put = letter(b"\xff\x00 raw", "bad_frame", topic=FRAMES, partition=2, offset=41)
    async with DeadLetters(settings) as letters:
        await letters.put([put, letter(b"x")])
        count, found = await letters.waiting()
        assert (count, found[0].letter, found[1].letter) == (2, 0, 1)
        assert found[0] == DeadLetter(b"\xff\x00 raw", "bad_frame", "why", NOW_MS, FRAMES, 2, 41, letter=0)
        assert (found[1].topic, found[1].partition, found[1].offset) == ("-", -1, -1)
    headers = dict((await records(settings, DEAD))[0].headers)
    assert headers["reason"] == b"bad_frame"
    assert (headers["partition"], headers["offset"], headers["ts_ms"]) == (b"2", b"41", b"1760000000000")


async def test_the_newest_letters_are_listed_and_all_are_counted(settings: Settings) -> None:
    await ensure_topics(settings)
    async with DeadLetters(settings) as letters:
        await letters.put([letter(b"%d" % i, "bad_time" if i % 3 else "bad_json") for i in range(1200)])
        count, found = await letters.waiting(reason="bad_time", max_n=2)
        assert (count, [i.value for i in found]) == (800, [b"1198", b"1199"])


async def test_letters_go_back_to_their_partition_and_only_once(settings: Settings) -> None:
    await ensure_topics(settings)
    prefix, n = settings.topics.prefix, settings.kafka.partitions
    async with DeadLetters(settings) as letters:
        await letters.put(
            [
                letter(TICK % 1, topic=prefix + JSON_TICKS, partition=n - 1, offset=5),
                letter(b"\x81", "bad_write", topic=prefix + WRITES, partition=1, offset=6),
                letter(TICK % 2),
                letter(b"frame", "bad_frame", topic=prefix + FRAMES, partition=0, offset=7),
                letter(b"a,csv,line"),
            ]
        )
        assert await letters.resubmit() == Resubmission(sent=3, unfit=2)
        assert await letters.resubmit() == Resubmission(sent=0, unfit=2)
        count, found = await letters.waiting()
        assert (count, [i.value for i in found]) == (2, [b"frame", b"a,csv,line"])
    sent = [(r.partition, r.key, r.value) for r in await records(settings, JSON_TICKS, n)]
    home = partition_of(TEXT, n)
    assert sorted(sent) == sorted([(n - 1, TEXT.encode(), TICK % 1), (home, TEXT.encode(), TICK % 2)])
    assert [(r.partition, r.value) for r in await records(settings, WRITES, n)] == [(1, b"\x81")]


async def test_resubmission_takes_one_reason_or_one_letter(settings: Settings) -> None:
    await ensure_topics(settings)
    async with DeadLetters(settings) as letters:
        await letters.put([letter(TICK % 0), letter(TICK % 1, "unknown_instrument"), letter(TICK % 2)])
        assert (await letters.resubmit(letter=2)).sent == 1
        assert (await letters.resubmit(reason="unknown_instrument")).sent == 1
        assert [i.letter for i in (await letters.waiting())[1]] == [0]


async def test_a_letter_whose_topic_is_gone_is_not_marked(settings: Settings) -> None:
    await ensure_topics(settings, [topic for topic in TOPICS if topic.name == DEAD])
    impatient = Settings(
        kafka=settings.kafka, topics=settings.topics, publisher=type(settings.publisher)(delivery_timeout_s=0.5)
    )
    async with DeadLetters(impatient) as letters:
        await letters.put([letter(TICK % 0)])
        with pytest.raises(PublishFailed, match=r"md\.json\.v1"):
            await letters.resubmit()
        assert (await letters.waiting())[0] == 1


# -- the commands ------------------------------------------------------------------------------------------------------


def command(settings: Settings, *args: str) -> Any:
    """A command's JSON object, printed as the last line."""
    result = CliRunner().invoke(cli, [*args, "--json"], env=environment(settings), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output.splitlines()[-1])


def environment(settings: Settings) -> dict[str, str]:
    return {
        "MARKETPRISM_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "MARKETPRISM_TOPICS__PREFIX": settings.topics.prefix,
    }


def test_a_published_file_leaves_its_bad_lines_as_letters(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "ticks.ndjson"
    path.write_bytes(TICK % 1 + b"\nnot json\n\n" + TICK.replace(b'"1"', b'"1e5"') % 2 + b"\n" + TICK % 3 + b"\n")
    report = command(settings, "publish", str(path))
    assert (report["ticks"], report["refused"], report["frames"]) == (2, 2, 1)
    assert report["seconds"] > 0 < report["ticks_per_s"]
    listed = command(settings, "dead")
    assert listed["count"] == 2
    assert [(i["reason"], i["topic"], i["partition"], i["offset"]) for i in listed["letters"]] == [
        ("bad_json", "-", -1, -1),
        ("bad_number", "-", -1, -1),
    ]
    assert [i["detail"].split(":")[1] for i in listed["letters"]] == ["2", "4"]
    assert listed["letters"][0]["value"] == "not json"
    assert command(settings, "dead", "resubmit", "--reason", "bad_number") == {"resubmitted": 1, "unfit": 0}
    assert command(settings, "dead", "--max", "1")["count"] == 1


def test_a_csv_and_its_parquet_publish_the_same_rows(settings: Settings, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "instrument": [TEXT] * 3,
        "kind": ["trade"] * 3,
        "ts_ns": ["1760000000000000001", "1760000000000000002", "soon"],
        "price": ["64000.5", "0.000000001", "1"],
        "size": ["0.25", "1", "1"],
    }
    csv_path, parquet_path = tmp_path / "t.csv", tmp_path / "t.parquet"
    lines = [",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True))]
    csv_path.write_text("\n".join(lines))
    instants = pa.array([1760000000000000001, 1760000000000000002, -1])
    pq.write_table(pa.table({**columns, "ts_ns": instants}), parquet_path)
    for path in (csv_path, parquet_path):
        report = command(settings, "publish", str(path))
        assert (report["ticks"], report["refused"], report["reasons"]) == (2, 1, {"bad_time": 1})


def test_piped_lines_sent_as_json_are_keyed_records_that_nobody_read(settings: Settings) -> None:
    program = Path(sys.executable).with_name("marketprism")
    done = subprocess.run(
        [program, "publish", "-", "--to", "json", "--json"],
        input=TICK % 1 + b"\nnot json\n",
        env={**os.environ, **environment(settings)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    report = json.loads(done.stdout)
    assert (report["ticks"], report["refused"]) == (2, 0)
    found = {r.value: r for r in asyncio.run(records(settings, JSON_TICKS, settings.kafka.partitions))}
    assert found[TICK % 1].key == TEXT.encode()
    assert found[TICK % 1].partition == partition_of(TEXT, settings.kafka.partitions)
    assert found[b"not json"].key is None


def test_wrong_use_and_unreadable_files_end_in_one_clear_line(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "t.csv"), "--to", "json"], env=environment(settings))
    assert result.exit_code == 2
    assert "NDJSON" in result.output
    result = CliRunner().invoke(cli, ["publish", str(tmp_path / "t.csv")], env=environment(settings))
    assert "no column instrument" in str(result.exception)
