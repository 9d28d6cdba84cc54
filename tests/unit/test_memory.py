"""The reader's memory: bounded by bytes, and nothing in it gets older."""

from __future__ import annotations

from models.cache.coherence import PartitionView
from models.cache.keys import Space, locate
from streams.cache.held import Held
from streams.cache.memory import Memory

VIEW = PartitionView(8)


def held(text: str, as_of: int = 1, n_bytes: int = 0) -> Held:
    return Held(locate(text, prefix="", n_partitions=4), VIEW, as_of, as_of, 0, None, b"x" * n_bytes)


def test_what_is_older_does_not_replace_what_is_newer() -> None:
    memory = Memory(1 << 20)
    for as_of in (5, 4):
        memory.put(held("s:1", as_of))
    kept = memory.get("s:1")
    assert kept is not None
    assert kept.as_of == 5


def test_bytes_are_given_back_whichever_way_an_entry_leaves() -> None:
    memory = Memory(1 << 20)
    for i in range(10):
        memory.put(held(f"s:{i}", n_bytes=100))
    memory.put(held("md:binance.spot.BTC-USDT:quote"))
    memory.put(held("s:1", 2, n_bytes=50))
    memory.drop("s:2")
    for partition in range(4):
        for space in Space:
            memory.drop_partition(space, partition)
    assert (len(memory), memory.bytes) == (0, 0)
    assert memory.facets(held("md:binance.spot.BTC-USDT:quote").at.key.subject) is None


def test_the_oldest_leaves_first_but_one_that_was_read_stays_once_more() -> None:
    cost = held("s:0").cost_bytes()
    memory = Memory(3 * cost)
    for i in range(3):
        memory.put(held(f"s:{i}"))
    first = memory.get("s:0")
    assert first is not None
    first.used = True
    memory.put(held("s:3"))
    assert [entry.at.key.text for entry in memory] == ["s:2", "s:3", "s:0"]
    memory.put(held("s:4"))
    memory.put(held("s:5"))
    assert [entry.at.key.text for entry in memory] == ["s:0", "s:4", "s:5"]
    assert memory.evicted == 3


def test_an_entry_larger_than_the_bound_is_not_kept() -> None:
    memory = Memory(1 << 16)
    memory.put(held("s:1", n_bytes=1 << 17))
    assert (len(memory), memory.bytes) == (0, 0)


def test_facets_of_an_instrument_are_found_by_its_hash() -> None:
    memory = Memory(1 << 20)
    quote, trade = held("md:binance.spot.BTC-USDT:quote"), held("md:binance.spot.BTC-USDT:trade")
    memory.put(quote)
    memory.put(trade)
    memory.drop(quote.at.key.text)
    assert memory.facets(quote.at.key.subject) == {trade.at.key.facet: trade}
