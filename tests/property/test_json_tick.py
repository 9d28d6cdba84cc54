"""Decimals against Python's own, JSON ticks there and back, and any bytes at all."""

from __future__ import annotations

import decimal
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import TickRefused
from models.market.decimals import decimal_text
from models.market.facets import BAR_INTERVALS_S
from models.market.fixed_point import BAD_NUMBER, MAX, OK, OUT_OF_RANGE, mantissa, mantissas
from models.market.json_text import to_json
from models.market.json_tick import MAX_ROWS, Batch
from models.market.registry import InstrumentRegistry
from models.market.tick import TICK, Flag
from tests.roads import NOW, check_roads, known, parse_all

VENUES, MARKET_TYPES, SYMBOLS = ("binance", "okx"), ("spot", "perpetual"), ("BTC-USDT", "ETH-USDT")
REASONS = {
    *("bad_json", "missing_field", "bad_number", "out_of_range", "bad_time"),
    *("unknown_type", "bad_market", "bad_symbol", "too_large"),
}
EXACT = decimal.Context(prec=400)

EXPONENTS = st.integers(-12, 0)
DECIMALS = st.from_regex(r"-?[0-9]{1,22}(\.[0-9]{1,14})?", fullmatch=True)
PRICES = st.integers(-(10**17), 10**17).map(lambda units: decimal_text(units, -9))
SIZES = st.integers(0, 10**17).map(lambda units: decimal_text(units, -9))
LEVELS = st.lists(st.tuples(PRICES, SIZES) | st.fixed_dictionaries({"price": PRICES, "quantity": SIZES}), max_size=6)
IDS = st.integers(0, MAX)
PAST_MS = st.integers(0, NOW // 10**6)


def _tick(data_type: str, needed: dict[str, Any], optional: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "exchange": st.sampled_from(VENUES),
            "market_type": st.sampled_from(MARKET_TYPES),
            "symbol": st.sampled_from(SYMBOLS),
            "data_type": st.just(data_type),
            "ts_ms": st.integers(NOW // 10**6 - 10**6, NOW // 10**6),
            **needed,
        },
        optional={"collected_ts_ns": st.integers(NOW - 10**9, NOW), **(optional or {})},
    )


SIDE = {"side": st.sampled_from(["buy", "sell"])}
RATIOS = dict.fromkeys(("long_ratio", "short_ratio", "long_short_ratio"), PRICES)
TICKS = st.one_of(
    _tick("trade", {"price": PRICES, "quantity": SIZES}, {**SIDE, "trade_id": st.integers(-MAX, MAX).map(str)}),
    _tick("liquidation", {"price": PRICES, "quantity": SIZES}, SIDE),
    _tick(
        "quote",
        {"bid_price": PRICES, "bid_quantity": SIZES, "ask_price": PRICES, "ask_quantity": SIZES},
        {"last_update_id": IDS},
    ),
    _tick(
        "orderbook",
        {"update_type": st.sampled_from(["snapshot", "delta"]), "bids": LEVELS, "asks": LEVELS},
        {"first_update_id": IDS, "last_update_id": IDS, "prev_update_id": IDS},
    ),
    _tick(
        "funding_rate",
        {"funding_rate": PRICES},
        {"mark_price": PRICES, "index_price": PRICES, "next_funding_ts_ms": PAST_MS},
    ),
    _tick(
        "open_interest",
        {"open_interest_value": SIZES},
        {"open_interest_usd": st.integers(0, MAX).map(lambda cents: decimal_text(cents, -2))},
    ),
    _tick("volatility_index", {"volatility_index": PRICES}),
    *(
        _tick(name, RATIOS, {"period": st.from_regex(r"[1-9][0-9]{0,3}[smhdw]?", fullmatch=True)})
        for name in ("lsr_top_position", "lsr_all_account")
    ),
    _tick(
        "ohlcv",
        {
            **dict.fromkeys(("open", "high", "low", "close"), PRICES),
            "volume": SIZES,
            "interval": st.sampled_from(list(BAR_INTERVALS_S)),
            "start_ts_ms": PAST_MS,
        },
    ),
)
BLANKS = st.text(alphabet=" \t\n\r", max_size=2)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | DECIMALS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


TEXTS = [f"{venue}.{kind}.{symbol}" for venue in VENUES for kind in MARKET_TYPES for symbol in SYMBOLS]


def _check(batch: Batch, n_records: int) -> None:
    """What holds for any batch: whole events, LAST at their ends only, rising positions, known words."""
    seq = batch.ticks["seq"].astype(np.int64)
    assert (np.diff(seq) > 0).all()
    record = seq // MAX_ROWS - 1
    last = (batch.ticks["flags"] & Flag.LAST) != 0
    assert last.tolist() == (np.diff(record, append=n_records) > 0).tolist()
    assert (seq % MAX_ROWS).tolist() == [i for k in np.unique(record) for i in range((record == k).sum())]
    refused = [refusal.record for refusal in batch.refused]
    assert sorted([*refused, *np.unique(record).tolist()]) == list(range(n_records))
    assert refused == sorted(refused)
    assert {refusal.reason for refusal in batch.refused} <= REASONS
    assert (batch.ticks["size"] >= 0).all()


@given(DECIMALS, EXPONENTS)
def test_mantissa_is_what_the_decimal_module_says(text: str, exponent: int) -> None:
    scaled = decimal.Decimal(text).scaleb(-exponent, EXACT)
    values, status = mantissas([text], np.array([exponent], np.int8))
    if scaled == scaled.to_integral_value(context=EXACT) and abs(scaled) <= MAX:
        assert (int(values[0]), int(status[0])) == (int(scaled), OK)
    else:
        assert (int(values[0]), int(status[0])) == (0, OUT_OF_RANGE)


@given(st.lists(st.tuples(st.text(max_size=12) | DECIMALS, st.integers(-128, 127)), max_size=8))
def test_texts_of_one_call_do_not_touch_each_other(items: list[tuple[str, int]]) -> None:
    values, status = mantissas([text for text, _ in items], np.array([exponent for _, exponent in items], np.int8))
    for (text, exponent), value, state in zip(items, values.tolist(), status.tolist(), strict=True):
        if state == OK:
            assert mantissa(text, exponent) == value
        else:
            with pytest.raises(TickRefused) as caught:
                mantissa(text, exponent)
            assert caught.value.reason == {BAD_NUMBER: "bad_number", OUT_OF_RANGE: "out_of_range"}[state]


@given(st.integers(-MAX, MAX), st.integers(-40, 12))
def test_shortest_decimal_gives_its_mantissa_back(value: int, exponent: int) -> None:
    text = decimal_text(value, exponent)
    assert mantissa(text, exponent) == value
    assert not (exponent < 0 and "." in text and text.endswith("0"))


@given(st.lists(TICKS, max_size=8))
def test_valid_tick_survives_rows_and_back(records: list[dict[str, Any]]) -> None:
    registry = known(*TEXTS)
    batch = parse_all([msgspec.json.encode(record) for record in records], registry)
    assert batch.refused == []
    _check(batch, len(records))
    events = np.split(batch.ticks, np.flatnonzero(batch.ticks["flags"] & Flag.LAST)[:-1] + 1) if records else []
    written = [to_json(event, registry.instruments[event["instrument_id"][0]]) for event in events]
    again = parse_all(written, registry)
    assert again.refused == []
    for name in TICK.names or ():
        assert again.ticks[name].tolist() == batch.ticks[name].tolist(), name


@given(st.lists(TICKS, min_size=1, max_size=6), st.data())
def test_batch_gives_what_its_records_give_alone(records: list[dict[str, Any]], data: st.DataObject) -> None:
    lines = [msgspec.json.encode(record | data.draw(_spoilt(record))) for record in records]
    registry, alone = InstrumentRegistry(), InstrumentRegistry()
    batch = parse_all(lines, registry)
    _check(batch, len(lines))
    singles = [parse_all([line], alone) for line in lines]
    assert np.concatenate([single.ticks["price"] for single in singles]).tolist() == batch.ticks["price"].tolist()
    assert [r.reason for single in singles for r in single.refused] == [r.reason for r in batch.refused]
    assert registry.instruments == alone.instruments == batch.defined


def _spoilt(record: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some fields of a tick replaced by anything."""
    return st.dictionaries(st.sampled_from(sorted(record)), JSON, max_size=2)


@given(st.lists(st.binary(max_size=60) | JSON.map(msgspec.json.encode), max_size=5))
def test_any_bytes_are_refused_with_a_reason(records: list[bytes]) -> None:
    _check(parse_all(records, InstrumentRegistry()), len(records))


@given(TICKS, st.data())
def test_tick_with_a_byte_changed_never_raises(record: dict[str, Any], data: st.DataObject) -> None:
    line = bytearray(msgspec.json.encode(record))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    _check(parse_all([bytes(line), msgspec.json.encode(record)], known(*TEXTS)), 2)


@given(TICKS, st.data())
def test_tick_cut_short_is_bad_json(record: dict[str, Any], data: st.DataObject) -> None:
    line = msgspec.json.encode(record)
    batch = parse_all([line[: data.draw(st.integers(0, len(line) - 1))]], known(*TEXTS))
    assert [refusal.reason for refusal in batch.refused] == ["bad_json"]


@given(st.lists(TICKS, min_size=1, max_size=6), st.data())
def test_compiled_road_gives_what_the_typed_decoder_gives(records: list[dict[str, Any]], data: st.DataObject) -> None:
    lines = [msgspec.json.encode(record | data.draw(_spoilt(record))) for record in records]
    check_roads(lines, *TEXTS)


@given(TICKS, st.data())
def test_both_roads_judge_a_tick_with_bytes_changed_alike(record: dict[str, Any], data: st.DataObject) -> None:
    line = bytearray(msgspec.json.encode(record))
    for _ in range(data.draw(st.integers(1, 3))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(
            st.sampled_from(b' \t\n\r"\\{}[],:.-+0129aeltu\x00\x7f\xff')
        )
    check_roads([bytes(line)], *TEXTS)


@given(st.lists(TICKS, min_size=1, max_size=4), st.data())
def test_both_roads_read_fields_in_any_order_and_form(records: list[dict[str, Any]], data: st.DataObject) -> None:
    lines = []
    for record in records:
        fields = data.draw(st.permutations(sorted(record.items())))
        extra = data.draw(st.dictionaries(st.text(max_size=6) | st.sampled_from(sorted(record)), JSON, max_size=2))
        pairs = [f"{json.dumps(k)}{data.draw(BLANKS)}:{data.draw(BLANKS)}{json.dumps(v)}" for k, v in fields]
        pairs += [f"{json.dumps(k)}:{json.dumps(v, ensure_ascii=False)}" for k, v in extra.items()]
        lines.append(
            (f"{data.draw(BLANKS)}{{" + ",".join(pairs) + f"{data.draw(BLANKS)}}}{data.draw(BLANKS)}").encode()
        )
    check_roads(lines, *TEXTS)
