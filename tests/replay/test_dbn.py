"""DBN files, built with the library itself."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn as dbn
import numpy as np
import pyarrow as pa
import pytest

from models.errors import TooManyRejects, UnreadableSource
from models.market.fold import OfflineFold
from models.market.instruments import parse
from models.market.tick import Action, Flag, Kind, Side, TickArray
from streams.days.day import Day
from streams.days.importers.dbn import DbnNames, import_dbn
from streams.days.importers.report import ImportReport, Terms
from streams.days.verify import verify_day

START = 1_704_067_200 * 10**9  # 2024-01-01
SHARE = 10**9
STOCKS = DbnNames("spot", "USD")
HALF = Terms(max_rejects=0.9)


def metadata(schema: dbn.Schema | None, **symbols: int) -> bytes:
    def mapping(symbol: str, number: int) -> SimpleNamespace:
        span = SimpleNamespace(start_date=dt.date(2024, 1, 1), end_date=dt.date(2024, 1, 2), symbol=str(number))
        return SimpleNamespace(raw_symbol=symbol, intervals=[span])

    return bytes(
        dbn.Metadata(
            dataset="XNAS.ITCH",
            start=START,
            stype_in=dbn.SType.RAW_SYMBOL,
            stype_out=dbn.SType.INSTRUMENT_ID,
            schema=schema,
            symbols=list(symbols),
            mappings=[mapping(symbol, number) for symbol, number in symbols.items()],
        )
    )


def record(kind: Any, at: int = 0, **fields: Any) -> bytes:
    """A record of publisher 2 (XNAS.ITCH.XNAS), instrument 5 and price 10 unless it says otherwise."""
    given = {"publisher_id": 2, "instrument_id": 5, "ts_event": START + at, "ts_recv": START + at + 7}
    given |= {"price": 10 * SHARE, "size": 3, "action": dbn.Action.TRADE, "side": dbn.Side.ASK}
    if kind is not dbn.MBOMsg:
        given["depth"] = 0
    else:
        given["channel_id"] = 0
    return bytes(kind(**(given | fields)))


def level(bid: int, bid_size: int, ask: int, ask_size: int) -> dbn.BidAskPair:
    return dbn.BidAskPair(bid_px=bid, bid_sz=bid_size, ask_px=ask, ask_sz=ask_size, bid_ct=1, ask_ct=1)


def load(folder: Path, data: bytes, *, name: str = "x.dbn", **options: Any) -> tuple[Day, ImportReport]:
    path = folder / name
    path.write_bytes(data)
    return import_dbn([path], folder / "day", **({"names": STOCKS} | options))


def rows_of(day: Day) -> TickArray:
    assert verify_day(day.path).problems == []
    return np.concatenate(list(day.batches()))


FIELDS = ["kind", "action", "side", "price", "size", "ref_id", "venue_seq", "flags"]


def test_trades_keep_their_flags_and_sequence(tmp_path: Path) -> None:
    trades = [
        record(dbn.TradeMsg, 0, sequence=41, flags=dbn.F_BAD_TS_RECV),
        record(dbn.TradeMsg, 1, sequence=42, side=dbn.Side.BID, flags=dbn.F_LAST | dbn.F_MAYBE_BAD_BOOK),
        record(dbn.TradeMsg, 2, side=dbn.Side.NONE, instrument_id=6, price=-5, size=2**32 - 1),
    ]
    day, report = load(tmp_path, metadata(dbn.Schema.TRADES, AAPL=5, MSFT=6) + b"".join(trades))
    assert (report.n_records, report.n_unreadable, day.name) == (3, 0, "dbn-20240101")
    assert [i.text for i in day.instruments] == ["xnas.spot.AAPL-USD", "xnas.spot.MSFT-USD"]
    assert day.manifest.origin.options == {"market_type": "spot", "quote": "USD"}
    rows = rows_of(day)
    assert rows[["ts_event", "ts_recv", "instrument_id"]].tolist() == [
        (START + n, START + n + 7, n // 2) for n in range(3)
    ]
    trade = (Kind.TRADE, Action.TRADE)
    assert rows[FIELDS].tolist() == [
        (*trade, Side.ASK, 10 * SHARE, 3 * SHARE, 0, 41, Flag.LAST | Flag.BAD_TS_RECV),
        (*trade, Side.BID, 10 * SHARE, 3 * SHARE, 0, 42, Flag.LAST | Flag.MAYBE_BAD_BOOK),
        (*trade, Side.NONE, -5, (2**32 - 1) * SHARE, 0, 0, Flag.LAST),
    ]


@pytest.mark.parametrize("schema", [dbn.Schema.MBP_1, dbn.Schema.TBBO])
def test_the_best_bid_and_offer_stands_after_a_trade_and_in_tbbo_before_it(tmp_path: Path, schema: Any) -> None:
    both = record(dbn.MBP1Msg, 0, sequence=7, levels=level(9, 1, 11, 2))
    empty = record(dbn.MBP1Msg, 1, action=dbn.Action.CANCEL, levels=level(dbn.UNDEF_PRICE, 0, 11, 2))
    day, report = load(tmp_path, metadata(schema, AAPL=5) + both + empty)
    assert (report.n_records, report.n_unreadable) == (2, 0)
    quote, tob = (Kind.QUOTE, Action.UPDATE), Flag.TOB
    bid, ask = (*quote, Side.BID, 9, SHARE, 0, 7), (*quote, Side.ASK, 11, 2 * SHARE, 0, 7)
    trade = (Kind.TRADE, Action.TRADE, Side.ASK, 10 * SHARE, 3 * SHARE, 0, 7)
    last = Flag.LAST
    first = [(*trade, 0), (*bid, tob), (*ask, tob | last)]
    if schema == dbn.Schema.TBBO:
        first = [(*bid, tob), (*ask, tob), (*trade, last)]
    assert rows_of(day)[FIELDS].tolist() == [
        *first,
        (Kind.QUOTE, Action.DELETE, Side.BID, 0, 0, 0, 0, tob),
        (*ask[:6], 0, tob | last),
    ]


def ladder(*prices: int) -> list[dbn.BidAskPair]:
    """Ten levels, bids at these prices."""
    levels = [level(p, p, 100_000 - p, p) for p in prices]
    return levels + [dbn.BidAskPair()] * (10 - len(levels))


def test_the_books_of_mbp_10_are_the_levels_of_each_record(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    data, shown = metadata(dbn.Schema.MBP_10, AAPL=5, MSFT=6), {5: [], 6: []}
    for n in range(400):
        number = int(rng.integers(5, 7))
        depth = int(rng.integers(0, 11))
        steps = np.cumsum(rng.integers(1, 3, 20))
        bids, asks = 1000 - steps[:10], 1000 + steps[10:]
        sizes = rng.integers(1, 4, 20).tolist()
        levels = [level(int(bids[k]), sizes[k], int(asks[k]), sizes[10 + k]) for k in range(depth)]
        levels += [dbn.BidAskPair()] * (10 - depth)
        data += record(dbn.MBP10Msg, n, action=dbn.Action.ADD, instrument_id=number, levels=levels)
        shown[number] = [(int(bids[k]), sizes[k] * SHARE, int(asks[k]), sizes[10 + k] * SHARE) for k in range(depth)]
        if n % 40 == 0:
            trial, report = import_dbn([_write(tmp_path, n, data)], tmp_path / f"day{n}", names=STOCKS)
            assert report.n_unreadable == 0
            whole = OfflineFold([i.text for i in trial.instruments])
            for ticks in trial.batches(37):
                whole.update(ticks)
            for final, instrument in zip(whole.finals(), trial.instruments, strict=True):
                want = shown[5 if "AAPL" in instrument.symbol else 6]
                assert final.bids.tolist() == [[p, q] for p, q, _, _ in want]
                assert final.asks.tolist() == [[p, q] for _, _, p, q in want]
    snapshots = rows_of(trial)
    assert (snapshots["action"] == Action.CLEAR).sum() == 2, "one snapshot each, then differences"


def _write(folder: Path, n: int, data: bytes) -> Path:
    path = folder / f"{n}.dbn"
    path.write_bytes(data)
    return path


def test_mbo_records_become_orders_and_trades_in_events_up_to_their_last(tmp_path: Path) -> None:
    bid = {"side": dbn.Side.BID, "order_id": 77}
    records = [
        record(dbn.MBOMsg, 0, action=dbn.Action.CLEAR, side=dbn.Side.NONE, order_id=0, price=dbn.UNDEF_PRICE, size=0),
        record(dbn.MBOMsg, 0, action=dbn.Action.ADD, flags=dbn.F_SNAPSHOT, **bid),
        record(dbn.MBOMsg, 1, action=dbn.Action.MODIFY, sequence=9, flags=dbn.F_LAST, **bid | {"price": 11}),
        record(dbn.MBOMsg, 2, action=dbn.Action.TRADE, side=dbn.Side.ASK, order_id=0, size=1),
        record(dbn.MBOMsg, 2, action=dbn.Action.FILL, **bid | {"size": 1}),
        record(dbn.MBOMsg, 2, action=dbn.Action.CANCEL, flags=dbn.F_LAST, **bid | {"size": 1}),
        record(dbn.MBOMsg, 2, action=dbn.Action.NONE, side=dbn.Side.NONE, order_id=0),
        record(dbn.MBOMsg, 3, action=dbn.Action.ADD, **bid | {"instrument_id": 6}),
    ]
    day, report = load(tmp_path, metadata(dbn.Schema.MBO, AAPL=5, MSFT=6) + b"".join(records))
    assert (report.n_records, report.n_unreadable) == (8, 0)
    ten, three, one, last = 10 * SHARE, 3 * SHARE, SHARE, Flag.LAST
    assert rows_of(day)[FIELDS].tolist() == [
        (Kind.ORDER, Action.CLEAR, 0, 0, 0, 0, 0, 0),
        (Kind.ORDER, Action.ADD, Side.BID, ten, three, 77, 0, Flag.SNAPSHOT | last),
        (Kind.ORDER, Action.UPDATE, Side.BID, 11, three, 77, 9, last),
        (Kind.TRADE, Action.TRADE, Side.ASK, ten, one, 0, 0, 0),
        (Kind.ORDER, Action.TRADE, Side.BID, ten, one, 77, 0, 0),
        (Kind.ORDER, Action.DELETE, Side.BID, ten, one, 77, 0, last),
        (Kind.ORDER, Action.ADD, Side.BID, ten, three, 77, 0, last),
    ]


def test_an_event_without_an_end_is_cut_before_it_fills_the_memory(tmp_path: Path) -> None:
    order = record(dbn.MBOMsg, 0, action=dbn.Action.ADD, side=dbn.Side.BID, order_id=1)
    day, _ = load(tmp_path, metadata(dbn.Schema.MBO, AAPL=5) + order * 60_000)
    assert day.rows == 60_000
    ends = np.flatnonzero(rows_of(day)["flags"] & Flag.LAST)
    assert np.diff(ends, prepend=-1).max() <= 30_000 and ends[-1] == 59_999


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(dbn.TradeMsg, price=dbn.UNDEF_PRICE), "the price is undefined"),
        (record(dbn.TradeMsg, instrument_id=9), "the metadata name no symbol of instrument 9 on 2024-01-01"),
        (record(dbn.TradeMsg, ts_event=START, ts_recv=dbn.UNDEF_TIMESTAMP), "no time"),
        (record(dbn.TradeMsg, at=86_400 * SHARE), "the metadata name no symbol of instrument 5 on 2024-01-02"),
        (record(dbn.TradeMsg, action=dbn.Action.ADD), "an action that is no trade"),
        (record(dbn.TradeMsg, instrument_id=7), "symbol 'BRK.B-USD' is not BASE-QUOTE in upper case (spot)"),
        (record(dbn.MBP1Msg, levels=level(9, 1, dbn.UNDEF_PRICE, 2)), "the ask price is undefined"),
        (record(dbn.MBP10Msg, levels=ladder(5, 6)), "the levels are not best first"),
        (
            record(dbn.MBP10Msg, levels=[level(dbn.UNDEF_PRICE, 1, 5, 5), *ladder()[:9]]),
            "a level's price is undefined",
        ),
        (record(dbn.MBOMsg, action=dbn.Action.ADD, side=dbn.Side.NONE, order_id=4), "an order without a side"),
        (
            record(dbn.MBOMsg, action=dbn.Action.CANCEL, price=dbn.UNDEF_PRICE, order_id=4),
            "the price is undefined",
        ),
    ],
)
def test_records_that_cannot_be_are_refused_with_the_reason(tmp_path: Path, bad: bytes, reason: str) -> None:
    data = metadata(None, **{"AAPL": 5, "BRK.B": 7}) + record(dbn.TradeMsg) + bad
    day, report = load(tmp_path, data, terms=HALF)
    assert (day.rows, report.problems) == (1, [f"x.dbn:2: {reason}"])
    (reject,) = map(json.loads, (tmp_path / "day.rejects.ndjson").read_bytes().splitlines())
    assert bytes.fromhex(reject["text"]) == bad


def test_records_of_other_schemas_are_refused_and_the_ones_of_the_feed_explained(tmp_path: Path) -> None:
    mapping = dbn.SymbolMappingMsg(
        publisher_id=2,
        instrument_id=9,
        ts_event=START,
        stype_in=dbn.SType.RAW_SYMBOL,
        stype_in_symbol="NVDA",
        stype_out=dbn.SType.RAW_SYMBOL,
        stype_out_symbol="NVDA",
        start_ts=0,
        end_ts=0,
    )
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), 1)
    bar = dbn.OHLCVMsg(rtype=dbn.RType.OHLCV_1S, publisher_id=2, instrument_id=5, ts_event=START, **prices)
    data = metadata(None, AAPL=5) + bytes(mapping) + record(dbn.TradeMsg, instrument_id=9) + bytes(bar)
    day, report = load(tmp_path, data, terms=HALF)
    assert [i.text for i in day.instruments] == ["xnas.spot.NVDA-USD"]
    assert (report.n_records, dict(report.explained)) == (2, {"SymbolMappingMsg": 1})
    assert report.problems == ["x.dbn:3: OHLCVMsg is none of trades, tbbo, mbp-1, mbp-10, mbo"]


def test_what_a_symbol_stands_for_is_said_or_refused(tmp_path: Path) -> None:
    data = metadata(dbn.Schema.TRADES, ESH4=5) + record(dbn.TradeMsg)
    with pytest.raises(TooManyRejects, match="DBN does not say what ESH4 is: say --market-type and --quote"):
        load(tmp_path, data, names=None)
    named = DbnNames(named={"ESH4": parse("cme.futures.ES-USD-240315")})
    day, _ = load(tmp_path, data, names=named)
    assert [i.text for i in day.instruments] == ["cme.futures.ES-USD-240315"]
    assert day.manifest.origin.options == {"symbol ESH4": "cme.futures.ES-USD-240315"}


def test_two_publishers_of_one_symbol_never_share_a_book(tmp_path: Path) -> None:
    data = metadata(None, AAPL=5) + record(dbn.TradeMsg) + record(dbn.TradeMsg, 1, publisher_id=1)
    day, _ = load(tmp_path, data)
    assert sorted(i.text for i in day.instruments) == ["glbx.spot.AAPL-USD", "xnas.spot.AAPL-USD"]
    with pytest.raises(TooManyRejects, match="AAPL comes from xnas and from glbx, but has one --symbol"):
        import_dbn([tmp_path / "x.dbn"], tmp_path / "two", names=DbnNames(named={"AAPL": parse("us.spot.AAPL-USD")}))


@pytest.mark.parametrize("form", ["plain", "zstd", "gzip"])
@pytest.mark.parametrize("n_left", [20, 60])
def test_a_cut_file_is_an_error_and_keeps_its_whole_records_when_asked(tmp_path: Path, form: str, n_left: int) -> None:
    whole = metadata(dbn.Schema.TRADES, AAPL=5) + b"".join(record(dbn.TradeMsg, n) for n in range(5000))
    packed = {"plain": whole, "zstd": pa.compress(whole, "zstd", asbytes=True), "gzip": gzip.compress(whole)}[form]
    with pytest.raises(UnreadableSource, match=r"x\.dbn: the file is cut or damaged from line \d+ on"):
        load(tmp_path, packed[:-n_left])
    if form == "plain":
        day, report = load(tmp_path, packed[:-n_left], terms=Terms(keep_cut=True))
        n_kept, n_rest = divmod(5000 * 48 - n_left, 48)
        assert day.rows == n_kept and report.problems == [
            f"x.dbn:{n_kept + 1}: the file is cut or damaged from here on: {n_rest} bytes of an unfinished record"
        ]


@pytest.mark.parametrize("damage", [b"\x00", b"\x01", b"\xff"])
def test_bytes_that_are_no_record_are_an_error(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(UnreadableSource, match="cut or damaged"):
        load(tmp_path, metadata(dbn.Schema.TRADES, AAPL=5) + record(dbn.TradeMsg) + damage * 100)
    for start in (b"", damage * 200, metadata(None)[:50]):
        with pytest.raises(UnreadableSource, match=r"cut, or no DBN file|cut or damaged"):
            load(tmp_path, start)


def test_a_file_gives_the_same_bytes_twice_and_packed(tmp_path: Path) -> None:
    data = metadata(None, AAPL=5, MSFT=6) + b"".join(
        record(dbn.TradeMsg, n, instrument_id=5 + n % 2) + record(dbn.MBP10Msg, n, levels=ladder(n + 3, n + 1))
        for n in range(3000)
    )
    first, _ = load(tmp_path, data)
    (tmp_path / "y.dbn.zst").write_bytes(pa.compress(data, "zstd", asbytes=True))
    again, _ = import_dbn([tmp_path / "x.dbn"], tmp_path / "again", names=STOCKS)
    packed, _ = import_dbn([tmp_path / "y.dbn.zst"], tmp_path / "packed", names=STOCKS)
    assert (again.path / "manifest.json").read_bytes() == (first.path / "manifest.json").read_bytes()
    assert packed.manifest.files == again.manifest.files == first.manifest.files
