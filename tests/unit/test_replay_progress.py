"""How far a replay says it is, and the instants that the command line understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli.instants import resolve
from agents.cli.replay_bar import told
from streams.days.day import Day
from streams.days.feed import DayFeed, Selection
from streams.days.progress import Meter, Progress

DAY = Day.open(Path(__file__).parents[2] / "replay_data" / "sample-day")
FIRST_NS, LAST_NS = DAY.manifest.ts_recv_min, DAY.manifest.ts_recv_max
S = 10**9


def heard(feed: DayFeed, *steps: tuple[int, int, int], **pace: float | None) -> list[Progress]:
    seen: list[Progress] = []
    meter = Meter(feed, speed=pace.get("speed"), rate=pace.get("rate"), tell=seen.append)
    meter._told_s -= 1  # the first step is told at once
    for step in steps:
        meter.told(*step)
    return seen


def test_share_is_of_rows_where_their_number_is_known_and_of_time_elsewhere() -> None:
    (whole,) = heard(DayFeed([DAY]), (DAY.rows // 4, FIRST_NS + 10 * S, 3_000_000), speed=10)
    assert whole.share == pytest.approx(0.25, abs=1e-4)
    assert whole.left_s == pytest.approx((LAST_NS - FIRST_NS - 10 * S) / 1e10)
    assert (whole.rows, whole.lag_ms) == (DAY.rows, 3.0)
    part = DayFeed([DAY], Selection(FIRST_NS, FIRST_NS + 100 * S))
    (half,) = heard(part, (500, FIRST_NS + 50 * S, 0))
    assert half.rows is None and half.share == pytest.approx(0.5, abs=1e-6)
    (even,) = heard(DayFeed([DAY]), (DAY.rows - 1000, LAST_NS, 0), rate=500)
    assert even.left_s == 2


def test_the_last_row_is_told_even_when_something_was_told_just_before() -> None:
    seen = heard(DayFeed([DAY]), (5, FIRST_NS, 0), (6, FIRST_NS, 0), (DAY.rows, LAST_NS, 0))
    assert [progress.sent for progress in seen] == [5, DAY.rows]


def test_a_line_says_rows_rate_lag_and_time_to_go() -> None:
    assert told(Progress(1_234_567, None, 0.5, 49_999.6, 0.42, 72.4)) == (
        "1,234,567 rows  50,000/s  lag 0.4 ms  0:01:12 to go"
    )
    assert told(Progress(5, None, 0.0, 0.0, 0.0, None)) == "5 rows  0/s  lag 0.0 ms"


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1381415405250000000", 1_381_415_405_250_000_000),
        ("2013-10-10T14:30:05.25", 1_381_415_405_250_000_000),
        ("2013-10-10T16:30:05.25+02:00", 1_381_415_405_250_000_000),
        ("2013-10-10 14:30", 1_381_415_400_000_000_000),
        ("14:30:05.25", 1_381_415_405_250_000_000),
        ("9:05", 1_381_395_900_000_000_000),
        ("2013-10-10", 1_381_363_200_000_000_000),
    ],
)
def test_instants_are_utc_and_a_time_alone_is_of_the_first_day(text: str, ns: int) -> None:
    assert resolve(text, 1_381_400_000_000_000_000) == ns


@pytest.mark.parametrize("text", ["yesterday", "25:00", "14:3", "", "-5"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        resolve(text, 0)
