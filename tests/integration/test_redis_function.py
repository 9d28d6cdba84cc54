"""The function library on a real Redis: owners, marks, fences, expiry, books, rewrites."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise

import numpy as np
import pytest
from redis.asyncio import Redis

from models.cache.book_hash import LEVEL, pack_book, unpack_book
from models.cache.key_bytes import KeyBytes
from models.cache.keys import Space, facet_keys, floors_key, mark_key, stem
from models.cache.mark import MARK_BYTES, unpack_mark
from models.cache.packed_keys import PackedKeys
from models.cache.rows import pack_rows, unpack_row
from models.cache.version import NOTHING, from_bytes, to_bytes
from models.cache.version import version as make_version
from models.errors import OwnerFenced, ServiceUnavailable
from models.market.book_page import BookHeader, encode_wire_header
from models.market.facets import BOOK, FACETS, QUOTE
from models.market.instruments import Instrument
from streams.cache.batch import Answer, Batch, Outcome, delete, put, put_until, raise_floor
from streams.cache.connect import connect_redis
from streams.cache.library import load_library, source
from streams.cache.redis import PartitionWriter
from streams.services.ports import free_ports
from streams.settings import RedisSettings, Settings

pytestmark = pytest.mark.integration

PARTITION, OWNER = 3, 7
NOW_NS = 1_760_000_000_000_000_000


class Tier:
    """One partition of a real Redis, and an owner's hand on it."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.prefix = settings.topics.prefix
        self.writer = PartitionWriter(redis, url=settings.redis.url, prefix=self.prefix, clock=lambda: NOW_NS)

    def key(self, name: str, space: Space = Space.GENERIC) -> bytes:
        return (stem(self.prefix, space, PARTITION) + name).encode()

    async def apply(
        self, start: int, end: int, *updates: tuple[bytes, bytes], token: int = OWNER, rewrite: bool = False
    ) -> Outcome:
        batch = Batch(Space.GENERIC, PARTITION, token, start, end, end * 10, updates=updates, rewrite=rewrite)
        (outcome,) = await self.writer.apply(batch)
        return outcome

    async def put(self, start: int, end: int, name: str, text: bytes = b"", *, token: int = OWNER) -> Outcome:
        return await self.apply(start, end, (self.key(name), put(to_bytes(end) + text)), token=token)

    async def version(self, name: str) -> int | None:
        data = await self.redis.get(self.key(name))
        return None if data is None else from_bytes(data)

    async def mark(self, space: Space = Space.GENERIC) -> tuple[int, int, int]:
        mark = unpack_mark(await self.redis.get(mark_key(self.prefix, space, PARTITION)))
        return mark.token, mark.version, mark.watermark_ns


@pytest.fixture
async def tier(settings: Settings) -> AsyncIterator[Tier]:
    redis = connect_redis(settings.redis)
    async with aclosing(redis):
        yield Tier(redis, settings)
        async for key in redis.scan_iter(match=settings.topics.prefix + "*", count=1000):
            await redis.delete(key)


async def test_a_batch_writes_its_keys_and_then_the_mark(tier: Tier) -> None:
    outcome = await tier.put(NOTHING, 4, "session:1", b"x")
    assert outcome == Outcome(Answer.OK, written=1)
    assert await tier.redis.get(tier.key("session:1")) == to_bytes(4) + b"x"
    data = await tier.redis.get(mark_key(tier.prefix, Space.GENERIC, PARTITION))
    assert len(data) == MARK_BYTES
    assert (await tier.mark()) == (OWNER, 4, 40)


async def test_version_zero_counts_and_is_not_nothing(tier: Tier) -> None:
    assert (await tier.put(NOTHING, 0, "session:1")).answer is Answer.OK
    assert (await tier.mark())[1] == 0
    assert await tier.put(NOTHING, 0, "session:1", b"again") == Outcome(Answer.STALE, version=0)
    assert (await tier.put(0, 1, "session:1")).answer is Answer.OK


async def test_a_batch_that_the_mark_covers_does_nothing(tier: Tier) -> None:
    await tier.put(NOTHING, 9, "a:1")
    assert await tier.put(3, 9, "b:1") == Outcome(Answer.STALE, version=9)
    assert await tier.version("b:1") is None


async def test_a_batch_beyond_the_mark_is_a_gap_and_writes_nothing(tier: Tier) -> None:
    await tier.put(NOTHING, 9, "a:1")
    assert await tier.put(10, 12, "a:1") == Outcome(Answer.GAP, version=9)
    assert (await tier.version("a:1"), (await tier.mark())[1]) == (9, 9)


async def test_a_tier_that_lost_everything_answers_gap_until_it_is_rewritten(tier: Tier) -> None:
    assert await tier.put(5, 6, "a:1") == Outcome(Answer.GAP, version=NOTHING)
    assert (await tier.apply(NOTHING, 6, (tier.key("a:1"), put(to_bytes(2))), rewrite=True)).answer is Answer.OK
    assert (await tier.put(6, 7, "a:1")).answer is Answer.OK


async def test_an_older_owner_is_fenced_whatever_it_sends(tier: Tier) -> None:
    await tier.put(NOTHING, 9, "a:1")
    assert (await tier.put(20, 21, "a:1", token=OWNER + 1)).answer is Answer.GAP  # the newer owner's first word
    fenced = Outcome(Answer.FENCED, token=OWNER + 1)
    assert await tier.put(9, 10, "a:1") == fenced
    assert await tier.apply(NOTHING, 99, (tier.key("a:1"), put(to_bytes(99))), rewrite=True) == fenced
    assert await tier.writer.heartbeat([(Space.GENERIC, PARTITION, OWNER, 9, 1)]) == [fenced]
    with pytest.raises(OwnerFenced, match="8"):
        await tier.writer.take(Space.GENERIC, PARTITION, OWNER)
    assert await tier.version("a:1") == 9


async def test_an_older_version_never_wins_at_any_byte_of_it(tier: Tier) -> None:
    """Above 53 bits, and with bytes that a locale would sort otherwise."""
    versions = sorted({1 << shift for shift in range(63)} | {make_version(32_767, 0xFFFF_FFFF_FFFF), 0x80, 0xFF, 0x7F})
    for low, high in pairwise(versions):
        name = f"v:{high}"
        both = [(tier.key(name), put(to_bytes(v))) for v in (high, low)]
        await tier.apply(NOTHING, 1, *both, rewrite=True)
        assert await tier.version(name) == high


def quote_keys(tier: Tier, n: int) -> PackedKeys:
    keys = KeyBytes(tier.prefix, PARTITION)
    keys.catch_up([Instrument("binance", "spot", f"S{i}-USDT") for i in range(n)])
    return keys.pack(np.arange(n, dtype=np.int32) * len(FACETS) + QUOTE)


async def test_rows_are_fenced_one_by_one(tier: Tier) -> None:
    keys = quote_keys(tier, 3)
    exps, facet = np.full(3, -9, np.int8), np.full(3, QUOTE, np.uint8)

    def batch(start: int, end: int, versions: list[int], value: int) -> Batch:
        state = np.full((3, 10), value, np.int64)
        state[:, 0] = versions
        rows = pack_rows(state, exps, exps, facet)
        return Batch(Space.MARKET, PARTITION, OWNER, start, end, 0, row_keys=keys, rows=rows)

    assert await tier.writer.apply(batch(NOTHING, 5, [5, 4, 3], 1)) == [Outcome(Answer.OK, written=3)]
    assert await tier.writer.apply(batch(2, 8, [5, 8, 2], 2)) == [Outcome(Answer.OK, written=1)]
    rows = [unpack_row(data) for data in await tier.redis.mget(list(keys))]
    assert [(row.version, row.values[0]) for row in rows if row] == [(5, 1), (8, 2), (3, 1)]


async def test_a_large_batch_goes_in_parts_and_only_the_last_raises_the_mark(tier: Tier) -> None:
    keys = quote_keys(tier, 1100)
    state = np.ones((1100, 10), np.int64)
    exps, facet = np.zeros(1100, np.int8), np.full(1100, QUOTE, np.uint8)
    rows = pack_rows(state, exps, exps, facet)
    more = [(tier.key(f"x:{i}", Space.MARKET), put(to_bytes(1))) for i in range(600)]
    batch = Batch(Space.MARKET, PARTITION, OWNER, NOTHING, 1, 0, keys, rows, more)
    assert await tier.writer.apply(batch) == [Outcome(Answer.OK, written=1700)]
    assert await tier.redis.exists(*keys, *(key for key, _ in more)) == 1700
    # A part that is refused keeps the last part from claiming the whole: here a book that nobody wrote in full.
    torn = (next(iter(keys)) + b":book", book_update(2, {}, full=False))
    batch = Batch(Space.MARKET, PARTITION, OWNER, 1, 2, 0, updates=[torn, *((k, put(to_bytes(2))) for k, _ in more)])
    assert await tier.writer.apply(batch) == [Outcome(Answer.GAP, version=1)]
    assert (await tier.mark(Space.MARKET))[1] == 1


async def test_several_partitions_are_applied_in_one_call_with_an_answer_each(tier: Tier) -> None:
    batches = [Batch(Space.GENERIC, p, OWNER, start, 5, 0) for p, start in ((0, NOTHING), (1, 3), (2, NOTHING))]
    outcomes = await tier.writer.apply(*batches)
    assert [outcome.answer for outcome in outcomes] == [Answer.OK, Answer.GAP, Answer.OK]


async def test_expiry_is_the_instant_it_was_given_and_one_in_the_past_deletes(tier: Tier) -> None:
    key, later_ms = tier.key("s:1"), (time.time_ns() // 1_000_000) + 600_000
    await tier.apply(NOTHING, 1, (key, put_until(later_ms, to_bytes(1) + b"x")))
    assert await tier.redis.pexpiretime(key) == later_ms
    await tier.apply(1, 2, (key, put_until(1_000, to_bytes(2) + b"y")))
    assert await tier.redis.get(key) is None


async def test_a_delete_spares_what_is_newer(tier: Tier) -> None:
    await tier.apply(NOTHING, 5, (tier.key("a:1"), put(to_bytes(5))), (tier.key("b:1"), put(to_bytes(3))))
    gone = [(tier.key("a:1"), delete(4)), (tier.key("b:1"), delete(4)), (tier.key("c:1"), delete(4))]
    assert (await tier.apply(4, 6, *gone)).written == 1
    assert (await tier.version("a:1"), await tier.version("b:1")) == (5, None)


async def test_a_deleted_key_does_not_come_back_when_an_old_batch_is_repeated(tier: Tier) -> None:
    await tier.put(NOTHING, 3, "a:1")
    await tier.apply(3, 4, (tier.key("a:1"), delete(4)))
    assert (await tier.put(2, 3, "a:1")).answer is Answer.STALE
    assert await tier.version("a:1") is None


async def test_floors_only_rise_and_the_mark_tells_the_newest(tier: Tier) -> None:
    floors = floors_key(tier.prefix, PARTITION)
    await tier.apply(NOTHING, 5, (floors, raise_floor(5, "t:vip")), (floors, raise_floor(4, "*")))
    await tier.apply(4, 6, (floors, raise_floor(3, "t:vip")))
    assert await tier.redis.hgetall(floors) == {b"t:vip": to_bytes(5), b"*": to_bytes(4)}
    mark = unpack_mark(await tier.redis.get(mark_key(tier.prefix, Space.GENERIC, PARTITION)))
    assert (mark.floors, mark.version) == (5, 6)


async def test_a_heartbeat_raises_the_watermark_of_exactly_its_mark(tier: Tier) -> None:
    await tier.put(NOTHING, 5, "a:1")

    async def beat(version: int, watermark_ns: int) -> Outcome:
        (outcome,) = await tier.writer.heartbeat([(Space.GENERIC, PARTITION, OWNER, version, watermark_ns)])
        return outcome

    assert (await beat(5, 900)).answer is Answer.OK
    assert await tier.mark() == (OWNER, 5, 900)
    assert (await beat(5, 800)).answer is Answer.OK
    assert await beat(6, 1000) == Outcome(Answer.GAP, version=5)  # the tier lost something
    assert await beat(4, 1000) == Outcome(Answer.STALE, version=5)
    assert await tier.mark() == (OWNER, 5, 900)


async def test_a_rewrite_from_pages_that_are_behind_lowers_the_mark_first(tier: Tier) -> None:
    """The pages bring back what was deleted after them, so the mark may not claim the deletion."""
    await tier.put(NOTHING, 3, "a:1")
    await tier.apply(3, 9, (tier.key("a:1"), delete(9)))
    assert (await tier.apply(NOTHING, 5, (tier.key("a:1"), put(to_bytes(3))), rewrite=True)).answer is Answer.OK
    assert await tier.mark() == (OWNER, 5, 50)
    await tier.apply(5, 9, (tier.key("a:1"), delete(9)))
    assert await tier.version("a:1") is None


async def test_a_rewrite_leaves_newer_values_alone(tier: Tier) -> None:
    await tier.put(NOTHING, 9, "a:1", b"new")
    await tier.apply(NOTHING, 5, (tier.key("a:1"), put(to_bytes(3) + b"old")), rewrite=True)
    assert await tier.redis.get(tier.key("a:1")) == to_bytes(9) + b"new"


async def test_taking_with_a_reset_makes_every_reader_wait_for_the_rewrite(tier: Tier) -> None:
    await tier.put(NOTHING, 9, "a:1")
    kept = await tier.writer.take(Space.GENERIC, PARTITION, OWNER + 1)
    assert (kept.token, kept.version) == (OWNER + 1, 9)
    reset = await tier.writer.take(Space.GENERIC, PARTITION, OWNER + 2, reset=True)
    assert (reset.token, reset.version, reset.watermark_ns) == (OWNER + 2, NOTHING, 0)


async def test_keys_that_the_pages_lack_are_deleted_but_nothing_else(tier: Tier) -> None:
    floors = floors_key(tier.prefix, PARTITION)
    updates = [(tier.key(f"a:{i}"), put(to_bytes(i))) for i in range(700)]
    await tier.apply(NOTHING, 700, *updates, (floors, raise_floor(1, "*")))
    neighbour = (stem(tier.prefix, Space.GENERIC, PARTITION + 1) + "z:1").encode()
    updates = [(neighbour, put(to_bytes(1)))]
    await tier.writer.apply(Batch(Space.GENERIC, PARTITION + 1, OWNER, NOTHING, 1, 0, updates=updates))
    known = {tier.key("a:1")}
    n_deleted = await tier.writer.delete_unknown(
        Space.GENERIC, PARTITION, token=OWNER, version=650, watermark_ns=0, known=known
    )
    assert n_deleted == 650  # 0 and 2..650: newer ones stay, for the pages are behind them
    assert [await tier.version(name) for name in ("a:0", "a:1", "a:650", "a:651")] == [None, 1, None, 651]
    assert await tier.redis.exists(floors, neighbour) == 2


async def test_a_server_that_lost_the_functions_gets_them_again(tier: Tier) -> None:
    await tier.writer.load_functions()
    assert not await tier.writer.load_functions()
    await tier.redis.function_delete("marketprism")
    assert (await tier.put(NOTHING, 1, "a:1")).answer is Answer.OK


async def test_a_server_with_another_text_of_the_functions_gets_this_one_first(tier: Tier) -> None:
    await tier.redis.function_load(source() + "\n-- of another version\n", replace=True)
    await tier.put(NOTHING, 1, "a:1")
    assert not await load_library(tier.redis)


async def test_a_dead_redis_is_an_error_within_the_timeout() -> None:
    (port,) = free_ports(1)
    url = f"redis://:secret@127.0.0.1:{port}/0"
    redis = connect_redis(RedisSettings(url=url, timeout_s=0.5))
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=str(port)) as caught:
        await PartitionWriter(redis, url=url).load_functions()
    assert time.monotonic() - started < 20
    assert "secret" not in str(caught.value)


def levels(*rows: tuple[int, int]) -> bytes:
    return np.array(list(rows), LEVEL).tobytes()


def book_update(
    version: int,
    chunks: dict[int, bytes],
    *,
    full: bool,
    bids: tuple[int, ...] = (),
    asks: tuple[int, ...] = (),
    dropped: tuple[int, ...] = (),
) -> bytes:
    header = BookHeader(version, 11, 12, 13, 14, 1, 0, 0, 0, np.array(bids, np.int32), np.array(asks, np.int32))
    return pack_book(encode_wire_header(header, price_exp=-2, size_exp=-1), chunks.items(), dropped, full=full)


class Books(Tier):
    @property
    def book_key(self) -> bytes:
        return facet_keys(self.prefix, "binance.spot.BTC-USDT", PARTITION)[BOOK]

    async def step(self, start: int, end: int, update: bytes, *, token: int = OWNER, rewrite: bool = False) -> Outcome:
        batch = Batch(Space.MARKET, PARTITION, token, start, end, 0, updates=[(self.book_key, update)], rewrite=rewrite)
        (outcome,) = await self.writer.apply(batch)
        return outcome

    async def read(self) -> tuple[int, object, object]:
        book = unpack_book(await self.redis.hgetall(self.book_key))
        assert book is not None
        return book[0].version, book[1]["bids"], book[1]["asks"]


@pytest.fixture
def books(tier: Tier, settings: Settings) -> Books:
    return Books(tier.redis, settings)


FULL = {1: levels((200, 10), (199, 20)), 2: levels((150, 5)), 3: levels((201, 7))}


async def test_a_book_is_written_in_full_and_then_by_changed_chunks(books: Books) -> None:
    assert (await books.step(NOTHING, 5, book_update(5, FULL, full=True, bids=(1, 2), asks=(3,)))).written == 1
    assert await books.read() == (5, (("2", "1"), ("1.99", "2"), ("1.5", "0.5")), (("2.01", "0.7"),))
    step = book_update(7, {4: levels((202, 9))}, full=False, bids=(1,), asks=(3, 4), dropped=(2,))
    assert (await books.step(5, 8, step)).written == 1
    assert await books.read() == (7, (("2", "1"), ("1.99", "2")), (("2.01", "0.7"), ("2.02", "0.9")))
    assert set(await books.redis.hkeys(books.book_key)) == {b"h", b"o", *(n.to_bytes(4, "little") for n in (1, 3, 4))}


async def test_a_partial_book_needs_the_full_one_of_its_own_owner(books: Books) -> None:
    partial = book_update(6, {1: levels((200, 11))}, full=False, bids=(1,))
    await books.step(NOTHING, 5, book_update(4, FULL, full=True, bids=(1, 2), asks=(3,)))
    assert await books.step(5, 6, partial, token=OWNER + 1) == Outcome(Answer.GAP, version=5)
    # The new owner's chunk ids replace the old one's, although the book is of the same version.
    older = book_update(4, {9: levels((200, 10))}, full=True, bids=(9,))
    await books.step(NOTHING, 5, older, token=OWNER + 1, rewrite=True)
    assert set(await books.redis.hkeys(books.book_key)) == {b"h", b"o", (9).to_bytes(4, "little")}
    again = book_update(6, {9: levels((200, 11))}, full=False, bids=(9,))
    assert (await books.step(5, 6, again, token=OWNER + 1)).answer is Answer.OK
    assert await books.read() == (6, (("2", "1.1"),), ())


async def test_a_partial_book_is_a_gap_after_a_batch_that_was_only_half_applied(books: Books) -> None:
    """Its first part moved the book on; what the next batch changes since its own `from` may not fit any more."""
    await books.step(NOTHING, 5, book_update(5, FULL, full=True, bids=(1, 2), asks=(3,)))
    first = (books.book_key, book_update(7, {1: levels((200, 11))}, full=False, bids=(1, 2), asks=(3,)))
    filler = [(books.key(f"x:{i}", Space.MARKET), put(to_bytes(7))) for i in range(500)]
    torn = (books.book_key + b"2", book_update(7, {}, full=False))
    batch = Batch(Space.MARKET, PARTITION, OWNER, 5, 7, 0, updates=[first, *filler, torn])
    assert await books.writer.apply(batch) == [Outcome(Answer.GAP, written=500, version=5)]
    outcome = await books.step(5, 8, book_update(8, {2: levels((150, 6))}, full=False, bids=(1, 2), asks=(3,)))
    assert outcome == Outcome(Answer.GAP, version=5)


async def test_a_partial_book_is_a_gap_when_the_hash_is_gone(books: Books) -> None:
    await books.step(NOTHING, 5, book_update(5, FULL, full=True, bids=(1, 2), asks=(3,)))
    await books.redis.delete(books.book_key)
    outcome = await books.step(5, 6, book_update(6, {1: levels((200, 11))}, full=False, bids=(1,)))
    assert outcome == Outcome(Answer.GAP, version=5)


async def test_a_newer_book_is_left_alone(books: Books) -> None:
    await books.step(NOTHING, 9, book_update(9, FULL, full=True, bids=(1, 2), asks=(3,)))
    before = await books.read()
    older = book_update(4, {9: levels((1, 1))}, full=True, bids=(9,))
    await books.step(NOTHING, 5, older, token=OWNER + 1, rewrite=True)
    assert await books.read() == before
    late = await books.step(5, 8, book_update(8, {9: levels((1, 1))}, full=False, bids=(9,)), token=OWNER + 1)
    assert late.answer is Answer.OK
    assert await books.read() == before


async def test_a_book_of_many_chunks_is_whole(books: Books) -> None:
    chunks = {i: levels(*((10_000_000 - i * 100 - j, 1) for j in range(64))) for i in range(1500)}
    await books.step(NOTHING, 1, book_update(1, chunks, full=True, bids=tuple(chunks)))
    book = unpack_book(await books.redis.hgetall(books.book_key))
    assert book is not None
    assert len(book[1]["bids"]) == 96_000
