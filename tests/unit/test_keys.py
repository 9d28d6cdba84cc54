"""Keys as people write them, and where they lie in Redis and Kafka."""

from __future__ import annotations

import pytest

from models.cache.keys import (
    MAX_KEY_BYTES,
    Space,
    facet_keys,
    floors_key,
    mark_key,
    market_key,
    parse_key,
    redis_key,
)
from models.errors import InvalidKey
from models.market.facets import BOOK, FACETS, QUOTE
from models.market.instruments import instrument_hash, partition_of


def test_a_market_key_names_an_instrument_and_a_facet() -> None:
    key = parse_key("md:binance.spot.BTC-USDT:ohlcv:1m")
    assert (key.space, key.kafka_key, FACETS[key.facet]) == (Space.MARKET, "binance.spot.BTC-USDT", "ohlcv:1m")
    assert key.subject == instrument_hash("binance.spot.BTC-USDT")
    assert key.partition(4) == partition_of("binance.spot.BTC-USDT", 4)
    assert redis_key("run.7.", key, 3) == b"run.7.md:{p3}:binance.spot.BTC-USDT:ohlcv:1m"


def test_a_generic_key_is_its_own_partition_key() -> None:
    key = parse_key("api:/v1/quotes:{a}:b")
    assert (key.space, key.namespace, key.kafka_key) == (Space.GENERIC, "api", "api:/v1/quotes:{a}:b")
    assert redis_key("", key, 0) == b"cache:{p0}:api:/v1/quotes:{a}:b"


@pytest.mark.parametrize("facet", range(len(FACETS)))
def test_all_facets_of_an_instrument_lie_where_their_keys_say(facet: int) -> None:
    text = market_key("okx.options.BTC-USD-251226-100000-C", facet)
    assert facet_keys("x.", "okx.options.BTC-USD-251226-100000-C", 2)[facet] == redis_key("x.", parse_key(text), 2)


def test_no_key_lies_where_marks_and_floors_lie() -> None:
    """Nobody can write `@mark`: a namespace cannot begin with @, and no instrument is called so."""
    assert mark_key("", Space.GENERIC, 1) == b"cache:{p1}:@mark"
    assert floors_key("", 1) == b"cache:{p1}:@floors"
    for text in ("@mark", "@floors", "@mark:1", "md:@mark", "md:@mark:quote"):
        with pytest.raises(InvalidKey):
            parse_key(text)


def test_spot_and_perpetual_and_joined_texts_never_share_a_key() -> None:
    texts = ["md:binance.spot.BTC-USDT:quote", "md:binance.perpetual.BTC-USDT:quote", "a:b:c", "a:b", "a:b:"]
    assert len({redis_key("", parse_key(text), 0) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "namespace"),
        ("session", "namespace"),
        (":1", "namespace"),
        ("session:", "namespace"),
        ("se ssion:1", "namespace"),
        ("a:\n", "printed"),
        ("a:\ud800", "printed"),
        ("a:" + "x" * (MAX_KEY_BYTES - 1), "longer"),
        ("md:binance.spot.BTC-USDT", "no facet"),
        ("md:binance.spot.BTC-USDT:ohlcv:2m", "no facet"),
        ("md:binance.spot.BTC:quote", "BASE-QUOTE"),
        ("md:quote:quote", "BASE-QUOTE"),
    ],
)
def test_a_key_that_is_none_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidKey, match=why):
        parse_key(text)


def test_the_longest_key_is_taken() -> None:
    assert parse_key("a:" + "x" * (MAX_KEY_BYTES - 2)).namespace == "a"


def test_quote_and_book_have_the_numbers_of_the_wire() -> None:
    assert (parse_key("md:a.spot.B-C:quote").facet, parse_key("md:a.spot.B-C:book").facet) == (QUOTE, BOOK) == (1, 15)
