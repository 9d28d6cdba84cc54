"""Rows packed by the compiled loop are those that NumPy packs one by one, for Redis and for readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.cache.invalidation import MAX_AGE, NO_ROW, ROW_BYTES
from models.cache.packed import pack_changes
from models.cache.rows import ROW_BYTES as REDIS_BYTES
from models.cache.rows import carried_facet, carried_version, pack_rows, unpack_body, unpack_row
from models.market import facets
from models.market.facets import BOOK, N_ROW_FACETS
from models.market.partition import MarketPartition
from tests.feeds import INSTRUMENTS, log_of


def rounds_of(
    seed: int, rounds: Sequence[int]
) -> Iterator[tuple[MarketPartition, NDArray[np.int32], NDArray[np.uint64]]]:
    """A market after each of its rounds of so many frames, with the slots and facets that the round changed."""
    log = log_of(seed, sum(rounds))
    market = MarketPartition()
    market.add(INSTRUMENTS)
    version = 0
    for n_frames in rounds:
        market.apply([sent.opened(version + i) for i, sent in enumerate(log[version : version + n_frames])])
        version += n_frames
        slots, bits = market.rows.take_touched()
        yield market, slots, bits


@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_packed_rows_are_the_state_in_the_order_of_slots_and_facets(seed: int, rounds: list[int]) -> None:
    for market, slots, bits in rounds_of(seed, rounds):
        packed = pack_changes(market.rows, market.slots, slots, bits, to_version=market.applied)
        named = [
            (slot, facet)
            for slot, mask in zip(slots.tolist(), bits.tolist(), strict=True)
            for facet in range(N_ROW_FACETS)
            if mask >> facet & 1
        ]
        rows = {at: market.rows.rows[market.rows.plane_of[at[1]], at[0]] for at in named}
        there = [at for at in named if rows[at][facets.N_ROWS]]
        assert packed.names.tolist() == [slot * 16 + facet for slot, facet in there]
        assert packed.absent.tolist() == [slot * 16 + facet for slot, facet in named if (slot, facet) not in there]
        exps = [(INSTRUMENTS[slot].price_exp, INSTRUMENTS[slot].size_exp) for slot, _ in there]
        price_exp, size_exp = np.array(exps, np.int8).reshape(-1, 2).T.copy()
        state = np.array([rows[at] for at in there], np.int64).reshape(-1, facets.N_COLUMNS)
        oracle = pack_rows(state, price_exp, size_exp, np.array([facet for _, facet in there], np.uint8))
        assert packed.redis == oracle
        assert packed.carried is not None
        assert len(packed.carried) == len(named) * ROW_BYTES
        in_redis = iter(unpack_row(oracle[i : i + REDIS_BYTES]) for i in range(0, len(oracle), REDIS_BYTES))
        for i, at in enumerate(named):
            body = packed.carried[i * ROW_BYTES : (i + 1) * ROW_BYTES]
            if at in there:
                assert carried_facet(body) == at[1] != BOOK
                assert unpack_body(carried_version(body, market.applied), body) == next(in_redis)
            else:
                assert carried_facet(body) == NO_ROW


@given(st.integers(0, 2**32), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_rows_are_the_same_whether_they_are_carried_or_not(seed: int, rounds: list[int]) -> None:
    for market, slots, bits in rounds_of(seed, rounds):
        bits[::2] |= np.uint64(1 << facets.LIQUIDATION)  # some of which are not there
        pack = partial(pack_changes, market.rows, market.slots, slots, bits)
        redis = pack(to_version=market.applied, carry=False).redis
        versions = [int.from_bytes(redis[i : i + 8], "big") for i in range(0, len(redis), REDIS_BYTES)]
        oldest = min(versions, default=market.applied)
        for to_version in (market.applied, oldest + MAX_AGE, oldest + MAX_AGE + 1):
            both, one = (pack(to_version=to_version, carry=carry) for carry in (True, False))
            assert one.names.tolist() == both.names.tolist()
            assert one.absent.tolist() == both.absent.tolist()
            assert one.redis == both.redis
            assert one.carried is None
            # whether rows are carried at all goes by the oldest of them
            assert (both.carried is None) == (bool(versions) and to_version - oldest > MAX_AGE)


def test_a_row_too_old_to_say_so_keeps_all_rows_back() -> None:
    market = MarketPartition()
    market.add(INSTRUMENTS[:1])
    market.rows.ensure(1, 1 << facets.TRADE)
    market.rows.rows[0, 0, facets.VERSION], market.rows.rows[0, 0, facets.N_ROWS] = 5, 1
    slots, bits = np.zeros(1, np.int32), np.array([1 << facets.TRADE], np.uint64)
    packed = [
        pack_changes(market.rows, market.slots, slots, bits, to_version=to).carried for to in (5, 4 + 2**40, 5 + 2**40)
    ]
    assert [rows is not None for rows in packed] == [True, True, False]
    assert packed[1] is not None
    assert carried_version(packed[1], 4 + 2**40) == 5
