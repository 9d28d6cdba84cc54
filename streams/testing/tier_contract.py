"""The tests that every tier has to pass. Name your tier in a subclass, and pytest runs them all on it:

    class TestMyTier(TierContract):
        @pytest.fixture
        async def tier(self):
            async with opened(MyTier()) as tier:
                yield tier

An own tier needs no more. A log tier also says how the worker's entries come into it (`write`), and any tier may say
how bytes in it are spoilt (`spoil`). pytest-asyncio runs them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from models.cache.coherence import PartitionView
from models.cache.keys import Location, Space, locate
from models.cache.serialize import Serializer
from models.cache.version import NOTHING
from models.errors import MarketPrismError, UnreadableValue
from models.market.facets import QUOTE
from streams.cache.held import Held
from streams.cache.tier import Answer, Tier, is_own_tier

MISS = object()
_POLL_S = 0.005
_DEADLINE_S = 10.0
_EPSILON = 1.05  # byte bounds hold within 5 %
_NO_ENTRIES = [b"", b"\0", b"garbage", b"\xff" * 9, b"\x80\x05\x95\x10", b"\0" * 8 + b"\xc1"]
_QUOTE_KEY, _BOOK_KEY = "md:binance.spot.BTC-USDT:quote", "md:binance.spot.BTC-USDT:book"


class TierContract:
    """Attributes:
    n_partitions, prefix: keys are placed with them.
    refuses_older: the tier itself keeps an older entry from replacing a newer one. A tier whose only writer never
        writes an older one may say False.
    """

    pytestmark = pytest.mark.asyncio
    n_partitions = 4
    prefix = ""
    refuses_older = True

    @pytest.fixture
    async def tier(self) -> AsyncIterator[Tier]:
        """The tier under test, empty and opened; it is closed by the fixture."""
        raise NotImplementedError("give a fixture `tier`")
        yield

    @pytest.fixture(autouse=True)
    def views(self) -> dict[tuple[Space, int], PartitionView]:
        """What the reader knows: everything up to version 0 was heard of each partition."""
        self._views = {(space, p): PartitionView(1024) for space in Space for p in range(self.n_partitions)}
        for view in self._views.values():
            view.hear(NOTHING, 0)
        return self._views

    async def write(self, tier: Tier, held: Held) -> None:
        """Bring an entry into the tier, and the tier to the version as of which it is right."""
        if not is_own_tier(tier):
            raise NotImplementedError("a log tier's tests say how entries come into it")
        tier.keep(held)

    async def spoil(self, tier: Tier, at: Location, data: bytes) -> None:
        """Put bytes that are no entry in the place of one."""
        pytest.skip("nothing is said of how to spoil its bytes")

    # -- what tests are made of

    def place(self, text: str) -> Location:
        return locate(text, prefix=self.prefix, n_partitions=self.n_partitions)

    def held(self, text: str, version: int, value: Any = MISS, **more: Any) -> Held:
        """An entry that was right as of its own version; without a value a known miss."""
        at = self.place(text)
        view = self._views[at.key.space, at.partition]
        if value is MISS:
            return Held(at, view, NOTHING, version, **more)
        packed = value if isinstance(value, bytes) else msgspec.msgpack.encode(value)
        return Held(at, view, version, version, packed=packed, **more)

    async def read(self, tier: Tier, text: str) -> Answer:
        at = self.place(text)
        return await tier.read(at, self._views[at.key.space, at.partition])

    async def read_many(self, tier: Tier, *texts: str) -> list[Answer]:
        places = [self.place(text) for text in texts]
        return list(await tier.read_many([(at, self._views[at.key.space, at.partition]) for at in places]))

    def value(self, answer: Answer) -> Any:
        """What a reader would see of an answer now; MISS for none, for what is expired and for what is no value."""
        if answer is None or isinstance(answer, MarketPrismError) or answer.version < 0:
            return MISS
        if answer.expires_at_ms is not None and answer.expires_at_ms <= _now_ms():
            return MISS
        if not answer.packed:
            return answer.value
        try:
            return Serializer().decode(answer.packed)
        except UnreadableValue:
            return MISS

    async def seen(self, tier: Tier, *texts: str) -> list[Any]:
        return [self.value(answer) for answer in await self.read_many(tier, *texts)]

    # -- answers

    async def test_an_entry_comes_back_as_it_was_written(self, tier: Tier) -> None:
        far_ms = _now_ms() + 3_600_000
        await self.write(tier, self.held("s:1", 7, {"a": [1, "x"]}, tags=("vip", "eu"), expires_at_ms=far_ms))
        answer = await self.read(tier, "s:1")
        assert isinstance(answer, Held)
        assert self.value(answer) == {"a": [1, "x"]}
        assert (answer.version, answer.tags, answer.expires_at_ms) == (7, ("vip", "eu"), far_ms)
        assert answer.at.key.text == "s:1"

    async def test_an_answer_says_as_of_which_version_it_is_right(self, tier: Tier) -> None:
        await self.write(tier, self.held("s:1", 7, "a"))
        answer = await self.read(tier, "s:1")
        assert isinstance(answer, Held)
        assert answer.as_of == 7

    async def test_what_the_tier_does_not_hold_is_no_value(self, tier: Tier) -> None:
        await self.write(tier, self.held("s:1", 7, "a"))
        assert await self.seen(tier, "s:2") == [MISS]

    async def test_a_known_miss_is_one_as_of_a_version(self, tier: Tier) -> None:
        await self.write(tier, self.held("s:1", 7, "a"))
        await self.write(tier, self.held("s:1", 8))
        answer = await self.read(tier, "s:1")
        assert isinstance(answer, Held)
        assert (answer.version, answer.as_of) == (NOTHING, 8)

    async def test_keys_that_look_alike_are_different_entries(self, tier: Tier) -> None:
        texts = ["a:b:c", "a:b.c", "a.b:c", "a:b:c:", "a:B:c", "a:b::c", "a:b", "a:b:c:d", "a:b/c", "a:b c"]
        for version, text in enumerate(texts, 1):
            await self.write(tier, self.held(text, version, text))
        assert await self.seen(tier, *texts) == texts

    async def test_a_batch_is_answered_in_its_order(self, tier: Tier) -> None:
        texts = [f"s:{n}" for n in range(50)]
        for version, text in enumerate(texts[::2], 1):
            await self.write(tier, self.held(text, version, text))
        expected = [MISS if n % 2 else text for n, text in enumerate(texts)]
        assert await self.seen(tier, *texts) == expected
        assert await self.seen(tier, *reversed(texts)) == expected[::-1]
        assert await self.seen(tier, "s:0", "s:0") == ["s:0", "s:0"]
        assert await self.read_many(tier) == []

    async def test_values_are_no_shared_objects(self, tier: Tier) -> None:
        await self.write(tier, self.held("s:1", 7, {"a": [1]}))
        (first,) = await self.seen(tier, "s:1")
        first["a"].append(2)
        first["b"] = 3
        assert await self.seen(tier, "s:1") == [{"a": [1]}]

    # -- versions

    async def test_a_newer_entry_replaces_an_older_one(self, tier: Tier) -> None:
        for version in (5, 9):
            await self.write(tier, self.held("s:1", version, f"v{version}"))
        assert await self.seen(tier, "s:1") == ["v9"]

    async def test_an_older_fill_loses(self, tier: Tier) -> None:
        if not self.refuses_older:
            pytest.skip("its only writer never writes an older entry")
        for version in (9, 5):
            await self.write(tier, self.held("s:1", version, f"v{version}"))
        answer = await self.read(tier, "s:1")
        assert isinstance(answer, Held)
        assert (self.value(answer), answer.version) == ("v9", 9)
        assert answer.as_of >= 9

    async def test_an_older_value_does_not_come_back_after_a_miss(self, tier: Tier) -> None:
        if not self.refuses_older:
            pytest.skip("its only writer never writes an older entry")
        await self.write(tier, self.held("s:1", 5, "old"))
        await self.write(tier, self.held("s:1", 9))
        await self.write(tier, self.held("s:1", 6, "late"))
        assert await self.seen(tier, "s:1") == [MISS]

    # -- time

    async def test_a_life_below_a_second_ends_at_its_instant(self, tier: Tier) -> None:
        expires_at_ms = _now_ms() + 250
        await self.write(tier, self.held("s:1", 7, "brief", expires_at_ms=expires_at_ms))
        await self.write(tier, self.held("s:2", 8, "for good"))
        answer = await self.read(tier, "s:1")
        if _now_ms() < expires_at_ms:
            assert isinstance(answer, Held)
            assert answer.expires_at_ms == expires_at_ms
            assert answer.version == 7
        end_s = time.monotonic() + _DEADLINE_S
        while True:
            before_ms = _now_ms()
            answer = await self.read(tier, "s:1")
            if before_ms >= expires_at_ms:
                break
            assert time.monotonic() < end_s
            await asyncio.sleep(_POLL_S)
        assert self.value(answer) is MISS
        assert await self.seen(tier, "s:1", "s:2") == [MISS, "for good"]

    # -- bytes

    @pytest.mark.parametrize(
        "data", [b"", b"\0", b"garbage", b"\xff" * 9, b"\x80\x05\x95\x10", b"\0" * 8 + b"\xc1"], ids=repr
    )
    async def test_bytes_that_are_no_entry_are_a_miss_and_harm_no_other(self, tier: Tier, data: bytes) -> None:
        texts = [f"s:{n}" for n in range(5)]
        for version, text in enumerate(texts, 1):
            await self.write(tier, self.held(text, version, text))
        await self.spoil(tier, self.place("s:2"), data)
        assert await self.seen(tier, *texts) == ["s:0", "s:1", MISS, "s:3", "s:4"]

    async def test_values_of_unknown_forms_and_forged_pickles_are_no_values(self, tier: Tier) -> None:
        forged = Serializer("pickle", pickle_keys=[b"somebody else's key"]).encode({"a": 1})
        unknown = msgspec.msgpack.encode(msgspec.msgpack.Ext(77, b"\x63" + b"\0" * 20))
        for version, (text, value) in enumerate({"s:1": forged, "s:2": unknown, "s:3": b"\xc1", "s:4": "x"}.items(), 1):
            await self.write(tier, self.held(text, version, value))
        assert await self.seen(tier, "s:1", "s:2", "s:3", "s:4") == [MISS, MISS, MISS, "x"]

    # -- bounds, where there are any

    async def test_updating_a_key_at_capacity_evicts_nobody(self, tier: Tier) -> None:
        texts = await self._fill(tier)
        there = [text for text, value in zip(texts, await self.seen(tier, *texts), strict=True) if value is not MISS]
        assert 3 < len(there) < len(texts)
        for version, text in enumerate((there[0], there[-1], there[len(there) // 2]), 100_000):
            await self.write(tier, self.held(text, version, "y" * 400))
            assert MISS not in await self.seen(tier, *there)

    async def test_the_bound_in_bytes_holds_at_all_times(self, tier: Tier) -> None:
        bound = _bound(tier) * _EPSILON
        for version in range(1, 3000):
            size = (version * 7919) % 3000
            await self.write(tier, self.held(f"s:{version * 31 % 701}", version, "z" * size))
            assert tier.bytes <= bound  # type: ignore[attr-defined]
        assert tier.bytes > bound / 2  # type: ignore[attr-defined]

    async def test_an_entry_larger_than_the_bound_is_not_kept(self, tier: Tier) -> None:
        bound = _bound(tier)
        await self.write(tier, self.held("s:1", 1, "small"))
        await self.write(tier, self.held("s:2", 2, "x" * bound))
        assert await self.seen(tier, "s:1", "s:2") == ["small", MISS]

    # -- own tiers

    async def test_rows_and_books_come_back_as_they_were_kept(self, tier: Tier) -> None:
        if not is_own_tier(tier):
            pytest.skip("a log tier's own tests write rows and books")
        row = bytes(range(64)) + bytes([0, 0, QUOTE, 0, 0, 0, 0, 0])
        book = {"bids": (("1", "2"), ("0.5", "3")), "asks": (), "last_update_id": 4, "state": "live", "ts_ns": 5}
        await self.write(tier, _market(self.held(_QUOTE_KEY, 3), version=3, row=row))
        await self.write(tier, _market(self.held(_BOOK_KEY, 4), version=4, value=book))
        quote, got = await self.read_many(tier, _QUOTE_KEY, _BOOK_KEY)
        assert isinstance(quote, Held)
        assert isinstance(got, Held)
        assert (quote.version, quote.row) == (3, row)
        assert (got.version, got.value) == (4, book)

    async def test_dropping_a_key_drops_no_other(self, tier: Tier) -> None:
        if not is_own_tier(tier):
            pytest.skip("readers drop nothing from it")
        texts = ["s:1", "s:10", "s:1:1", "s:2"]
        for version, text in enumerate(texts, 1):
            await self.write(tier, self.held(text, version, text))
        tier.drop("s:1")
        tier.drop("s:404")
        assert await self.seen(tier, *texts) == [MISS, "s:10", "s:1:1", "s:2"]

    # -- life

    async def test_a_probe_touches_no_users_data(self, tier: Tier) -> None:
        texts = [f"s:{n}" for n in range(10)]
        for version, text in enumerate(texts, 1):
            await self.write(tier, self.held(text, version, text))
        before = getattr(tier, "bytes", None)
        for _ in range(5):
            await tier.probe()
        assert getattr(tier, "bytes", None) == before
        assert await self.seen(tier, *texts) == texts

    async def test_closing_twice_is_fine(self, tier: Tier) -> None:
        await tier.close()
        await tier.close()

    async def _fill(self, tier: Tier) -> list[str]:
        """Write entries of one size until the bound made some leave."""
        texts = [f"s:{n:04d}" for n in range(max(8, 2 * _bound(tier) // 400))]
        for version, text in enumerate(texts, 1):
            await self.write(tier, self.held(text, version, "x" * 400))
        return texts


def _bound(tier: Tier) -> int:
    bound: int | None = getattr(tier, "max_bytes", None)
    if bound is None:
        pytest.skip("it has no bound of its own")
    if bound > 1 << 20:
        pytest.fail(f"a bound of {bound} bytes takes these tests too long: give the tier 64 KiB")
    return bound


def _market(held: Held, **more: Any) -> Held:
    return msgspec.structs.replace(held, **more)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
