"""What each JSON tick becomes, and why one is refused; golden rows pin the whole table."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.errors import TickRefused
from models.market.instruments import Instrument
from models.market.instruments import parse as parse_instrument
from models.market.json_lines import Lines
from models.market.json_refusals import MAX_BYTES
from models.market.json_scan import InstrumentNames, scan
from models.market.json_text import to_json
from models.market.json_tick import DAY_NS, MAX_ROWS, parse, parse_batch
from models.market.registry import InstrumentRegistry
from models.market.tick import TICK, Action, Flag, Kind, Side, TickArray
from tests.roads import NOW as HEARD
from tests.roads import check_roads, known

GOLDEN = Path(__file__).parents[1] / "golden"
WRITE_GOLDEN = "MARKETPRISM_WRITE_GOLDEN"  # set it to 1 to write the golden rows anew, then read the diff
NOW = 1_760_000_000_100_000_000
NOW_MS = NOW // 10**6
E9 = 10**9

ANY: dict[str, object] = {
    "exchange": "binance",
    "market_type": "spot",
    "symbol": "BTC-USDT",
    "ts_ms": NOW_MS - 5,
    "collected_ts_ms": NOW_MS - 2,
}
TRADE = {**ANY, "data_type": "trade", "price": "64000.5", "quantity": "0.25", "side": "buy", "trade_id": "1"}
QUOTE = {
    **ANY,
    "data_type": "quote",
    "bid_price": "99.5",
    "bid_quantity": "1",
    "ask_price": "100.5",
    "ask_quantity": "2",
}
DELTA = {**ANY, "data_type": "orderbook", "update_type": "delta", "bids": [["1", "2"]], "asks": [["3", "4"]]}
SNAPSHOT = {**DELTA, "update_type": "snapshot", "last_update_id": 7}
FUNDING = {**ANY, "data_type": "funding_rate", "funding_rate": "0.0001"}
INTEREST = {**ANY, "data_type": "open_interest", "open_interest_value": "10"}
RATIOS = {
    **ANY,
    "data_type": "lsr_all_account",
    "long_ratio": "0.6",
    "short_ratio": "0.4",
    "long_short_ratio": "1.5",
    "period": "5m",
}
BAR = {
    **ANY,
    "data_type": "ohlcv",
    "interval": "1m",
    "open": "1",
    "high": "4",
    "low": "0.5",
    "close": "2",
    "volume": "3",
    "start_ts_ms": NOW_MS - 60_000,
}


def rows(record: dict[str, object], registry: InstrumentRegistry | None = None) -> TickArray:
    registry = registry if registry is not None else InstrumentRegistry()
    return parse(msgspec.json.encode(record), received_ns=NOW, registry=registry).ticks


def refusal(record: dict[str, object] | bytes, **options: bool) -> str:
    data = record if isinstance(record, bytes) else msgspec.json.encode(record)
    with pytest.raises(TickRefused) as caught:
        parse(data, received_ns=NOW, registry=InstrumentRegistry(), **options)
    assert len(caught.value.detail) < 400
    return caught.value.reason


def without(record: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in record.items() if name not in names}


def test_golden_ticks_become_the_golden_rows() -> None:
    lines = (GOLDEN / "json_ticks.ndjson").read_bytes().splitlines()
    batch = parse_batch(
        lines,
        received_ns=[NOW] * len(lines),
        positions=np.arange(len(lines)) * MAX_ROWS + 1,
        registry=InstrumentRegistry(),
    )
    assert batch.refused == []
    path = GOLDEN / "json_ticks.bin"
    if os.environ.get(WRITE_GOLDEN) == "1":
        path.write_bytes(batch.ticks.tobytes())
    golden = np.frombuffer(path.read_bytes(), TICK)
    for name in TICK.names or ():
        assert batch.ticks[name].tolist() == golden[name].tolist(), name


def test_trade_is_one_row_with_its_aggressor() -> None:
    (row,) = rows(TRADE)
    assert (row["kind"], row["action"], row["side"], row["flags"]) == (Kind.TRADE, Action.TRADE, Side.BID, Flag.LAST)
    assert (row["price"], row["size"], row["ref_id"]) == (64_000_500_000_000, 250_000_000, 1)
    assert (row["ts_event"], row["ts_recv"]) == (NOW - 5_000_000 - NOW % 10**6, NOW - 2_000_000 - NOW % 10**6)
    assert rows({**TRADE, "side": "sell"})["side"][0] == Side.ASK
    assert rows(without(TRADE, "side"))["side"][0] == Side.NONE


@pytest.mark.parametrize(
    ("trade_id", "ref_id"),
    [
        ("12", 12),
        (12, 12),
        ("-3", -3),
        ("a-12", 0),
        ("1.5", 0),
        (1.5, 0),
        ("٣", 0),
        ("", 0),
        ("-", 0),
        (None, 0),
        ([1], 0),
        (True, 0),
        (str(2**63), 0),
        (str(2**63 - 1), 2**63 - 1),
    ],
)
def test_trade_id_that_is_no_integer_gives_reference_0(trade_id: object, ref_id: int) -> None:
    assert rows({**TRADE, "trade_id": trade_id})["ref_id"].tolist() == [ref_id]


def test_quote_is_two_rows_and_an_empty_side_is_deleted() -> None:
    both = rows({**QUOTE, "last_update_id": "77"})
    assert both["side"].tolist() == [1, 2]
    assert both["action"].tolist() == [Action.UPDATE] * 2
    assert both["flags"].tolist() == [Flag.TOB, Flag.TOB | Flag.LAST]
    assert both["price"].tolist() == [99_500_000_000, 100_500_000_000]
    assert both["venue_seq"].tolist() == [77, 77]
    assert rows({**QUOTE, "bid_quantity": "0.0"})["action"].tolist() == [Action.DELETE, Action.UPDATE]


def test_snapshot_clears_and_then_adds_its_levels() -> None:
    got = rows({**SNAPSHOT, "bids": [["10", "1"], ["9", "0"], ["8", "2"]], "asks": [{"price": "11", "quantity": "3"}]})
    assert got["action"].tolist() == [Action.CLEAR, Action.ADD, Action.ADD, Action.ADD]
    assert got["side"].tolist() == [0, 1, 1, 2]
    assert got["price"].tolist() == [0, 10 * E9, 8 * E9, 11 * E9]
    assert got["size"].tolist() == [0, E9, 2 * E9, 3 * E9]
    assert set(got["venue_seq"].tolist()) == {7}
    assert got["ref_id"].tolist() == [0] * 4
    assert (got["flags"] & ~np.uint8(Flag.LAST)).tolist() == [Flag.SNAPSHOT | Flag.MBP] * 4
    assert rows({**SNAPSHOT, "bids": [], "asks": []})["action"].tolist() == [Action.CLEAR]


def test_snapshot_whose_last_level_is_empty_still_ends_with_last() -> None:
    got = rows({**SNAPSHOT, "asks": [["3", "0"]]})
    assert (got["flags"] & Flag.LAST).astype(bool).tolist() == [False, True]
    assert np.diff(got["seq"]).tolist() == [1]


def test_delta_deletes_levels_of_quantity_0() -> None:
    got = rows({**DELTA, "bids": [["10", "0"], ["9", "1"]], "asks": [["11", "0.00"]]})
    assert got["action"].tolist() == [Action.DELETE, Action.UPDATE, Action.DELETE]
    assert got["side"].tolist() == [1, 1, 2]
    assert got["price"].tolist() == [10 * E9, 9 * E9, 11 * E9]


def test_delta_without_levels_is_one_row_of_no_side() -> None:
    (row,) = rows({**DELTA, "bids": [], "asks": [], "first_update_id": 4, "last_update_id": 6})
    assert (row["action"], row["side"], row["flags"]) == (Action.UPDATE, Side.NONE, Flag.MBP | Flag.LAST)
    assert (row["venue_seq"], row["ref_id"]) == (6, 3)


@pytest.mark.parametrize(
    ("ids", "venue_seq", "ref_id"),
    [
        ({}, 0, 0),
        ({"last_update_id": 9}, 9, 0),
        ({"first_update_id": 5, "last_update_id": 9}, 9, 4),
        ({"first_update_id": 5, "last_update_id": 9, "prev_update_id": 3}, 9, 3),
        ({"first_update_id": None, "last_update_id": 9, "prev_update_id": -1}, 9, 0),
        ({"first_update_id": 0, "last_update_id": 9}, 9, 0),
        ({"first_update_id": "5", "last_update_id": "9"}, 9, 4),
    ],
)
def test_delta_names_the_update_before_it(ids: dict[str, object], venue_seq: int, ref_id: int) -> None:
    got = rows({**DELTA, **ids})
    assert set(got["venue_seq"].tolist()) == {venue_seq}
    assert set(got["ref_id"].tolist()) == {ref_id}


def test_funding_numbers_its_fields() -> None:
    full = rows({**FUNDING, "next_funding_ts_ms": NOW_MS, "mark_price": "5", "index_price": "-6"})
    assert full["side"].tolist() == [0, 1, 2]
    assert full["price"].tolist() == [100_000, 5 * E9, -6 * E9]
    assert full["ref_id"].tolist() == [NOW_MS * 10**6, 0, 0]
    assert rows({**FUNDING, "index_price": "6"})["side"].tolist() == [0, 2]
    assert rows({**FUNDING, "mark_price": None})["side"].tolist() == [0]


def test_open_interest_in_money_has_two_decimals() -> None:
    got = rows({**INTEREST, "open_interest_usd": "123456789012345.67"})
    assert got["size"].tolist() == [10 * E9, 0]
    assert got["price"].tolist() == [0, 12_345_678_901_234_567]
    assert got["side"].tolist() == [0, 1]


def test_ratios_are_three_rows_of_their_action() -> None:
    got = rows(RATIOS)
    assert got["price"].tolist() == [600_000_000, 400_000_000, 1_500_000_000]
    assert got["ref_id"].tolist() == [300, 0, 0]
    assert set(got["action"].tolist()) == {2}
    assert set(rows({**RATIOS, "data_type": "lsr_top_position"})["action"].tolist()) == {1}


def test_bar_is_four_rows_and_the_last_has_the_volume() -> None:
    got = rows(BAR)
    assert got["price"].tolist() == [E9, 4 * E9, E9 // 2, 2 * E9]
    assert got["size"].tolist() == [0, 0, 0, 3 * E9]
    assert set(got["ref_id"].tolist()) == {60}
    assert set(got["venue_seq"].tolist()) == {(NOW_MS - 60_000) * 10**6}


def test_missing_receipt_time_is_the_time_of_the_log() -> None:
    assert rows(without(TRADE, "collected_ts_ms"))["ts_recv"].tolist() == [NOW]


def test_nanoseconds_stand_for_milliseconds() -> None:
    (row,) = rows({**without(TRADE, "ts_ms"), "ts_ns": NOW + 1, "collected_ts_ns": NOW + 2})
    assert (row["ts_event"], row["ts_recv"]) == (NOW + 1, NOW + 2)


@pytest.mark.parametrize(
    ("reason", "record"),
    [
        *[
            ("bad_json", data)
            for data in (b"", b"{", b"[]", b"1", b"\xff", b'{"price":NaN}', b'{"a":"\xff"}', b"{} {}")
        ],
        ("bad_json", msgspec.json.encode(TRADE).replace(b'"64000.5"', b"NaN")),
        *[("missing_field", without(TRADE, name)) for name in ("exchange", "market_type", "symbol", "data_type")],
        *[("missing_field", {**TRADE, name: None}) for name in ("exchange", "data_type", "ts_ms", "price", "quantity")],
        *[("missing_field", without(QUOTE, name)) for name in QUOTE if name[:3] in ("bid", "ask")],
        *[("missing_field", without(DELTA, name)) for name in ("update_type", "bids", "asks")],
        ("missing_field", without(FUNDING, "funding_rate")),
        ("missing_field", without(INTEREST, "open_interest_value")),
        *[("missing_field", without(RATIOS, name)) for name in RATIOS if name.endswith("ratio")],
        *[("missing_field", without(BAR, name)) for name in BAR if name not in ("collected_ts_ms",)],
        *[
            ("bad_number", {**TRADE, "price": price})
            for price in (64000.5, 64000, "", " 1", "1 ", "+1", ".5", "5.", "1e5", "1E-5", "NaN", "Infinity", "-inf")
        ],
        *[
            ("bad_number", {**TRADE, "price": price})
            for price in ("0x10", "1_000", "1,5", "١", "1\n2", "--1", True, [])
        ],
        ("bad_number", {**TRADE, "side": "BUY"}),
        ("bad_number", {**DELTA, "bids": [["1"]]}),
        ("bad_number", {**DELTA, "bids": [["1", 2]]}),
        ("bad_number", {**DELTA, "bids": [["1", "2", "3"]]}),
        ("bad_number", {**DELTA, "asks": [{"price": "1"}]}),
        ("bad_number", {**DELTA, "asks": {"1": "2"}}),
        ("bad_number", {**DELTA, "last_update_id": "x"}),
        ("bad_number", {**DELTA, "last_update_id": 1.5}),
        ("out_of_range", {**DELTA, "last_update_id": -2}),
        ("out_of_range", {**DELTA, "last_update_id": 2**63}),
        ("out_of_range", {**DELTA, "prev_update_id": "9" * 5000}),
        ("bad_number", {**BAR, "interval": "2m"}),
        ("bad_number", {**RATIOS, "period": "soon"}),
        ("out_of_range", {**TRADE, "price": "9223372036.854775808"}),
        ("out_of_range", {**TRADE, "price": "0.0000000001"}),
        ("out_of_range", {**TRADE, "quantity": "-1"}),
        ("out_of_range", {**QUOTE, "ask_quantity": "-0.5"}),
        ("out_of_range", {**TRADE, "price": "0.001", "quantity": "0.123"}),
        ("out_of_range", {**INTEREST, "open_interest_usd": "1.234"}),
        *[("bad_time", {**TRADE, "ts_ms": ts_ms}) for ts_ms in (str(NOW_MS), 1.5, True, -1, 2**63, 2**70, [])],
        ("bad_time", {**TRADE, "ts_ms": NOW_MS + 86_400_001}),
        ("bad_time", {**TRADE, "ts_ns": NOW + DAY_NS + 1}),
        ("bad_time", {**TRADE, "collected_ts_ms": NOW_MS + 86_400_001}),
        ("bad_time", {**TRADE, "collected_ts_ms": -1}),
        ("bad_time", {**TRADE, "ts_ms": NOW_MS + 86_400_001, "collected_ts_ms": NOW_MS + 86_399_000}),
        ("bad_time", {**TRADE, "ts_ms": NOW_MS, "collected_ts_ms": NOW_MS - 86_400_001}),
        ("bad_time", {**FUNDING, "next_funding_ts_ms": "soon"}),
        ("bad_time", {**FUNDING, "next_funding_ts_ms": -1}),
        ("bad_time", {**FUNDING, "next_funding_ts_ms": 2**62}),
        ("bad_time", {**BAR, "start_ts_ms": NOW_MS + 86_400_001}),
        *[("unknown_type", {**TRADE, "data_type": word}) for word in ("Trade", "", "order", 1, [])],
        ("unknown_type", {**DELTA, "update_type": "diff"}),
        *[("bad_market", {**TRADE, "exchange": word}) for word in ("Binance", "", "a.b", "x" * 33, 5)],
        *[("bad_market", {**TRADE, "market_type": word}) for word in ("swap", "Spot", 5)],
        *[("bad_symbol", {**TRADE, "symbol": word}) for word in ("BTCUSDT", "btc-usdt", "", "BTC-USDT-251226", 5)],
        ("bad_symbol", {**TRADE, "market_type": "options", "symbol": "BTC-USD-251226"}),
        ("bad_symbol", {**TRADE, "market_type": "options", "symbol": f"BTC-USD-251226-{'1' * 10_000}-C"}),
        ("too_large", {**TRADE, "note": "x" * MAX_BYTES}),
        ("too_large", {**TRADE, "note": [[[[[[[[]]]]]]]]}),
        ("too_large", b"[" * 100_000),
    ],
)
def test_record_is_refused_with_its_reason(reason: str, record: dict[str, object] | bytes) -> None:
    assert refusal(record) == reason


@pytest.mark.parametrize(
    "record",
    [
        {**TRADE, "note": [[[[[[[]]]]]]]},
        {**TRADE, "note": '[[[[[[[[[[[[\\"{{{{{{{{{{'},
        {**TRADE, "price": "-37.63"},
        {**TRADE, "price": "1.50000000000000000000"},
        {**TRADE, "price": "000000000000000000000001"},
        {**TRADE, "quantity": "-0"},
        {**TRADE, "ts_ms": 0},
        {**TRADE, "ts_ns": NOW - NOW % 10**6 - 2_000_000 + DAY_NS},
        {**FUNDING, "funding_rate": "-0.0003"},
        {**TRADE, "market_type": "futures", "symbol": "BTC-USD-251226"},
        {**TRADE, "market_type": "options", "symbol": "BTC-USD-251226-0.5-P"},
    ],
)
def test_record_at_the_edge_is_taken(record: dict[str, object]) -> None:
    assert len(rows(record)) == 1


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("n_digits", [19, 4299, 4300, 4301, 100_000])
def test_integer_of_any_length_is_refused_or_ignored(n_digits: int, sign: str) -> None:
    digits = (sign + "9" * n_digits).encode()
    records = [DELTA, BAR, RATIOS, {**FUNDING, "next_funding_ts_ms": 1}, TRADE]
    for record in records:
        for name in {**ANY, **record, "ts_ns": 1, "collected_ts_ns": 1, "last_update_id": 1, "unknown": 1}:
            spoilt = msgspec.json.encode({**record, name: "?"}).replace(b'"?"', digits)
            batch = parse_batch([spoilt], received_ns=[NOW], positions=[1], registry=InstrumentRegistry())
            assert len(batch.refused) == (len(batch.ticks) == 0)
            assert all(len(refused.detail) < 400 for refused in batch.refused)


def test_line_of_a_mebibyte_is_taken() -> None:
    line = msgspec.json.encode(TRADE)
    parse(line + b" " * (MAX_BYTES - len(line)), received_ns=NOW, registry=InstrumentRegistry())


def test_smallest_levels_of_the_largest_line_fit_between_positions() -> None:
    level = len(b'["0","1"],')
    assert MAX_BYTES // level < MAX_ROWS


@pytest.mark.parametrize(
    ("record", "size_exp"),
    [
        (TRADE, -9),
        ({**TRADE, "price": "0.01"}, -9),
        ({**TRADE, "price": "0.009999999"}, -2),
        ({**TRADE, "price": "-0.001"}, -2),
        ({**TRADE, "price": "-37.63"}, -9),
        ({**TRADE, "price": "0"}, -9),
        ({**QUOTE, "bid_price": "0", "bid_quantity": "0", "ask_price": "0.002"}, -2),
        ({**DELTA, "bids": [], "asks": [["0.002", "4"]]}, -2),
        ({**SNAPSHOT, "bids": [["0.002", "4"]], "asks": []}, -2),
        ({**BAR, "close": "0.002"}, -2),
        ({**FUNDING, "mark_price": "0.002"}, -2),
        (FUNDING, -9),
        (RATIOS, -9),
    ],
)
def test_first_price_chooses_the_exponent_of_sizes(record: dict[str, object], size_exp: int) -> None:
    registry = InstrumentRegistry()
    batch = parse(msgspec.json.encode(record), received_ns=NOW, registry=registry)
    assert batch.defined == [Instrument("binance", "spot", "BTC-USDT", -9, size_exp, implicit=True)]
    assert registry.refs["size_exp"].tolist() == [size_exp]


def test_defined_instrument_keeps_its_exponents() -> None:
    registry = InstrumentRegistry()
    registry.add(Instrument("binance", "spot", "ETH-USDT"))
    registry.add(Instrument("binance", "spot", "BTC-USDT", price_exp=-2, size_exp=-4, tick="0.01"))
    batch = parse(msgspec.json.encode(TRADE), received_ns=NOW, registry=registry, strict=True)
    assert (batch.ticks["price"][0], batch.ticks["size"][0]) == (6_400_050, 2500)
    assert (batch.ticks["instrument_id"][0], batch.defined) == (1, [])


def test_strict_refuses_instruments_nobody_defined() -> None:
    assert refusal(TRADE, strict=True) == "unknown_instrument"
    assert refusal({**TRADE, "symbol": "x"}, strict=True) == "bad_symbol"


def test_refused_tick_defines_nothing() -> None:
    registry = InstrumentRegistry()
    for wrong in ({"price": "1e5"}, {"quantity": "-1"}, {"ts_ms": -1}, {"symbol": "x"}):
        with pytest.raises(TickRefused):
            rows({**TRADE, **wrong}, registry)
    assert len(registry) == 0


def test_batch_refuses_single_records_and_keeps_the_others() -> None:
    registry = InstrumentRegistry()
    records = [TRADE, {**TRADE, "price": "x"}, QUOTE, {**DELTA, "asks": [["1", "-1"]]}, {**TRADE, "symbol": "A-B"}, {}]
    batch = parse_batch(
        [msgspec.json.encode(record) for record in records],
        received_ns=[NOW] * len(records),
        positions=[10, 20, 30, 40, 50, 60],
        registry=registry,
    )
    assert batch.ticks["seq"].tolist() == [10, 30, 31, 50]
    assert batch.ticks["instrument_id"].tolist() == [0, 0, 0, 1]
    assert [(refused.record, refused.reason) for refused in batch.refused] == [
        (1, "bad_number"),
        (3, "out_of_range"),
        (5, "missing_field"),
    ]
    assert [instrument.text for instrument in batch.defined] == ["binance.spot.BTC-USDT", "binance.spot.A-B"]


def test_empty_batch_gives_no_rows() -> None:
    batch = parse_batch([], received_ns=[], positions=[], registry=InstrumentRegistry())
    assert (len(batch.ticks), batch.refused, batch.defined) == (0, [], [])


@pytest.mark.parametrize("kind", [Kind.CONTROL, Kind.ORDER])
def test_kinds_of_other_sources_have_no_json_form(kind: Kind) -> None:
    row = np.zeros(1, TICK)
    row["kind"] = kind
    with pytest.raises(ValueError, match="no JSON form"):
        to_json(row, Instrument("binance", "spot", "BTC-USDT"))


def test_quote_of_one_side_has_no_json_form() -> None:
    with pytest.raises(ValueError, match="both sides"):
        to_json(rows(QUOTE)[:1], Instrument("binance", "spot", "BTC-USDT"))


PLAIN = msgspec.json.encode(TRADE)
PLAIN_QUOTE = msgspec.json.encode({**QUOTE, "last_update_id": 7})
OPTION = {**TRADE, "market_type": "options", "symbol": "BTC-USD-251226-1.5-C"}


def with_fields(*more: bytes, of: bytes = PLAIN) -> bytes:
    return of[:-1] + b"," + b",".join(more) + b"}"


@pytest.mark.parametrize(
    "line",
    [
        PLAIN,
        PLAIN_QUOTE,
        msgspec.json.encode(OPTION),
        with_fields(b'"note":"\xff"'),
        with_fields(b'"note":"\xc3\xa9\x7f"'),
        with_fields(b'"note":"a\x1f"'),
        with_fields(b'"note":"\\ud800"'),
        with_fields(b'"note":"\\q"'),
        with_fields(b'"note":01'),
        with_fields(b'"note":1.5e3'),
        with_fields(b'"note":-1'),
        with_fields(b'"note":nul'),
        with_fields(b'"note":null,'),
        with_fields(b'"price":"1"'),
        with_fields(b'"price":null'),
        with_fields(b'"trade_id":null'),
        with_fields(b'"ts_ns":1'),
        with_fields(b'"ts_ns":null'),
        with_fields(b'"ts_ns":"1"'),
        with_fields(b'"ts_ns":%d' % (HEARD + DAY_NS)),
        with_fields(b'"ts_ns":%d' % (HEARD + DAY_NS + 1)),
        with_fields(b'"collected_ts_ns":%d' % (HEARD + DAY_NS + 1)),
        with_fields(b'"collected_ts_ns":5'),
        with_fields(b'"bid_price":5'),
        with_fields(b'"last_update_id":"x"'),
        with_fields(b'"price":"1"', of=PLAIN_QUOTE),
        with_fields(b'"side":"both"', of=PLAIN_QUOTE),
        with_fields(b'"trade_id":5', of=PLAIN_QUOTE),
        PLAIN.replace(b'"price"', b'"\\u0070rice"'),
        PLAIN.replace(b'"trade"', b'"trad\\u0065"'),
        PLAIN.replace(b'"trade"', b'"trades"'),
        PLAIN.replace(b'"trade"', b'"liquidation"'),
        PLAIN.replace(b'"buy"', b'"BUY"'),
        PLAIN.replace(b'"buy"', b"1"),
        PLAIN.replace(b'"buy"', b"null"),
        PLAIN.replace(b'"0.25"', b'"-0.25"'),
        PLAIN.replace(b'"0.25"', b"0.25"),
        PLAIN.replace(b'"0.25"', b"25"),
        PLAIN.replace(b'"0.25"', b'"2e1"'),
        PLAIN.replace(b'"0.25"', b'"99999999999"'),
        PLAIN.replace(b'"64000.5"', b'"-64000.50000000000000"'),
        PLAIN.replace(b'"trade_id":"1"', b'"trade_id":"' + b"9" * 18 + b'"'),
        PLAIN.replace(b'"trade_id":"1"', b'"trade_id":"' + b"9" * 19 + b'"'),
        PLAIN.replace(b'"trade_id":"1"', b'"trade_id":"' + b"0" * 19 + b'1"'),
        PLAIN.replace(b'"trade_id":"1"', b'"trade_id":"' + b"0" * 20 + b'1"'),
        PLAIN.replace(b'"trade_id":"1"', b'"trade_id":' + b"9" * 19),
        PLAIN.replace(b'"trade_id":"1"', b'"trade_id":"-5"'),
        PLAIN.replace(b'"trade_id":"1"', b'"trade_id":"1a"'),
        PLAIN.replace(b'"ts_ms":%d' % (NOW_MS - 5), b'"ts_ms":' + b"9" * 18),
        PLAIN.replace(b'"ts_ms":%d' % (NOW_MS - 5), b'"ts_ms":' + b"9" * 13),
        PLAIN.replace(b'"ts_ms":%d' % (NOW_MS - 5), b'"ts_ms":0'),
        PLAIN.replace(b'"ts_ms":%d' % (NOW_MS - 5), b'"ts_ms":null'),
        with_fields(b'"ts_ns":1').replace(b'"ts_ms":%d' % (NOW_MS - 5), b'"ts_ms":"1"'),
        PLAIN.replace(b'"collected_ts_ms":%d' % (NOW_MS - 2), b'"collected_ts_ms":1'),
        PLAIN.replace(b'"symbol":"BTC-USDT"', b'"symbol":"BTC-USDt"'),
        PLAIN.replace(b'"symbol":"BTC-USDT"', b'"symbol":"spot.BTC-USDT"').replace(b'"binance"', b'""'),
        # the text of a known instrument, cut elsewhere
        PLAIN.replace(b'"spot"', b'"options.BTC-USD-251226-1"').replace(b'"BTC-USDT"', b'"5-C"'),
        PLAIN.replace(b'"exchange":"binance","market_type":"spot"', b'"exchange":"binance.spot","market_type":""'),
        PLAIN + b" \n",
        b" \t" + PLAIN,
        PLAIN + b"x",
        PLAIN + PLAIN,
        PLAIN[:-1],
        PLAIN[:-1] + b",}",
        PLAIN.replace(b":", b" :\r\n", 1),
        b"{}",
        b"{ }",
        b"",
        b"[]",
        b'{"a":"b"}',
        b'{"a"}',
        b'{"":1}',
    ],
)  # fmt: skip
def test_compiled_road_and_typed_decoder_judge_a_record_alike(line: bytes) -> None:
    check_roads([line], "binance.spot.BTC-USDT", "binance.options.BTC-USD-251226-1.5-C")


def test_plain_records_of_known_instruments_take_the_compiled_road() -> None:
    lines = [PLAIN, PLAIN_QUOTE, msgspec.json.encode(OPTION), PLAIN.replace(b'"trade"', b'"liquidation"'),
             PLAIN.replace(b",", b" , ").replace(b":", b" : ")]  # fmt: skip
    registry = known("binance.spot.BTC-USDT", "binance.options.BTC-USD-251226-1.5-C")
    names = InstrumentNames(registry)
    assert scan(Lines.of(lines), np.full(len(lines), HEARD), names).left.tolist() == [0, 1, 2, 3, 4]
    names.catch_up()
    found = scan(Lines.of([*lines, msgspec.json.encode(DELTA)]), np.full(len(lines) + 1, HEARD), names)
    assert found.left.tolist() == [5]
    assert found.events["instrument"].tolist() == [0, 0, 1, 0, 0]


def test_instruments_are_found_however_many_there_are() -> None:
    texts = [f"venue{i % 7}.spot.C{i}-USDT" for i in range(3_000)]
    registry = known(*texts[:10])
    names = InstrumentNames(registry)
    for text in texts[10:]:
        names.catch_up()
        registry.add(parse_instrument(text))
    names.catch_up()
    lines = [
        msgspec.json.encode({**TRADE, "exchange": text.split(".")[0], "symbol": text.split(".")[2]}) for text in texts
    ]
    found = scan(Lines.of(lines), np.full(len(lines), HEARD), names)
    assert found.left.tolist() == []
    assert found.events["instrument"].tolist() == list(range(3_000))
