"""Recordings of exchanges' websockets: every frame is explained, and books are those of the exchanges' checksums."""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.errors import UnreadableSource
from models.market.book import BookPool
from models.market.decimals import decimal_text
from models.market.instruments import parse
from models.market.levels import LIVE
from models.market.tick import Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.cryptofeed import import_cryptofeed
from streams.days.importers.feeds.frame import plain
from streams.days.importers.report import ImportReport, Terms
from streams.days.verify import verify_day

ONE = 10**9
DATED = {name: parse(f"bitmex.futures.{name[:3]}-BTC-210924") for name in ("XRPU21", "TRXU21")}
HALF = Terms(max_rejects=0.9)

# Recording -> lines that frames came in, those of them that say nothing about the market, rows by kind
RECORDINGS: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "BINANCE_FUTURES.ws.1.0": (1535, {"kline": 67}, {"trade": 91, "quote": 1226, "book": 6297}),
    "BITMEX.ws.1.0": (
        2120,
        {"welcome": 1, "acknowledgement": 30, "trades before the subscription": 10},
        {"trade": 17, "quote": 872, "book": 14343},
    ),
    "BYBIT.ws.25.0": (3342, {"acknowledgement": 16}, {"trade": 101, "book": 20350}),
    "BYBIT.ws.26.0": (1098, {"acknowledgement": 4}, {"trade": 150, "book": 2654}),
    "COINBASE.ws.28.0": (9946, {"subscriptions": 3, "ticker": 107, "last_match": 10}, {"trade": 97, "book": 18091}),
    "DERIBIT.ws.1.0": (136, {"acknowledgement": 1}, {"quote": 178, "book": 159}),
    "KRAKEN.ws.50.0": (4321, {"systemStatus": 1, "subscriptionStatus": 10, "heartbeat": 31}, {"book": 11755}),
    "OKX.ws.1.0": (410, {"subscribe": 18}, {"trade": 74, "quote": 56, "book": 8267}),
}


def recording(shared: Path, name: str) -> Path:
    return shared / "market_data" / "exchange_websockets" / f"{name}.zst"


def load(folder: Path, source: Path, **options: Any) -> tuple[Day, ImportReport]:
    day, report = import_cryptofeed([source], folder / "day", **options)
    assert verify_day(day.path).problems == []
    return day, report


def events(day: Day) -> Iterator[TickArray]:
    rows = np.concatenate(list(day.batches()))
    yield from np.split(rows, np.flatnonzero(rows["flags"] & Flag.LAST)[:-1] + 1)


def frames(path: Path) -> Iterator[Any]:
    """What was received, decoded by another decoder, numbers as texts."""
    with pa.input_stream(str(path), compression="zstd") as stream:
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            if match := re.match(r"[0-9.]+: (.*)", line):
                yield json.loads(match[1], parse_float=str, parse_int=str)


# -- the recordings ----------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", RECORDINGS)
def test_every_frame_of_a_recording_is_read_or_explained(name: str, shared: Path, tmp_path: Path) -> None:
    n_frames, silent, kinds = RECORDINGS[name]
    day, report = load(tmp_path, recording(shared, name), named=DATED)
    assert (report.n_unreadable, report.problems) == (0, [])
    beside = {what: report.explained.pop(what, 0) for what in ("connected", "sent", "empty line")}
    assert (report.n_records - sum(beside.values()), dict(report.explained)) == (n_frames, silent)
    assert day.manifest.kinds == kinds


def books_of(day: Day) -> Iterator[tuple[int, BookPool, TickArray]]:
    """After each book event: its instrument, the books, the event."""
    pool = BookPool(len(day.instruments))
    for version, event in enumerate(events(day)):
        rows = event[event["kind"] == Kind.BOOK]
        if len(rows):
            pool.apply(rows, rows["instrument_id"].astype(np.int32), version)
            yield int(rows["instrument_id"][0]), pool, rows


@pytest.mark.data
def test_okx_books_have_the_checksum_of_every_message(shared: Path, tmp_path: Path) -> None:
    source = recording(shared, "OKX.ws.1.0")
    day, _ = load(tmp_path, source)
    messages = [m["data"][0] for m in frames(source) if m.get("arg", {}).get("channel") == "books" and "data" in m]
    n_equal = 0
    for (index, pool, _), message in zip(books_of(day), messages, strict=True):
        exponents = day.instruments[index].price_exp, day.instruments[index].size_exp
        bids, asks = pool.levels(index)
        texts = []
        for k in range(25):
            for side in (bids, asks):
                if k < len(side):
                    texts += [decimal_text(int(n), exp) for n, exp in zip(side[k], exponents, strict=True)]
        n_equal += zlib.crc32(":".join(texts).encode()) == int(message["checksum"]) % 2**32
    assert (n_equal, len(messages)) == (290, 290)


@pytest.mark.data
def test_kraken_books_have_the_checksum_and_the_depth_of_every_message(shared: Path, tmp_path: Path) -> None:
    source = recording(shared, "KRAKEN.ws.50.0")
    day, _ = load(tmp_path, source)
    messages = [m for m in frames(source) if isinstance(m, list)]
    decimals: dict[str, tuple[int, int]] = {}
    n_equal = n_checked = 0
    for (index, pool, _), (*parts, _, pair) in zip(books_of(day), messages, strict=True):
        said = {key: value for part in parts[1:] for key, value in part.items()}
        level = next(value[0] for key, value in said.items() if key != "c" and value)
        decimals[pair] = tuple(len(text.partition(".")[2]) for text in level[:2])  # type: ignore[assignment]
        instrument = day.instruments[index]
        bids, asks = pool.levels(index)
        assert max(len(bids), len(asks)) <= 1000
        if "c" not in said:
            continue
        text = ""
        for side in (asks[:10], bids[:10]):
            for row in side:
                for number, exp, places in zip(
                    row, (instrument.price_exp, instrument.size_exp), decimals[pair], strict=True
                ):
                    text += str(int(number) // 10 ** (-exp - places))
        n_checked += 1
        n_equal += zlib.crc32(text.encode()) == int(said["c"])
    assert (n_equal, n_checked) == (4269, 4269)


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in RECORDINGS if not name.startswith("BINANCE")])
def test_books_of_recordings_are_live_and_never_crossed(name: str, shared: Path, tmp_path: Path) -> None:
    day, _ = load(tmp_path, recording(shared, name), named=DATED)
    seen = set()
    for index, pool, rows in books_of(day):
        best = pool.best(index)
        assert best is None or best[0] < best[2], day.instruments[index].text
        seen.add(index)
        assert pool.header(index).state == LIVE, f"{day.instruments[index].text} has a gap at {rows[0]}"
    assert len(seen) >= 2


@pytest.mark.data
def test_bitmex_books_end_at_the_last_quotes(shared: Path, tmp_path: Path) -> None:
    day, _ = load(tmp_path, recording(shared, "BITMEX.ws.1.0"), named=DATED)
    quotes: dict[int, TickArray] = {}
    n_equal = n_compared = 0
    for event in events(day):
        if event["kind"][0] == Kind.QUOTE:
            quotes[int(event["instrument_id"][0])] = event
    for index, pool, _ in books_of(day):
        last = pool, index
    for index, event in quotes.items():
        n_compared += 1
        n_equal += last[0].best(index) == tuple(np.column_stack([event["price"], event["size"]]).ravel().tolist())
    assert n_compared == 10 and n_equal >= 9, "the recording may end between a level and its quote"


@pytest.mark.data
def test_recordings_of_several_exchanges_make_one_day_and_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    sources = [recording(shared, name) for name in ("DERIBIT.ws.1.0", "BYBIT.ws.26.0")]
    first, _ = import_cryptofeed(sources, tmp_path / "first")
    second, _ = import_cryptofeed(sources[::-1], tmp_path / "second")
    assert first.name == "cryptofeed-bybit-deribit"
    for name in ("ticks.parquet", "manifest.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


# -- frames made here --------------------------------------------------------------------------------------------------


def write(folder: Path, exchange: str, *bodies: str) -> Path:
    path = folder / f"{exchange}.ws.1.0"
    path.write_text("".join(f"16186778{17 + n}.{n}: {body}\n" for n, body in enumerate(bodies)))
    return path


def one_trade(folder: Path, exchange: str, body: str) -> tuple[str, tuple[int, ...]]:
    day, report = load(folder, write(folder, exchange, body))
    assert report.problems == []
    (row,) = np.concatenate(list(day.batches()))
    assert row["kind"] == Kind.TRADE and row["action"] == Action.TRADE
    return day.instruments[0].text, tuple(row[["ts_event", "side", "price", "size", "ref_id"]].tolist())


MATCH = (
    '{"type":"match","trade_id":7,"side":"sell","size":"0.5","price":"10","product_id":"A-USD",'
    '"time":"2021-04-17T16:43:37.089723Z"}'
)
PRICELESS = (
    '{"table":"orderBookL2","action":"partial","filter":{"symbol":"XBTUSD"},'
    '"data":[{"symbol":"XBTUSD","id":1,"side":"Buy","size":1}]}'
)
TRADES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "COINBASE": (MATCH, "coinbase.spot.A-USD", (1_618_677_817_089_723_000, Side.BID, 10 * ONE, ONE // 2, 7)),
    "KRAKEN": (
        '[0,[["5541.2","0.15850568","1534614057.321597","s","l",""]],"trade","XBT/USD"]',
        "kraken.spot.BTC-USD",
        (1_534_614_057_321_597_000, Side.ASK, 5_541_200_000_000, 158_505_680, 0),
    ),
    "DERIBIT": (
        '{"method":"subscription","params":{"channel":"trades.BTC-PERPETUAL.raw","data":[{"trade_seq":30289442,'
        '"timestamp":1590484156350,"price":8950.5,"instrument_name":"BTC-PERPETUAL","direction":"sell","amount":1e1}]}}',
        "deribit.perpetual.BTC-USD",
        (1_590_484_156_350_000_000, Side.ASK, 8_950_500_000_000, 10 * ONE, 30_289_442),
    ),
    "OKX": (
        '{"arg":{"channel":"trades","instId":"BTC-USDT"},'
        '"data":[{"tradeId":"13","px":"9.5","sz":"2","side":"buy","ts":"1630048897897"}]}',
        "okx.spot.BTC-USDT",
        (1_630_048_897_897_000_000, Side.BID, 9_500_000_000, 2 * ONE, 13),
    ),
}


@pytest.mark.parametrize("exchange", TRADES)
def test_the_side_of_a_trade_is_the_aggressors(exchange: str, tmp_path: Path) -> None:
    body, text, row = TRADES[exchange]
    assert one_trade(tmp_path, exchange, body) == (text, row)


@pytest.mark.parametrize("exchange", ["COINBASE", "DERIBIT", "OKX"])
def test_a_trade_that_came_twice_is_refused_the_second_time(exchange: str, tmp_path: Path) -> None:
    body = TRADES[exchange][0]
    day, report = load(tmp_path, write(tmp_path, exchange, body, body), terms=HALF)
    assert (day.rows, report.n_unreadable) == (1, 1) and "does not rise" in report.problems[0]


def test_a_deribit_change_that_came_twice_is_refused_and_a_gap_is_left_for_the_book_to_see(tmp_path: Path) -> None:
    def book(kind: str, change: int, before: str, bids: str) -> str:
        return (
            '{"method":"subscription","params":{"channel":"book.X.raw","data":{"type":"'
            + kind
            + '","timestamp":1626993723632,'
            f'"instrument_name":"BTC-PERPETUAL","change_id":{change}{before},"bids":[{bids}],"asks":[]' + "}}}"
        )

    second = book("change", 11, ',"prev_change_id":10', '["delete",100.5,0.0],["new",99,2.5]')
    lines = [book("snapshot", 10, "", '["new",100.5,1.0]'), second, second]
    day, report = load(tmp_path, write(tmp_path, "DERIBIT", *lines), terms=HALF)
    assert report.n_unreadable == 1
    rows = np.concatenate(list(day.batches()))
    fields = ["venue_seq", "ref_id", "action", "side", "price", "size"]
    assert rows[fields].tolist() == [
        (10, 0, Action.CLEAR, 0, 0, 0),
        (10, 0, Action.ADD, Side.BID, 100_500_000_000, ONE),
        (11, 10, Action.DELETE, Side.BID, 100_500_000_000, 0),
        (11, 10, Action.UPDATE, Side.BID, 99 * ONE, 2_500_000_000),
    ]


def test_kraken_levels_that_fall_out_of_the_depth_are_deleted(tmp_path: Path) -> None:
    def level(price: int) -> str:
        return f'["{price}.0","1.5","1618677816.5"]'

    bids = ",".join(level(100 + n) for n in range(10))
    start = f'[1,{{"as":[{level(200)}],"bs":[{bids}]}},"book-10","XBT/USD"]'
    update = f'[1,{{"b":[{level(150)}],"c":"1"}},"book-10","XBT/USD"]'
    day, _ = load(tmp_path, write(tmp_path, "KRAKEN", start, update))
    *_, last = events(day)
    assert last[["action", "side", "price", "size"]].tolist() == [
        (Action.UPDATE, Side.BID, 150 * ONE, 1_500_000_000),
        (Action.DELETE, Side.BID, 100 * ONE, 0),
    ]


@pytest.mark.parametrize(
    ("exchange", "body", "reason"),
    [
        ("COINBASE", '{"type":"error","message":"x"}', "a frame of type 'error'"),
        ("COINBASE", MATCH.replace("sell", "short"), "side 'short'"),
        ("COINBASE", MATCH.replace('"0.5"', "0.5"), "Expected `str`, got `float`"),
        ("COINBASE", MATCH.replace('"10"', '"ten"'), "'ten' is not a decimal"),
        ("COINBASE", MATCH.replace("089723Z", "089723"), "is not a time with a zone"),
        ("COINBASE", MATCH[:-5], "Input data was truncated"),
        ("COINBASE", MATCH.replace("A-USD", "A_USD"), "A_USD is no symbol of coinbase that is known here"),
        ("KRAKEN", '{"event":"subscriptionStatus","status":"error","errorMessage":"no"}', "subscriptionStatus no"),
        ("KRAKEN", '[1,{"b":[["1","1","1618677816.5"]]},"book-10","XBT/USD"]', "a book that had no snapshot"),
        ("KRAKEN", '[1,{},"ohlc-5","XBT/USD"]', "channel 'ohlc-5'"),
        ("BYBIT", '{"success":false,"ret_msg":"no"}', "refused: no"),
        ("BYBIT", '{"topic":"insurance.BTC","data":[]}', "topic 'insurance.BTC'"),
        ("BITMEX", PRICELESS, "level 1 of XBTUSD was never said a price"),
        ("BITMEX", '{"table":"funding","action":"insert","data":[]}', "table 'funding'"),
        ("OKX", '{"event":"error","msg":"no","code":"1"}', "event 'error': no"),
        ("OKX", TRADES["OKX"][0].replace('"13"', '"abc"'), "'abc' is not a whole number"),
        ("DERIBIT", '{"error":{"code":1}}', "method ''"),
        ("DERIBIT", TRADES["DERIBIT"][0].replace("sell", "none"), "side 'none' is none of buy, sell"),
        ("DERIBIT", TRADES["DERIBIT"][0].replace("1e1", "1e99"), "is not a decimal"),
        ("BINANCE_FUTURES", '{"stream":"x@markPrice","data":{}}', "stream 'x@markPrice'"),
    ],
)
def test_frames_that_nobody_explains_are_refused_with_their_text(
    exchange: str, body: str, reason: str, tmp_path: Path
) -> None:
    sources = [write(tmp_path, exchange, body)]
    (tmp_path / "good").mkdir()
    sources.append(write(tmp_path / "good", "COINBASE", TRADES["COINBASE"][0]))
    _, report = import_cryptofeed(sources, tmp_path / "day", terms=HALF)
    (problem,) = report.problems
    assert problem.startswith(f"{exchange}.ws.1.0:1: ") and reason in problem
    (reject,) = map(json.loads, (tmp_path / "day.rejects.ndjson").read_text().splitlines())
    assert reject["text"].endswith(body)


def test_a_frame_with_one_number_that_does_not_fit_gives_no_row_at_all(tmp_path: Path) -> None:
    body = MATCH.replace("match", "l2update").replace('"trade_id":7', '"changes":[["buy","1","2"],["buy","2","1e5"]]')
    day, report = load(tmp_path, write(tmp_path, "COINBASE", MATCH, body), terms=HALF)
    assert day.rows == 1 and "'1e5' is not a decimal" in report.problems[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x: {}", "is not a time in seconds"),
        ("1618677817.1 {}", "is not a time in seconds"),
        ("16186778.5: {}", "a time"),
    ],
)
def test_a_line_without_a_time_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, "COINBASE", MATCH)
    path.write_text(path.read_text() + line + "\n")
    _, report = load(tmp_path, path, terms=HALF)
    assert report.problems[0].startswith("COINBASE.ws.1.0:2: ") and reason in report.problems[0]


def test_a_recording_of_an_unknown_exchange_or_without_frames_of_the_market_makes_no_day(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match=r"FTX\.ws\.1\.0 is not named <exchange>"):
        load(tmp_path, write(tmp_path, "FTX", "{}"))
    path = tmp_path / "OKX.0"
    path.write_text("https://www.okx.com/api -> 1652458996.25: {}\nconfiguration: {}\n")
    with pytest.raises(UnreadableSource, match=r"no rows in OKX\.0"):
        load(tmp_path, path)


@pytest.mark.parametrize(
    ("number", "text"),
    [(b"1e-05", "0.00001"), (b"1.5E+3", "1500"), (b'"7.943"', "7.943"), (b"60621.5", "60621.5"), (b"1e999", "1e999")],
)
def test_json_numbers_keep_their_digits(number: bytes, text: str) -> None:
    assert plain(number) == text
