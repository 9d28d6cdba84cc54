"""Publishing to a real broker: what arrives, in which order, and what the caller hears when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from aiokafka.admin import NewTopic

from models.errors import InstrumentConflict, PublishFailed, ServiceUnavailable, SettingsError, TickRefused
from models.market.frame import Frame, decode
from models.market.instruments import Instrument, decode_definition, encode_definition, instrument_hash, partition_of
from models.market.tick import TICK, Flag, Kind, TickArray
from streams.client.publisher import TickPublisher
from streams.kafka.admin import connected, ensure_topics
from streams.kafka.clients import start_producer, stop_client
from streams.kafka.instruments import InstrumentDirectory
from streams.settings import Settings
from streams.topics import FRAMES, INSTRUMENTS, TOPICS
from tests.topics import records

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
BTC = Instrument("binance", "spot", "BTC-USDT")
MANY = [Instrument("binance", "spot", f"C{i}-USDT", price_exp=-2) for i in range(40)]
LINE = (
    b'{"exchange":"okx","market_type":"spot","symbol":"ETH-USDT","data_type":"trade","ts_ms":1760000000000,'
    b'"price":"%d","quantity":"1","side":"sell"}'
)


@pytest.fixture
async def topics(settings: Settings) -> AsyncIterator[Settings]:
    await ensure_topics(settings)
    yield settings


def trades(n: int, n_instruments: int, first_price: int = 0) -> TickArray:
    ticks = np.zeros(n, TICK)
    ticks["instrument_id"] = np.arange(n) * 7 % n_instruments
    ticks["price"] = np.arange(first_price, first_price + n)
    ticks["ts_recv"] = 1_760_000_000_000_000_000 + np.arange(n)
    ticks["kind"], ticks["action"], ticks["flags"] = 1, 5, Flag.LAST
    return ticks


async def frames(settings: Settings) -> list[tuple[int, Frame]]:
    """All published frames; those that only tell a quiet partition the time are left out."""
    found = [(r.partition, decode(r.value)) for r in await records(settings, FRAMES, settings.kafka.partitions)]
    return [(partition, frame) for partition, frame in found if frame.ticks["kind"][0] != Kind.CONTROL]


async def rows(settings: Settings) -> TickArray:
    """All published rows in the order of their positions."""
    ticks = np.concatenate([frame.ticks for _, frame in await frames(settings)])
    return ticks[np.argsort(ticks["seq"])]


async def test_every_row_arrives_once_in_the_partition_of_its_instrument(topics: Settings) -> None:
    sent = trades(30_000, len(MANY))
    async with TickPublisher(topics, incarnation=3) as publisher:
        await publisher.publish(sent[:17_000], MANY)
        await publisher.publish(sent[17_000:], MANY)
        await publisher.flush()
        assert publisher.stats.acked == publisher.stats.ticks == 30_000
    found = await frames(topics)
    by_hash = {i.hash: i.text for i in MANY}
    chain = [0] * topics.kafka.partitions
    for partition, frame in found:
        assert frame.header.source == instrument_hash("pub/publisher/3")
        homes = {partition_of(by_hash[int(h)], topics.kafka.partitions) for h in frame.instruments["hash"]}
        assert homes == {partition}
        assert frame.header.prev_position == chain[partition]
        assert 0 < frame.header.due_ns <= frame.header.sent_ns
        chain[partition] = frame.header.last_position
    arrived = await rows(topics)
    assert arrived["seq"].tolist() == list(range(1, 30_001))
    assert (arrived["price"] == sent["price"]).all()


async def test_a_single_trade_and_quote_leave_without_a_flush(topics: Settings, wait_until: Any) -> None:
    async with TickPublisher(topics) as publisher:
        await publisher.trade(BTC.text, price="64000.5", size=Decimal("0.25"), side="buy", ts_event_ns=5, trade_id=9)
        await publisher.quote(BTC.text, bid_price="1", bid_size=2, ask_price="3", ask_size="0", ts_event_ns=6)
        await wait_until(lambda: publisher.stats.acked == 3, DEADLINE_S, "the acknowledgement of three rows")
        arrived = await rows(topics)
    assert arrived["price"].tolist() == [64000_500000000, 1_000000000, 3_000000000]
    assert arrived["size"].tolist() == [250000000, 2_000000000, 0]
    assert arrived["side"].tolist() == [1, 1, 2]
    assert arrived["action"].tolist() == [5, 2, 3]
    assert arrived["ref_id"][0] == 9


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("price", 1.5, "bad_number"),
        ("price", "1e5", "bad_number"),
        ("size", "-1", "out_of_range"),
        ("side", "up", "bad_number"),
    ],
)
async def test_a_bad_value_is_refused_to_the_caller_and_not_sent(
    topics: Settings, field: str, value: Any, reason: str
) -> None:
    good: dict[str, Any] = {"price": "1", "size": "1", "side": "buy"}
    async with TickPublisher(topics) as publisher:
        with pytest.raises(TickRefused, match=reason):
            await publisher.trade(BTC.text, ts_event_ns=1, **good | {field: value})
        await publisher.trade(BTC.text, ts_event_ns=1, **good)
    assert len(await rows(topics)) == 1


async def test_json_ticks_that_are_refused_are_named_and_the_rest_goes_on(topics: Settings) -> None:
    lines = [LINE % i for i in range(2500)]
    lines[7] = lines[2100] = b"{"
    async with TickPublisher(topics) as publisher:
        refused = await publisher.publish_json(lines)
    assert [(r.record, r.reason) for r in refused] == [(7, "bad_json"), (2100, "bad_json")]
    prices = [i * 10**9 for i in range(2500) if i not in (7, 2100)]
    assert (await rows(topics))["price"].tolist() == prices


async def test_tasks_that_publish_at_once_keep_their_own_order(topics: Settings) -> None:
    n_calls, n_rows = 60, 2_000
    noise = np.random.default_rng(1).integers(1, 2**62, (2, n_rows))

    async def one(publisher: TickPublisher, first_price: int) -> None:
        for i in range(n_calls):
            ticks = trades(n_rows, 1, first_price + n_rows * i)
            ticks["ref_id"], ticks["venue_seq"] = noise  # fills Kafka's batches, so that sending has to wait
            await publisher.publish(ticks, [BTC])

    async with TickPublisher(topics) as publisher:
        await asyncio.gather(one(publisher, 0), one(publisher, 1_000_000))
    (partition,) = {partition for partition, _ in await frames(topics)}
    assert partition == partition_of(BTC.text, topics.kafka.partitions)
    arrived = np.concatenate([frame.ticks for _, frame in await frames(topics)])  # as the log has them
    assert arrived["seq"].tolist() == list(range(1, 2 * n_calls * n_rows + 1))
    for first_price in (0, 1_000_000):
        mine = arrived["price"][(arrived["price"] >= first_price) & (arrived["price"] < first_price + 1_000_000)]
        assert mine.tolist() == list(range(first_price, first_price + n_calls * n_rows))


async def test_an_event_larger_than_the_buffer_arrives_in_one_frame(topics: Settings) -> None:
    event = trades(3_000, 1)
    event["flags"][:-1] = 0
    limits = replace(topics.publisher, buffer_ticks=1_000, frame_ticks=100)
    async with TickPublisher(replace(topics, publisher=limits)) as publisher:
        await publisher.publish(trades(5, 1), [BTC])
        await publisher.publish(event, [BTC])
    assert [len(frame.ticks) for _, frame in await frames(topics)] == [5, 3_000]


async def test_rows_without_meaning_are_not_taken(topics: Settings) -> None:
    half = trades(2, 1)
    half["flags"] = 0
    async with TickPublisher(topics) as publisher:
        with pytest.raises(ValueError, match="LAST"):
            await publisher.publish(half, [BTC])
        with pytest.raises(ValueError, match="instrument ids"):
            await publisher.publish(trades(3, 3), [BTC])
    assert await frames(topics) == []


# -- definitions -------------------------------------------------------------------------------------------------------


async def test_an_instrument_is_defined_before_its_first_frame_and_only_once(topics: Settings) -> None:
    for incarnation in (1, 2):
        async with TickPublisher(topics, incarnation=incarnation) as publisher:
            await publisher.publish(trades(10, 2), MANY[:2])
            assert len(await records(topics, INSTRUMENTS)) == 2  # acknowledged though nothing was flushed
    definitions = [decode_definition(record.value) for record in await records(topics, INSTRUMENTS)]
    assert definitions == MANY[:2]


async def test_an_instrument_first_met_in_a_tick_is_defined_before_that_tick_leaves(topics: Settings) -> None:
    limits = replace(topics.publisher, frame_ms=60_000.0)  # nothing leaves by itself
    async with TickPublisher(replace(topics, publisher=limits)) as publisher:
        await publisher.trade(BTC.text, price="0.001", size="1", ts_event_ns=1)
        (record,) = await records(topics, INSTRUMENTS)
        assert record.key == BTC.text.encode()
        assert decode_definition(record.value) == Instrument("binance", "spot", "BTC-USDT", size_exp=-2, implicit=True)
        assert await frames(topics) == []
    assert len(await frames(topics)) == 1


async def test_the_first_definition_stands_and_other_exponents_are_refused(topics: Settings) -> None:
    async with InstrumentDirectory(topics) as directory:
        await directory.define([replace_exponent(BTC, -3)])
    async with TickPublisher(topics) as publisher:
        with pytest.raises(InstrumentConflict, match="BTC-USDT is defined with exponents -3/-9"):
            await publisher.publish(trades(1, 1), [BTC])
        await publisher.trade(BTC.text, price="1.5", size="1", ts_event_ns=1)
    ((_, frame),) = await frames(topics)
    assert (frame.ticks["price"][0], frame.instruments["price_exp"][0]) == (1500, -3)


async def test_of_two_definitions_at_once_one_stands_for_all_and_survives_compaction(topics: Settings) -> None:
    async with InstrumentDirectory(topics) as one, InstrumentDirectory(topics) as two:
        outcomes = await asyncio.gather(
            one.define([replace_exponent(BTC, -3)]), two.define([replace_exponent(BTC, -4)]), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["InstrumentConflict", "list"]
    written = [decode_definition(record.value) for record in await records(topics, INSTRUMENTS)]
    winner = -3 if isinstance(outcomes[0], list) else -4
    assert written[0].price_exp == written[-1].price_exp == winner
    async with InstrumentDirectory(topics) as late:
        assert late.registry.instruments[late.registry.by_text[BTC.text]].price_exp == winner


async def test_a_directory_follows_on_demand_and_passes_over_what_is_no_definition(topics: Settings) -> None:
    async with InstrumentDirectory(topics) as follower:
        producer = await start_producer(topics.kafka)
        name = topics.topics.prefix + INSTRUMENTS
        for value in (b"nonsense", encode_definition(BTC), encode_definition(replace_exponent(BTC, -1))):
            await producer.send_and_wait(name, value, key=BTC.text.encode(), partition=0)
        await stop_client(producer)
        assert BTC.text not in follower.registry.by_text
        await follower.catch_up(DEADLINE_S)
        assert follower.registry.instruments == [BTC]
        assert await follower.define([BTC]) == [0]


def replace_exponent(instrument: Instrument, price_exp: int) -> Instrument:
    return Instrument(instrument.venue, instrument.market_type, instrument.symbol, price_exp=price_exp)


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_frame_that_kafka_refuses_fails_the_next_call_with_topic_and_partition(settings: Settings) -> None:
    await ensure_topics(settings, [topic for topic in TOPICS if topic.name != FRAMES])
    name = settings.topics.prefix + FRAMES
    async with connected(settings.kafka) as admin:
        small = {"max.message.bytes": "200"}
        await admin.create_topics([NewTopic(name, settings.kafka.partitions, 1, topic_configs=small)])
    with pytest.raises(PublishFailed, match="new publisher"):
        async with TickPublisher(settings) as publisher:
            await publisher.publish(trades(5_000, 1), [BTC])
            partition = partition_of(BTC.text, settings.kafka.partitions)
            with pytest.raises(PublishFailed, match=f"{name} partition {partition} .*were refused"):
                await publisher.flush()
            with pytest.raises(PublishFailed):
                await publisher.publish(trades(1, 1), [BTC])


async def test_without_acks_the_buffer_fills_then_calls_fail_and_nothing_is_lost(topics: Settings) -> None:
    limits = replace(topics.publisher, buffer_ticks=100, frame_ticks=25, delivery_timeout_s=1.0)
    settings = replace(topics, publisher=limits)
    async with TickPublisher(settings) as publisher:
        await publisher.publish(trades(10, 1), [BTC])
        await publisher.flush()
        async with connected(settings.kafka) as admin:
            await admin.delete_topics([settings.topics.prefix + FRAMES])
        taken = 10
        with pytest.raises(PublishFailed, match="acknowledged nothing for 1 s") as caught:
            while True:
                await publisher.publish(trades(10, 1, first_price=taken), [BTC])
                taken += 10
        assert taken <= 10 + 100 + 50  # acknowledged, on their way, gathered
        assert str(partition_of(BTC.text, settings.kafka.partitions)) in str(caught.value)
        with pytest.raises(PublishFailed):
            await publisher.flush(0.2)
        await ensure_topics(settings)
        await publisher.flush(DEADLINE_S)
        arrived = (await rows(settings))["price"].tolist()
        assert arrived == list(range(10, 10 + len(arrived)))
        assert len(arrived) >= taken - 10


async def test_leaving_while_kafka_is_silent_says_so_within_the_deadline(topics: Settings, wait_until: Any) -> None:
    settings = replace(topics, publisher=replace(topics.publisher, delivery_timeout_s=0.5))
    name = settings.topics.prefix + FRAMES
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(PublishFailed, match="7 ticks wait"):
            async with TickPublisher(settings) as publisher:
                await publisher.define([BTC])
                async with connected(settings.kafka) as admin:
                    await admin.delete_topics([name])

                    async def gone() -> bool:
                        return name not in await admin.list_topics()

                    await wait_until(gone, DEADLINE_S, "the end of the topic")
                await publisher.publish(trades(7, 1), [BTC])


async def test_a_missing_topic_is_named_with_the_cure(settings: Settings) -> None:
    impatient = replace(settings, kafka=replace(settings.kafka, connect_timeout_s=1.0))
    with pytest.raises(ServiceUnavailable, match=r"has no topic .*md\.frames\.v1: .*topics --create"):
        async with TickPublisher(impatient):
            pass


async def test_another_number_of_partitions_is_refused_at_the_start(topics: Settings) -> None:
    other = replace(topics, kafka=replace(topics.kafka, partitions=topics.kafka.partitions + 1))
    with pytest.raises(SettingsError, match=r"has \d+ partitions but kafka\.partitions is \d+"):
        async with TickPublisher(other):
            pass
