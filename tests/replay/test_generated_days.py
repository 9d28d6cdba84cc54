"""`day generate` and `day info --shape`, as a user calls them: whole days, labels under the manifest's checksum."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import numpy as np
import orjson
import pytest
from click.testing import CliRunner, Result

from agents.cli.main import cli
from models.days.recipe import Recipe
from models.errors import CorruptDay, InvalidInstrument, NothingToMeasure
from models.market.fold import OfflineFold
from models.market.tick import Kind
from streams.days.day import Day
from streams.days.generate import LABELS, generate_day, read_labels, session_start_ns
from streams.days.manifest import Origin
from streams.days.shape import shape_of
from streams.days.verify import verify_day
from streams.days.writer import DayWriter

JUNE, JANUARY = date(2025, 6, 2), date(2025, 1, 6)
ARGUMENTS = ["--seed", "5", "--symbols", "3", "--events", "6000", "--duration", "1h"]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["day", *map(str, arguments)], prog_name="marketprism")


def generated(out: Path, *more: str) -> Day:
    result = invoke("generate", *ARGUMENTS, *more, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    said = orjson.loads(result.output.splitlines()[-1])
    day = Day.open(out)
    assert (said["name"], said["rows"], said["instruments"]) == (day.name, day.rows, 3)
    assert said["anomalies"] == len(read_labels(day))
    return day


def test_the_same_arguments_give_the_same_bytes_and_a_day_that_verifies(tmp_path: Path) -> None:
    day = generated(tmp_path / "one")
    assert verify_day(day.path).problems == []
    assert day.manifest.origin.seed == 5
    assert day.manifest.origin.recipe == Recipe(
        seed=5, symbols=3, events=6000, venue_kind="equity", start_ns=1748871000 * 10**9, duration_s=3600, anomalies=6
    )
    again = generated(tmp_path / "again")
    names = sorted(path.name for path in day.path.iterdir())
    assert names == ["checkpoints.parquet", LABELS, "manifest.json", "ticks.parquet"]
    assert all((day.path / name).read_bytes() == (again.path / name).read_bytes() for name in names)


def test_labels_are_part_of_the_day_and_damage_to_them_is_seen(tmp_path: Path) -> None:
    day = generated(tmp_path / "day")
    labels = read_labels(day)
    assert len({label.kind for label in labels}) == 6
    rows = np.concatenate(list(day.batches()))
    for label in labels:
        if label.rows:
            first, last = rows[label.first_seq - 1], rows[label.last_seq - 1]
            who = [of.text for of in day.instruments].index(label.instrument)
            assert first["instrument_id"] == last["instrument_id"] == who
            assert label.start_ns <= first["ts_event"] <= last["ts_event"] <= label.end_ns
    path = day.path / LABELS
    path.write_bytes(path.read_bytes().replace(b"price_spike", b"price_spite"))
    problems = verify_day(day.path).problems
    assert len(problems) == 1 and problems[0].startswith("labels.json: SHA-256")
    path.write_bytes(b"[{}]")
    with pytest.raises(CorruptDay, match="not the labels of a day"):
        read_labels(day)


def test_no_anomalies_means_no_labels_and_exactly_the_events(tmp_path: Path) -> None:
    day = generated(tmp_path / "day", "--no-anomalies", "--venue-kind", "crypto")
    assert read_labels(day) == [] and not (day.path / LABELS).exists()
    assert sum(shape_of(day).events_of) == 6000
    assert day.instruments[0].text == "binance.perpetual.G00001-USDT"


def test_the_offline_fold_ends_in_the_generators_own_books(tmp_path: Path) -> None:
    """The books of a day with a sequence gap, read by the rules of the wire."""
    day = generated(tmp_path / "day", "--anomalies", "12")
    fold = OfflineFold([of.text for of in day.instruments])
    for ticks in day.batches():
        fold.update(ticks)
    for final in fold.finals():
        assert final.quote is not None
        assert final.quote[:4] == (*final.bids[0].tolist(), *final.asks[0].tolist())
        assert final.bids[0, 0] < final.asks[0, 0]


def test_days_begin_when_their_venues_do() -> None:
    recipe = Recipe(seed=1, symbols=1, events=100, venue_kind="equity", start_ns=0, duration_s=60)
    at = {kind: session_start_ns(kind, recipe_date) for kind, recipe_date in (("equity", JUNE), ("crypto", JUNE))}
    assert at == {"equity": 1748871000 * 10**9, "crypto": 1748822400 * 10**9}
    assert session_start_ns("equity", JANUARY) % (24 * 3600 * 10**9) == (14 * 3600 + 1800) * 10**9  # winter time
    assert recipe.profile.session_s == 23_400


def test_the_shape_is_told_as_json_drawn_and_written_to_the_terminal(tmp_path: Path) -> None:
    day, page = generated(tmp_path / "day"), tmp_path / "shape.html"
    result = invoke("info", "--shape", "--plot", page, "--json", day.path)
    assert result.exit_code == 0, result.output
    said = orjson.loads(result.output.splitlines()[-1])
    assert said["instrument"] == "us-q.spot.G00001-USD"
    assert said["shape"]["events"] == said["shape"]["events_of"][0]
    assert next(row["name"] for row in said["against_amzn"]) == "p99.9 / mean, 1 ms"
    assert len(said["against_amzn"]) == 11
    html = page.read_text()
    assert "us-q.spot.G00001-USD" in html and "Plotly.newPlot" in html
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=", html), "the page needs the network"
    shown = invoke("info", "--shape", "--instrument", "us-q.spot.G00002-USD", day.path)
    assert shown.exit_code == 0, shown.output
    for words in ("us-q.spot.G00002-USD", "Fano factor, 10 s", "spread p5, 50, 95", "they say little about", "█"):
        assert words in shown.output


def test_a_day_without_that_instrument_or_without_rows_has_no_shape(tmp_path: Path) -> None:
    day = generated(tmp_path / "day", "--no-anomalies")
    with pytest.raises(InvalidInstrument, match="has no instrument"):
        shape_of(day, "us-q.spot.NONE-USD")
    with DayWriter(tmp_path / "empty", name="empty", origin=Origin()) as writer:
        empty = writer.finish([])
    with pytest.raises(NothingToMeasure, match="no messages of any instrument"):
        shape_of(empty)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "--duration", "1.0001s", "--out", "x"], "not a duration in whole seconds"),
        (["generate", "--venue-kind", "casino", "--out", "x"], "casino"),
        (["generate", "--out", "."], "exists already"),
        (["info", "--plot", "x.html", "."], "--instrument and --plot go with --shape"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_made(arguments: list[str], words: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_every_kind_of_row_of_a_generated_day_is_one_that_venues_send(tmp_path: Path) -> None:
    recipe = Recipe(seed=1, symbols=2, events=2_000, venue_kind="crypto", start_ns=0, duration_s=600)
    day = generate_day(tmp_path / "day", recipe)
    assert set(day.manifest.kinds) == {kind.name.lower() for kind in (Kind.TRADE, Kind.QUOTE, Kind.BOOK)}
    assert day.name == "generated-crypto-1"
