"""Slots: every hash finds its own number, through growth and through hashes that want the same place."""

from __future__ import annotations

import numpy as np

from models.market.instruments import INSTRUMENT_REF, Instrument
from models.market.listing import pack_listing
from models.market.prefetch import AHEAD
from models.market.slots import SlotTable

# The table multiplies by this odd number and takes bits from 32 on: its inverse makes hashes that collide on purpose.
MULTIPLIER = 0x9E3779B97F4A7C15
INVERSE = pow(MULTIPLIER, -1, 2**64)


class Named(Instrument, frozen=True):
    """An instrument whose hash is chosen."""

    chosen: int = 0

    @property
    def hash(self) -> int:
        return self.chosen


def named(hash_: int, price_exp: int = -9, size_exp: int = -9) -> Named:
    return Named("venue", "spot", "A-B", price_exp=price_exp, size_exp=size_exp, chosen=hash_)


def found(table: SlotTable, hashes: list[int]) -> list[int]:
    return table.find(np.array(hashes, np.uint64)).tolist()


def assert_slots(hashes: list[int]) -> None:
    """Slots are the order of coming, at every size of the table, and hashes that never came have none."""
    assert len(set(hashes)) == len(hashes)
    table = SlotTable()
    for slot, hash_ in enumerate(hashes):
        assert found(table, [hash_]) == [-1]
        assert table.add(named(hash_, price_exp=-(slot % 19), size_exp=slot % 7)) == slot
        if slot & slot + 1 == 0:
            assert found(table, hashes) == [*range(slot + 1), *[-1] * (len(hashes) - slot - 1)]
    assert len(table) == len(hashes)
    assert found(table, hashes[::-1]) == list(range(len(hashes)))[::-1]
    assert [table.add(named(hash_)) for hash_ in hashes] == list(range(len(hashes)))
    assert table.hashes[: len(hashes)].tolist() == hashes
    assert table.price_exp[: len(hashes)].tolist() == [-(slot % 19) for slot in range(len(hashes))]
    assert table.size_exp[: len(hashes)].tolist() == [slot % 7 for slot in range(len(hashes))]


def test_thousands_of_random_hashes_find_their_slots_while_the_table_grows() -> None:
    random = np.random.default_rng(5)
    hashes = random.integers(1, 2**64, 5000, dtype=np.uint64).tolist()
    assert_slots(hashes)


def test_hashes_with_the_same_low_bits_find_their_slots() -> None:
    assert_slots([i << 48 | 1 for i in range(1, 600)])


def test_hashes_with_the_same_high_bits_find_their_slots() -> None:
    assert_slots([2**63 + i for i in range(600)])


def test_hashes_that_all_want_one_place_find_their_slots() -> None:
    # Their products have equal bits from 32 on, so every table that is smaller than 2**32 has one place for all.
    assert_slots([(2**32 * 77 + i) * INVERSE % 2**64 for i in range(400)])


def test_hashes_that_want_the_last_place_go_on_at_the_first() -> None:
    assert_slots([(0xFFFFFFFF << 32 | i) * INVERSE % 2**64 for i in range(40)])


def test_ends_of_the_range_are_hashes_like_others() -> None:
    assert_slots([1, 2**64 - 1, 2**63, 2**63 - 1, 2**32, 2**32 - 1])


def test_no_hash_finds_no_slot_and_zero_is_never_one() -> None:
    table = SlotTable()
    assert table.find(np.zeros(0, np.uint64)).shape == (0,)
    for slot in range(70):
        table.add(named(slot + 1))
    assert found(table, [0]) == [-1]
    assert [instrument.hash for instrument in table.instruments] == list(range(1, 71))


def listed(instruments: list[Named]) -> bytes:
    refs = np.zeros(len(instruments), INSTRUMENT_REF)
    for ref, of in zip(refs, instruments, strict=True):
        ref["hash"], ref["price_exp"], ref["size_exp"] = of.hash, of.price_exp, of.size_exp
    return pack_listing(refs)


def test_lists_of_any_lengths_find_the_slots_of_their_hashes() -> None:
    random = np.random.default_rng(3)
    counts = [0, 1, 5, 2 * AHEAD - 1, 2 * AHEAD, 2 * AHEAD + 1, 0, 5 * AHEAD + 2, 700, 0]
    every = [named(h, -(h % 19), h % 7) for h in random.integers(1, 2**64, sum(counts), dtype=np.uint64).tolist()]
    table = SlotTable()
    for number in random.permutation(len(every)).tolist():
        table.add(every[number])
    ends = np.cumsum(counts).tolist()
    lists = b"".join(listed(every[end - k : end]) for end, k in zip(ends, counts, strict=True))
    slots, n_missing, n_differing = table.resolve(lists, counts)
    assert slots.tolist() == found(table, [of.hash for of in every])
    assert [table.instruments[slot] for slot in slots] == every
    assert (n_missing, n_differing) == (0, 0)
    assert table.refs["hash"][slots].tolist() == [of.hash for of in every]


def test_no_lists_and_empty_lists_find_nothing() -> None:
    for counts in ([], [0], [0, 0]):
        slots, *numbers = SlotTable().resolve(b"", counts)
        assert (slots.shape, numbers) == ((0,), [0, 0])


def test_hashes_without_a_slot_and_exponents_that_differ_are_counted() -> None:
    table = SlotTable()
    for hash_ in range(1, 41):
        table.add(named(hash_, price_exp=-9, size_exp=-8))
    first = [named(1, -9, -8), named(41, -9, -8), named(2, -9, -9), named(3, -8, -8), named(4, -8, -9)]
    second = [named(5, -9, -8), named(2**64 - 1, 0, 0), named(6, -9, 127)]
    slots, n_missing, n_differing = table.resolve(listed(first) + listed(second), [len(first), len(second)])
    assert slots.tolist() == [0, -1, 1, 2, 3, 4, -1, 5]
    assert (n_missing, n_differing) == (2, 4)
