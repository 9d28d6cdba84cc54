"""Tardis CSV datasets, written here as their documentation has them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from models.errors import UnreadableSource
from models.market.fold import OfflineFold
from models.market.instruments import parse
from models.market.tick import Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.report import ImportReport, Terms
from streams.days.importers.symbols import named_symbols, sized
from streams.days.importers.tardis import import_tardis
from streams.days.importers.venues import by_exchange
from streams.days.verify import verify_day

US = 1_600_000_000_000_000
HEAD = "exchange,symbol,timestamp,local_timestamp,"
TRADES = HEAD + "id,side,price,amount"
LEVELS = HEAD + "is_snapshot,side,price,amount"
QUOTES = HEAD + "ask_amount,ask_price,bid_price,bid_amount"
TICKER = HEAD + "funding_timestamp,funding_rate,predicted_funding_rate,open_interest,last_price,index_price,mark_price"
SNAPSHOT = HEAD + ",".join(
    f"{side}[{k}].{what}" for k in (0, 1) for side in ("asks", "bids") for what in ("price", "amount")
)
ONE = 10**9
HALF = Terms(max_rejects=0.9)


def at(n: int, symbol: str = "BTCUSDT", exchange: str = "binance-futures") -> str:
    """Head of a line, received 5 us after it happened."""
    return f"{exchange},{symbol},{US + n},{US + n + 5},"


def write(folder: Path, data_type: str, header: str, *lines: str, symbol: str = "BTCUSDT") -> Path:
    path = folder / f"binance-futures_{data_type}_2020-09-13_{symbol}.csv.gz"
    path.write_bytes(gzip.compress("\n".join([header, *lines, ""]).encode(), mtime=0))
    return path


def load(folder: Path, *sources: Path, **options: object) -> tuple[TickArray, Day, ImportReport]:
    day, report = import_tardis(sources, folder / "day", **options)  # type: ignore[arg-type]
    assert verify_day(day.path).problems == []
    return np.concatenate(list(day.batches())), day, report


def of(rows: TickArray, *names: str) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows[list(names)].tolist()]


def test_trades_and_liquidations_are_told_apart_by_the_files_name(tmp_path: Path) -> None:
    lines = [at(0) + "77,buy,100.5,0.25", at(1) + "x-9,sell,1e-7,3", at(2) + ",unknown,100,1"]
    sources = [write(tmp_path, name, TRADES, *lines) for name in ("trades", "liquidations")]
    rows, day, report = load(tmp_path, *sources)
    assert (report.n_records, report.n_unreadable, day.name) == (6, 0, "tardis-20200913")
    assert [i.text for i in day.instruments] == ["binance.perpetual.BTC-USDT"]
    trades, liquidations = (rows[rows["kind"] == kind] for kind in (Kind.TRADE, Kind.LIQUIDATION))
    fields = ("ts_event", "ts_recv", "action", "side", "price", "size", "flags")
    times = [((US + n) * 1000, (US + n + 5) * 1000, Action.TRADE) for n in range(3)]
    assert of(trades, *fields) == of(liquidations, *fields) == [
        (*times[0], Side.BID, 100_500_000_000, 250_000_000, Flag.LAST),
        (*times[1], Side.ASK, 100, 3 * ONE, Flag.LAST),
        (*times[2], Side.NONE, 100 * ONE, ONE, Flag.LAST),
    ]  # fmt: skip
    assert (trades["ref_id"].tolist(), liquidations["ref_id"].tolist()) == ([77, 0, 0], [0, 0, 0])


@pytest.mark.parametrize("data_type", ["quotes", "book_ticker"])
def test_quotes_have_two_sides_and_an_empty_one_is_empty(tmp_path: Path, data_type: str) -> None:
    rows, _, _ = load(tmp_path, write(tmp_path, data_type, QUOTES, at(0) + "2,101,100,1", at(1) + "2,101,,"))
    ask, tob = (Kind.QUOTE, Action.UPDATE, Side.ASK, 101 * ONE, 2 * ONE, Flag.TOB | Flag.LAST), Flag.TOB
    assert of(rows, "kind", "action", "side", "price", "size", "flags") == [
        (Kind.QUOTE, Action.UPDATE, Side.BID, 100 * ONE, ONE, tob),
        ask,
        (Kind.QUOTE, Action.DELETE, Side.BID, 0, 0, tob),
        ask,
    ]


def test_a_run_of_snapshot_lines_starts_the_book_anew_and_what_came_before_the_first_is_left_out(
    tmp_path: Path,
) -> None:
    lines = [
        at(0) + "false,bid,98,7",
        at(1) + "true,bid,100,1",
        at(1) + "true,ask,101,2",
        at(2) + "true,ask,102,0",  # a snapshot that came in two messages
        at(3) + "false,bid,100,0",
        at(3) + "false,bid,99,4",
        at(4) + "false,ask,101,3",
        at(5) + "true,bid,90,1",
        at(5) + "false,bid,91,2",  # received in the same instant, but no part of the snapshot
    ]
    rows, _, report = load(tmp_path, write(tmp_path, "incremental_book_L2", LEVELS, *lines))
    assert (report.n_records, dict(report.explained)) == (9, {"updates before the first snapshot": 1})
    snap, mbp, last = Flag.MBP | Flag.SNAPSHOT, Flag.MBP, Flag.LAST
    assert of(rows, "ts_event", "action", "side", "price", "size", "flags") == [
        ((US + n) * 1000, action, side, price * ONE, size * ONE, flags)
        for n, action, side, price, size, flags in [
            (1, Action.CLEAR, Side.NONE, 0, 0, snap),
            (1, Action.ADD, Side.BID, 100, 1, snap),
            (1, Action.ADD, Side.ASK, 101, 2, snap | last),
            (2, Action.ADD, Side.ASK, 102, 0, snap | last),
            (3, Action.DELETE, Side.BID, 100, 0, mbp),
            (3, Action.UPDATE, Side.BID, 99, 4, mbp | last),
            (4, Action.UPDATE, Side.ASK, 101, 3, mbp | last),
            (5, Action.CLEAR, Side.NONE, 0, 0, snap),
            (5, Action.ADD, Side.BID, 90, 1, snap | last),
            (5, Action.UPDATE, Side.BID, 91, 2, mbp | last),
        ]
    ]


def test_books_of_many_symbols_in_one_file_are_those_of_a_plain_fold(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    books: dict[str, dict[str, dict[int, int]]] = {symbol: {"bid": {}, "ask": {}} for symbol in symbols}
    lines, snapshots = [], dict.fromkeys(symbols, False)
    for n in range(3000):
        symbol, started = symbols[int(rng.integers(3))], rng.random() < 0.03
        if started and not snapshots[symbol]:
            books[symbol] = {"bid": {}, "ask": {}}
        snapshots[symbol] = started
        for _ in range(int(rng.integers(1, 5))):
            side, price = ("bid", "ask")[int(rng.integers(2))], int(rng.integers(1, 40))
            size = int(rng.integers(1 if started else 0, 4))
            books[symbol][side][price] = size
            lines.append(at(n, symbol) + f"{str(started).lower()},{side},{price},{size}")
    source = write(tmp_path, "incremental_book_L2", LEVELS, *lines, symbol="PERPETUALS")
    rows, day, _ = load(tmp_path, source)
    assert (rows["ts_recv"][1:] >= rows["ts_recv"][:-1]).all()
    whole = OfflineFold([i.text for i in day.instruments])
    whole.update(rows)
    for final, instrument in zip(whole.finals(), day.instruments, strict=True):
        expected = books[instrument.symbol.replace("-", "")]
        for side, levels in (("bid", final.bids), ("ask", final.asks)):
            assert dict((levels // ONE).tolist()) == {p: q for p, q in expected[side].items() if q}


def test_book_snapshots_are_whole_books_of_the_levels_that_are_there(tmp_path: Path) -> None:
    lines = [at(0) + "101,1,100,2,102,3,99,4", at(1) + "101,1,,,,,,"]
    rows, _, _ = load(tmp_path, write(tmp_path, "book_snapshot_2", SNAPSHOT, *lines))
    snap, last = Flag.MBP | Flag.SNAPSHOT, Flag.LAST
    assert of(rows, "action", "side", "price", "size", "flags") == [
        (action, side, price * ONE, size * ONE, flags)
        for action, side, price, size, flags in [
            (Action.CLEAR, 0, 0, 0, snap),
            (Action.ADD, Side.BID, 100, 2, snap),
            (Action.ADD, Side.BID, 99, 4, snap),
            (Action.ADD, Side.ASK, 101, 1, snap),
            (Action.ADD, Side.ASK, 102, 3, snap | last),
            (Action.CLEAR, 0, 0, 0, snap),
            (Action.ADD, Side.ASK, 101, 1, snap | last),
        ]
    ]


def test_what_is_not_kept_of_a_ticker_need_not_fit(tmp_path: Path) -> None:
    lines = [at(0) + f"{US + 9},0.0001,{0.1 / 3:.17f},,7.123456789012,8,9", at(1) + f",{0.1 / 3:.17f},,,7,8,9"]
    rows, _, report = load(tmp_path, write(tmp_path, "derivative_ticker", TICKER, *lines), terms=HALF)
    assert rows["price"].tolist() == [100_000, 9 * ONE, 8 * ONE]
    assert report.n_unreadable == 1  # a rate that nine decimals do not hold is not rounded


def test_an_empty_file_among_others_says_that_there_was_nothing(tmp_path: Path) -> None:
    """Tardis delivers one where a day has no data."""
    empty = tmp_path / "binance-futures_liquidations_2020-09-13_BTCUSDT.csv.gz"
    empty.write_bytes(gzip.compress(b""))
    rows, _, report = load(tmp_path, write(tmp_path, "trades", TRADES, at(0) + "1,buy,2,3"), empty)
    assert (len(rows), report.n_unreadable) == (1, 0)


def test_tickers_give_funding_where_there_is_a_rate_and_open_interest_where_it_is_told(tmp_path: Path) -> None:
    due = US + 3600 * 10**6
    lines = [at(0) + f"{due},-0.0001,,5000.5,100,101,102", at(1) + ",,,6000,100,101,102", at(2) + ",,,,100,,"]
    rows, _, report = load(tmp_path, write(tmp_path, "derivative_ticker", TICKER, *lines))
    assert dict(report.explained) == {"ticker without funding rate and open interest": 1}
    assert of(rows, "kind", "side", "price", "size", "ref_id", "flags") == [
        (Kind.FUNDING, 0, -100_000, 0, due * 1000, 0),
        (Kind.FUNDING, 1, 102 * ONE, 0, 0, 0),
        (Kind.FUNDING, 2, 101 * ONE, 0, 0, Flag.LAST),
        (Kind.OPEN_INTEREST, 0, 0, 5000_500_000_000, 0, Flag.LAST),
        (Kind.OPEN_INTEREST, 0, 0, 6000 * ONE, 0, Flag.LAST),
    ]


def test_coins_below_a_cent_have_coarser_sizes(tmp_path: Path) -> None:
    lines = [at(0, "SHIBUSDT") + "1,buy,0.00001,99999999999.25", at(1, "SHIBUSDT") + "2,buy,0.00001,5"]
    rows, day, _ = load(tmp_path, write(tmp_path, "trades", TRADES, *lines))
    assert (day.instruments[0].size_exp, rows["size"].tolist()) == (-2, [9_999_999_999_925, 500])
    # what the first rows choose is too coarse for a later one: it is refused, and the user may say better
    later = [*lines, *[lines[1]] * 1000, at(2, "SHIBUSDT") + "3,buy,0.00001,0.125"]
    source = write(tmp_path, "trades", TRADES, *later, symbol="SHIBUSDT")
    _, report = import_tardis([source], tmp_path / "coarse", terms=HALF)
    assert [problem.split(": ", 1)[1] for problem in report.problems] == ["amount has more than 2 decimals"]
    named = named_symbols(["SHIBUSDT=binance.perpetual.SHIB-USDT@-9/-7"])
    fine, report = import_tardis([source], tmp_path / "fine", named=named)
    assert (fine.instruments[0].size_exp, report.n_unreadable) == (-7, 0)


@pytest.mark.parametrize(
    ("prices", "sizes", "exponents"),
    [
        ("100.5", "0.001", (-9, -9)),
        ("0.0000228", "13355.87450757", (-9, -9)),  # a fractional size below a cent
        ("0.005", "12", (-9, -2)),
        ("0.0000016477", "1", (-12, -2)),
        ("31.7 9999999997.00000", "1", (-8, -9)),
        ("31.7123456789 9999999997", "1", (-12, -9)),  # nothing holds both: the far one is refused
        ("100", "20000000000.123", (-9, -8)),
        ("", "", (-9, -9)),
    ],
)
def test_exponents_hold_the_first_numbers_of_an_instrument(prices: str, sizes: str, exponents: tuple[int, int]) -> None:
    made = sized(parse("lab.spot.A-B"), *([Decimal(text) for text in texts.split()] for texts in (prices, sizes)))
    assert (made.price_exp, made.size_exp) == exponents


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (TRADES.replace("price,amount", "amount"), "missing 'price'"),
        (TRADES + ",fee", "unknown 'fee'"),
        (TRADES.replace("side,price", "price,price"), "missing 'side'; twice 'price'"),
        (LEVELS, "unknown 'is_snapshot'; missing 'id'"),
        (at(0) + "77,buy,100.5,0.25", "missing 'exchange', 'symbol'"),
    ],
)
def test_a_header_that_is_not_the_data_types_is_an_error(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(UnreadableSource, match=f"not the columns of trades: .*{message}"):
        load(tmp_path, write(tmp_path, "trades", header, at(1) + "1,buy,1,1"))


def test_columns_may_stand_in_another_order(tmp_path: Path) -> None:
    order = ["price", "amount", "side", "id", "local_timestamp", "timestamp", "symbol", "exchange"]
    source = write(tmp_path, "trades", ",".join(order), f"100,2,sell,5,{US + 5},{US},BTCUSDT,binance")
    rows, day, _ = load(tmp_path, source)
    assert of(rows, "price", "size", "side", "ref_id") == [(100 * ONE, 2 * ONE, Side.ASK, 5)]
    assert day.instruments[0].text == "binance.spot.BTC-USDT"


GOOD = at(0) + "1,buy,100,1"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "an empty line"),
        (GOOD + ",9", "Expected 8 columns, got 9"),
        ("," + GOOD.rpartition(",")[0], "CSV column #2"),
        (at(0) + "1,long,100,1", "side 'long' is none of buy, sell, unknown"),
        (at(0) + "1,buy,,1", "price is empty"),
        (at(0) + "1,buy,nan,1", "CSV column #6"),
        (at(0) + "1,buy,100,-1", "amount is negative"),
        (at(0) + "1,buy,99999999999999999999.5,1", "price does not fit int64 with exponent -9"),
        (at(0) + "1,buy,1.0000000001,1", "Rescaling Decimal value would cause data loss"),
        (at(0) + '1,"buy,100,1', "side '\"buy' is none of"),
        (at(0) + "1,buy,100,1\r" + GOOD, "a line is not one row"),
        (f"binance,BTCUSDT,{US // 1000},{US},1,buy,100,1", "timestamp is not in"),
        ("ftx,BTC/USD," + GOOD.split(",", 2)[2], "ftx is none of binance .*say what BTC/USD is with --symbol"),
        (at(0, "BTCXYZ") + "1,buy,100,1", "BTCXYZ ends in none of"),
    ],
)
def test_lines_that_cannot_be_are_refused_with_number_reason_and_text(tmp_path: Path, line: str, reason: str) -> None:
    source = write(tmp_path, "trades", TRADES, GOOD, line, at(9) + "2,buy,100,1")
    rows, _, report = load(tmp_path, source, terms=HALF)
    assert (len(rows), report.n_records, report.n_unreadable) == (2, 2, 1)
    (problem,) = report.problems
    assert problem.startswith(f"{source.name}:3: ")
    assert re.search(reason, problem), problem
    (reject,) = (tmp_path / "day.rejects.ndjson").read_text().splitlines()
    assert line.replace('"', '\\"').replace("\r", "\\r") in reject


def test_what_an_unknown_symbol_stands_for_can_be_said(tmp_path: Path) -> None:
    source = write(tmp_path, "trades", TRADES, at(0, "BTC-PERP", "ftx") + "1,buy,100,1")
    _, day, _ = load(tmp_path, source, named={"BTC-PERP": parse("ftx.perpetual.BTC-USD")})
    assert [i.text for i in day.instruments] == ["ftx.perpetual.BTC-USD"]
    assert day.manifest.origin.options == {"symbol BTC-PERP": "ftx.perpetual.BTC-USD"}


def test_a_file_whose_name_says_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT.csv.gz"
    path.write_bytes(gzip.compress(TRADES.encode()))
    with pytest.raises(UnreadableSource, match="is not named <exchange>_<data type>_"):
        load(tmp_path, path)


def test_a_header_alone_makes_no_day(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match="no rows in"):
        load(tmp_path, write(tmp_path, "trades", TRADES))


def test_the_same_files_give_the_same_bytes_in_any_order_and_at_any_size_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(data_type: str) -> Sequence[str]:
        if data_type == "trades":
            return [at(3 * n) + f"{n},buy,{n + 1},1" for n in range(4000)]
        return [at(2 * (n // 3)) + f"{str(n < 50).lower()},bid,{n % 90 + 1},{n % 4 + (n < 50)}" for n in range(9000)]

    sources = [
        write(tmp_path, name, header, *lines(name))
        for name, header in (("trades", TRADES), ("incremental_book_L2", LEVELS))
    ]
    first, _ = import_tardis(sources, tmp_path / "first")
    monkeypatch.setattr("streams.days.importers.source._BLOCK_BYTES", 3_001)
    second, _ = import_tardis(sources[::-1], tmp_path / "second")
    for name in ("ticks.parquet", "manifest.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("binance:ETHBTC", "binance.spot.ETH-BTC"),
        ("binance-futures:BTCUSDT_210625", "binance.futures.BTC-USDT-210625"),
        ("binance-delivery:BTCUSD_PERP", "binance-cm.perpetual.BTC-USD"),
        ("deribit:BTC-PERPETUAL", "deribit.perpetual.BTC-USD"),
        ("deribit:SOL_USDC-PERPETUAL", "deribit.perpetual.SOL-USDC"),
        ("deribit:BTC-5MAR21", "deribit.futures.BTC-USD-210305"),
        ("deribit:ETH-30JUL21-2800-C", "deribit.options.ETH-USD-210730-2800-C"),
        ("okex-swap:UNI-USD-SWAP", "okx.perpetual.UNI-USD"),
        ("okex-futures:BTC-USD-220527", "okx.futures.BTC-USD-220527"),
        ("okex-options:BTC-USD-220527-30000-P", "okx.options.BTC-USD-220527-30000-P"),
        ("bitmex:XBTUSD", "bitmex.perpetual.BTC-USD"),
        ("coinbase:SKL-BTC", "coinbase.spot.SKL-BTC"),
        ("kraken:KSM/XBT", "kraken.spot.KSM-BTC"),
    ],
)
def test_symbols_of_exchanges_become_instruments(name: str, text: str) -> None:
    assert by_exchange(name).text == parse(text).text == text
