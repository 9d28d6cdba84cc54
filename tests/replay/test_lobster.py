"""LOBSTER days: every row of the orderbook file is the book of the imported day at that message."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.errors import TooManyRejects, UnreadableSource
from models.market.book import BookPool
from models.market.fold import OfflineFold
from models.market.tick import Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.feed import DayFeed, Selection
from streams.days.importers.lobster import import_lobster
from streams.days.importers.report import Terms
from streams.days.verify import verify_day

CENT, SHARE = 10**5, 10**9  # mantissas of a unit of the files
MS = 10**6
MIDNIGHT = 1_340_251_200 * 10**9  # of 2012-06-21 in New York


def events(day: Day) -> list[TickArray]:
    rows = np.concatenate(list(day.batches()))
    return np.split(rows, np.flatnonzero(rows["flags"] & Flag.LAST)[:-1] + 1)


# -- the recorded day --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(1, 57_515), (5, 155_935)], ids=["1 level", "5 levels"])
def amazon(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Day, int, list[list[str]], list[list[str]]]:
    """The day, its number of messages, and the lines of both files."""
    levels, n_messages = request.param
    source = shared / "market_data" / "lobster" / f"LOBSTER_SampleFile_AMZN_2012-06-21_{levels}.zip"
    day, report = import_lobster([source], tmp_path_factory.mktemp("lobster") / "day")
    assert (report.n_records, report.n_unreadable) == (n_messages, 0)
    files = []
    with zipfile.ZipFile(source) as archive:
        for what in ("message", "orderbook"):
            (name,) = [name for name in archive.namelist() if f"_{what}_" in name]
            files.append(list(csv.reader(io.TextIOWrapper(archive.open(name)))))
    return day, n_messages, *files


@pytest.mark.data
def test_the_book_equals_the_orderbook_file_after_every_message(
    amazon: tuple[Day, int, list[list[str]], list[list[str]]],
) -> None:
    day, n_messages, messages, books = amazon
    of_day = events(day)
    assert len(of_day) == len(messages) == len(books) == n_messages, "LAST ends each message, and nothing else"
    pool, n_equal = BookPool(1), 0
    for version, (event, line) in enumerate(zip(of_day, books, strict=True)):
        rows = event[event["kind"] == Kind.BOOK]
        if len(rows):
            pool.apply(rows, np.zeros(len(rows), np.int32), version)
        bids, asks = pool.levels(0)
        rebuilt = np.stack([asks, bids], axis=1).ravel() if len(asks) == len(bids) else np.empty(0)
        shown = np.array(line, np.int64).reshape(-1, 2) * [CENT, SHARE]
        n_equal += np.array_equal(rebuilt, shown.ravel())
    assert (n_equal, pool.header(0).n_bid_levels) == (n_messages, len(books[0]) // 4)


@pytest.mark.data
def test_every_message_is_there_with_its_numbers(amazon: tuple[Day, int, list[list[str]], list[list[str]]]) -> None:
    day, _, messages, _ = amazon
    assert [i.text for i in day.instruments] == ["nasdaq.spot.AMZN-USD"]
    assert verify_day(day.path).problems == []
    actions = {
        "1": [Action.ADD],
        "2": [Action.DELETE],
        "3": [Action.DELETE],
        "4": [Action.TRADE, Action.DELETE],
        "5": [],
    }
    for event, (time, type_, order, size, price, direction) in zip(events(day), messages, strict=True):
        seconds, _, decimals = time.partition(".")
        ns = MIDNIGHT + int(seconds) * 10**9 + int(decimals[:9].ljust(9, "0"))
        assert (event["ts_event"] == ns).all() and (event["ts_recv"] == ns).all()
        orders, trades = event[event["kind"] == Kind.ORDER], event[event["kind"] == Kind.TRADE]
        assert orders["action"].tolist() == actions[type_]
        side = Side.BID if direction == "1" else Side.ASK
        numbers = (int(price) * CENT, int(size) * SHARE)
        assert set(orders[["price", "size", "ref_id", "side"]].tolist()) <= {(*numbers, int(order), side)}
        aggressor = Side.ASK if direction == "1" else Side.BID
        assert trades[["price", "size", "side"]].tolist() == [(*numbers, aggressor)] * (type_ in "45")


@pytest.mark.data
def test_the_offline_fold_ends_in_the_last_row_of_the_orderbook_file(
    amazon: tuple[Day, int, list[list[str]], list[list[str]]],
) -> None:
    day, _, _, books = amazon
    fold = OfflineFold([instrument.text for instrument in day.instruments])
    for ticks in day.batches(10_007):
        fold.update(ticks)
    (final,) = fold.finals()
    shown = np.array(books[-1], np.int64).reshape(-1, 2, 2) * [CENT, SHARE]
    assert np.array_equal(np.stack([final.asks, final.bids], axis=1), shown)


@pytest.mark.data
@pytest.mark.parametrize("hours", [9.6, 12.3, 15.9])
def test_a_part_of_the_day_opens_with_the_orders_that_rest(
    amazon: tuple[Day, int, list[list[str]], list[list[str]]], hours: float
) -> None:
    day, _, messages, _ = amazon
    resting: dict[int, list[int]] = {}
    for time, type_, order, size, price, direction in messages:
        if float(time) >= hours * 3600:
            break
        if type_ == "1":
            resting[int(order)] = [int(size), int(price), int(direction)]
        elif int(order) in resting and type_ in "234":
            resting[int(order)][0] -= int(size)
    wanted = [
        (name, size * SHARE, price * CENT, Side.BID if direction == 1 else Side.ASK)
        for name, (size, price, direction) in resting.items()
        if size
    ]
    start = MIDNIGHT + int(hours * 3600) * 10**9
    opening = next(DayFeed([day], Selection(start)).batches())
    orders = opening[(opening["kind"] == Kind.ORDER) & (opening["flags"] & Flag.SNAPSHOT != 0)]
    assert orders["action"].tolist() == [Action.CLEAR] + [Action.ADD] * len(wanted)
    assert orders[["ref_id", "size", "price", "side"]].tolist()[1:] == wanted
    assert set(orders["ts_recv"].tolist()) == {start}


# -- files made here ---------------------------------------------------------------------------------------------------

MESSAGES = [
    "34200.1,1,11,100,10000,1",
    "34200.2,1,12,50,10200,-1",
    "34200.3,2,11,40,10000,1",
    "34200.4,4,12,20,10200,-1",
    "34200.5,5,0,7,10100,1",
    "34200.6,7,0,0,-1,-1",
    "34200.7,7,0,0,0,-1",
    "34200.8,7,0,0,1,-1",
    "34200.9,3,11,60,10000,1",
    "34201,6,-1,500,10150,-1",
]
BOOKS = [
    "9999999999,0,10000,100",
    "10200,50,10000,100",
    "10200,50,10000,60",
    "10200,30,10000,60",
    "10200,30,10000,60",
    "10200,30,10000,60",
    "10200,30,10000,60",
    "10200,30,10000,60",
    "10200,30,9900,5",
    "10200,30,9900,5",
]


def pair(
    folder: Path, messages: Sequence[str] = MESSAGES, books: Sequence[str] = BOOKS, ticker: str = "ABC"
) -> list[Path]:
    paths = [folder / f"{ticker}_2012-06-21_34200000_57600000_{what}_1.csv" for what in ("message", "orderbook")]
    for path, lines in zip(paths, (messages, books), strict=True):
        path.write_text("\n".join([*lines, ""]))
    return paths


def test_messages_become_orders_trades_halts_and_levels(tmp_path: Path) -> None:
    messages = [*MESSAGES[:-1], MESSAGES[-1].replace("-1,500", "0,500")]
    day, report = import_lobster(pair(tmp_path, messages), tmp_path / "day")
    assert (report.n_records, report.n_unreadable, day.name) == (10, 0, "lobster-20120621")
    names = ["kind", "action", "side", "price", "size", "ref_id", "flags"]
    of_event = [[tuple(row) for row in event[names].tolist()] for event in events(day)]
    bid, ask, low, high = Side.BID, Side.ASK, 10_000 * CENT, 10_200 * CENT
    mbp, snap, last = Flag.MBP, Flag.MBP | Flag.SNAPSHOT, Flag.LAST
    assert of_event == [
        [
            (Kind.ORDER, Action.ADD, bid, low, 100 * SHARE, 11, 0),
            (Kind.BOOK, Action.CLEAR, 0, 0, 0, 0, snap),
            (Kind.BOOK, Action.ADD, bid, low, 100 * SHARE, 0, snap | last),
        ],
        [
            (Kind.ORDER, Action.ADD, ask, high, 50 * SHARE, 12, 0),
            (Kind.BOOK, Action.UPDATE, ask, high, 50 * SHARE, 0, mbp | last),
        ],
        [
            (Kind.ORDER, Action.DELETE, bid, low, 40 * SHARE, 11, 0),
            (Kind.BOOK, Action.UPDATE, bid, low, 60 * SHARE, 0, mbp | last),
        ],
        [
            (Kind.ORDER, Action.TRADE, ask, high, 20 * SHARE, 12, 0),
            (Kind.ORDER, Action.DELETE, ask, high, 20 * SHARE, 12, 0),
            (Kind.TRADE, Action.TRADE, Side.BID, high, 20 * SHARE, 0, 0),
            (Kind.BOOK, Action.UPDATE, ask, high, 30 * SHARE, 0, mbp | last),
        ],
        [(Kind.TRADE, Action.TRADE, Side.ASK, 10_100 * CENT, 7 * SHARE, 0, last)],
        [(Kind.ORDER, Action.DELETE, 0, 0, 0, 0, last)],
        [(Kind.ORDER, Action.UPDATE, 0, 0, 0, 0, last)],
        [(Kind.ORDER, Action.ADD, 0, 0, 0, 0, last)],
        [
            (Kind.ORDER, Action.DELETE, bid, low, 60 * SHARE, 11, 0),
            (Kind.BOOK, Action.DELETE, bid, low, 0, 0, mbp),
            (Kind.BOOK, Action.UPDATE, bid, 9_900 * CENT, 5 * SHARE, 0, mbp | last),
        ],
        [(Kind.TRADE, Action.TRADE, Side.NONE, 10_150 * CENT, 500 * SHARE, 0, last)],
    ]


def test_an_unreadable_line_takes_its_message_with_it_and_the_book_makes_up_for_it(tmp_path: Path) -> None:
    messages, books = list(MESSAGES[:-1]), list(BOOKS[:-1])
    messages[1] = "34200.2,1,12,half,10200,-1"
    books[3] = "10200,30,10000"
    day, report = import_lobster(pair(tmp_path, messages, books), tmp_path / "day", terms=Terms(max_rejects=0.5))
    assert (report.n_records, report.n_unreadable) == (7, 4)  # both lines of both pairs
    assert sorted(int(problem.split(":")[1]) for problem in report.problems) == [2, 2, 4, 4]
    pool = BookPool(1)
    for version, event in enumerate(events(day)):
        rows = event[event["kind"] == Kind.BOOK]
        pool.apply(rows, np.zeros(len(rows), np.int32), version)
    assert pool.best(0) == (9_900 * CENT, 5 * SHARE, 10_200 * CENT, 30 * SHARE)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match=r"has 9 lines and .* 8: they are not of one recording"):
        import_lobster(pair(tmp_path, MESSAGES[:-1], BOOKS[:-2]), tmp_path / "day")
    with pytest.raises(UnreadableSource, match=r"orderbook_1\.csv is missing"):
        import_lobster(pair(tmp_path)[:1], tmp_path / "day")
    # the same number of lines, but the book's are one behind
    with pytest.raises(TooManyRejects, match="the book beside it changes by 0 at this price, the message says 50"):
        import_lobster(pair(tmp_path, MESSAGES[:-1], [BOOKS[0], *BOOKS[:-2]]), tmp_path / "day")


@pytest.mark.parametrize(
    ("line", "book", "reason"),
    [
        ("86400.0,1,13,5,10000,1", BOOKS[2], "the time is not within a day"),
        ("34200.3,8,13,5,10000,1", BOOKS[2], "type is not in 1..7"),
        ("34200.3,3,13,5,10000,0", BOOKS[2], "the direction is not 1 or -1"),
        ("34200.3,7,0,0,2,-1", BOOKS[1], "the price is not above 0, or of a halt not -1, 0 or 1"),
        ("1,34200.3,3,13,5,10000", BOOKS[2], "In CSV column #1"),
        ("34200.3,2,11,40,10000,1", "10000,50,10200,60", "the book beside it changes by -100"),
        ("34200.3,5,0,40,10000,1", "10000,50,10000,60", None),
        ("34200.3,5,0,40,10000,1", "10200,-1,10000,60", "ask_size_0 is not in 0..9000000000"),
    ],
)
def test_lines_that_cannot_be_are_refused_with_the_reason(
    tmp_path: Path, line: str, book: str, reason: str | None
) -> None:
    paths = pair(tmp_path, [*MESSAGES[:2], line], [*BOOKS[:2], book])
    _, report = import_lobster(paths, tmp_path / "day", terms=Terms(max_rejects=0.9))
    assert (not report.problems) if reason is None else any(reason in problem for problem in report.problems)


def test_several_tickers_make_one_day_and_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    messages = [line for line in MESSAGES if ",6,-1" not in line]
    sources = [*pair(tmp_path, messages, BOOKS[:-1]), *pair(tmp_path, messages, BOOKS[:-1], "ABB")]
    first, _ = import_lobster(sources, tmp_path / "first")
    second, _ = import_lobster(sources[::-1], tmp_path / "second")
    assert [i.text for i in first.instruments] == ["nasdaq.spot.ABB-USD", "nasdaq.spot.ABC-USD"]
    for name in ("ticks.parquet", "manifest.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
