"""One contract for all policies, with a look into their structure after every step, and naive models beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cache.adaptive import Adaptive
from models.cache.belady import belady_hits
from models.cache.lfu import LFU
from models.cache.lirs import LIRS
from models.cache.lru import LRU
from models.cache.policy import Capacity, Listener, Policy, Reason
from models.cache.s3fifo import S3FIFO
from models.cache.tinylfu import TinyLFU
from models.cache.ttl import TTL
from tests.policies import check_whole

Make = Callable[[Capacity, Listener[int] | None], Policy[int]]


def ttl(capacity: Capacity, listener: Listener[int] | None = None) -> TTL[int]:
    return TTL(capacity, listener, ttl_ns=10, inner=S3FIFO)


POLICIES: list[Make] = [LRU, LFU, S3FIFO, LIRS, TinyLFU, Adaptive, ttl]
every_policy = pytest.mark.parametrize("make", POLICIES, ids=lambda make: make.__name__)

KEYS = st.integers(0, 25)
WEIGHTS = st.integers(1, 12)
CAPACITIES = st.one_of(
    st.builds(Capacity, entries=st.integers(1, 12)),
    st.builds(Capacity, weight=st.integers(1, 60)),
    st.builds(Capacity, entries=st.integers(1, 12), weight=st.integers(1, 60)),
)
READ, PUT, REMOVE, CLEAR, TURN = "read", "put", "remove", "clear", "turn"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(READ), KEYS, WEIGHTS),  # as a cache does: what is missed is put
        st.tuples(st.just(READ), KEYS, st.just(1)),
        st.tuples(st.just(PUT), KEYS, WEIGHTS),
        st.tuples(st.just(REMOVE), KEYS, st.just(1)),
        st.tuples(st.just(TURN), st.integers(0, 3), st.integers(0, 12)),
        st.tuples(st.sampled_from([READ, READ, READ, CLEAR]), KEYS, st.just(1)),
    ),
    max_size=120,
)


@dataclass
class Account:
    """What must be in a policy, by nothing but the answers of `put` and what the listener heard."""

    weights: dict[int, int] = field(default_factory=dict)
    heard: list[tuple[int, int, Reason]] = field(default_factory=list)

    def listener(self, key: int, weight: int, reason: Reason) -> None:
        assert self.weights[key] == weight, "told of an entry that was not there, or of a wrong weight"
        self.heard.append((key, weight, reason))
        if reason is not Reason.REPLACED:
            del self.weights[key]

    def step(self, policy: Policy[int], what: str, key: int, weight: int) -> None:
        """Take one step and check what it may do to the other keys."""
        before, self.heard = dict(self.weights), []
        if what == READ:
            hit = policy.touch(key)
            assert hit == (key in self.weights)
            assert self.reasons() <= {Reason.EXPIRED}
            what = READ if hit else PUT
        if what == PUT:
            self._put(policy, key, weight, before)
        elif what == REMOVE:
            assert policy.remove(key) == (key in before)
            assert self.heard == ([(key, before[key], Reason.REMOVED)] if key in before else [])
        elif what == CLEAR:
            policy.clear()
            assert sorted(self.heard) == sorted((k, w, Reason.CLEARED) for k, w in before.items())
        elif what == TURN:
            turn(policy, key, weight)

    def _put(self, policy: Policy[int], key: int, weight: int, before: dict[int, int]) -> None:
        fits = weight <= policy.capacity.max_weight
        assert policy.put(key, weight) == fits
        if key in before and weight <= before[key]:
            assert self.heard == [(key, before[key], Reason.REPLACED)], "an update that did not grow touched others"
        if key in before and not fits:
            assert self.heard == [(key, before[key], Reason.CAPACITY)]
        assert self.reasons() <= {Reason.CAPACITY, Reason.REPLACED}
        if fits:
            self.weights[key] = weight

    def reasons(self) -> set[Reason]:
        return {reason for _, _, reason in self.heard}


def turn(policy: Policy[int], which: int, by: int) -> None:
    """What only some policies can: another one takes over, or time passes."""
    if isinstance(policy, Adaptive):
        policy.switch_to(policy.candidates[which % len(policy.candidates)])
    elif isinstance(policy, TTL):
        policy.advance(policy.now_ns + by)


@every_policy
@given(capacity=CAPACITIES, steps=STEPS)
def test_bounds_accounts_and_structure_hold_after_every_step(
    make: Make, capacity: Capacity, steps: list[tuple[str, int, int]]
) -> None:
    account = Account()
    policy = make(capacity, account.listener)
    for what, key, weight in steps:
        account.step(policy, what, key, weight)
        check_whole(policy)
        assert set(policy) == account.weights.keys()
        assert len(policy) == len(account.weights) <= capacity.max_entries
        assert policy.weight == sum(account.weights.values()) <= capacity.max_weight


@every_policy
@given(keys=st.lists(KEYS, max_size=120), entries=st.integers(1, 12))
def test_no_policy_beats_belady(make: Make, keys: list[int], entries: int) -> None:
    policy = make(Capacity(entries), None)
    hits = 0
    for key in keys:
        if policy.touch(key):
            hits += 1
        else:
            policy.put(key)
    assert hits <= belady_hits(np.array(keys, np.int64), entries)


@every_policy
@given(entries=st.integers(1, 12), fill=st.lists(KEYS, max_size=60))
def test_a_key_put_again_at_capacity_evicts_nobody(make: Make, entries: int, fill: list[int]) -> None:
    heard: list[Reason] = []
    policy = make(Capacity(entries), lambda key, weight, reason: heard.append(reason))
    for key in fill:
        policy.put(key)
    heard.clear()
    for key in list(policy):
        assert policy.put(key)
    assert heard == [Reason.REPLACED] * len(policy)


@every_policy
def test_a_weight_below_one_is_refused(make: Make) -> None:
    policy = make(Capacity(2), None)
    with pytest.raises(ValueError, match="weight 0 of key 7 is below 1"):
        policy.put(7, 0)
    assert len(policy) == 0


@every_policy
@given(steps=STEPS)
def test_the_same_steps_leave_the_same_keys(make: Make, steps: list[tuple[str, int, int]]) -> None:
    left = []
    for _ in range(2):
        account = Account()
        policy = make(Capacity(8, 40), account.listener)
        for what, key, weight in steps:
            account.step(policy, what, key, weight)
        left.append(list(policy))
    assert left[0] == left[1]


class NaiveLRU:
    """A list, oldest first."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.items: list[tuple[int, int]] = []

    def touch(self, key: int) -> bool:
        found = [item for item in self.items if item[0] == key]
        self.items = [item for item in self.items if item[0] != key] + found
        return bool(found)

    def put(self, key: int, weight: int) -> None:
        held = dict(self.items)
        others = sum(held.values()) - held.get(key, 0)
        if key in held and others + weight <= self.capacity.max_weight:
            self.items = [(k, weight if k == key else w) for k, w in self.items]
            return
        self.items = [item for item in self.items if item[0] != key]
        if weight > self.capacity.max_weight:
            return
        while len(self.items) >= self.capacity.max_entries or others + weight > self.capacity.max_weight:
            others -= self.items.pop(0)[1]
        self.items.append((key, weight))


@given(CAPACITIES, st.lists(st.tuples(KEYS, WEIGHTS, st.booleans()), max_size=120))
def test_lru_is_a_list_in_order_of_last_read(capacity: Capacity, steps: list[tuple[int, int, bool]]) -> None:
    policy, naive = LRU[int](capacity), NaiveLRU(capacity)
    for key, weight, reads in steps:
        if reads:
            assert policy.touch(key) == naive.touch(key)
        policy.put(key, weight)
        naive.put(key, weight)
        assert [(k, policy.weight_of(k)) for k in policy] == naive.items


@given(st.integers(1, 8), st.lists(st.tuples(KEYS, st.booleans()), max_size=150))
def test_lfu_evicts_the_fewest_reads_and_of_equals_the_first(entries: int, steps: list[tuple[int, bool]]) -> None:
    policy = LFU[int](Capacity(entries))
    counts: dict[int, tuple[int, int]] = {}  # key -> reads, step at which it came to them
    for now, (key, removes) in enumerate(steps):
        if removes and now % 5 == 0:
            assert policy.remove(key) == (counts.pop(key, None) is not None)
        elif policy.touch(key):
            counts[key] = counts[key][0] + 1, now
        else:
            if len(counts) == entries:
                del counts[min(counts, key=counts.__getitem__)]
            policy.put(key)
            counts[key] = 0, now
        assert set(policy) == set(counts)


def most_hits(keys: tuple[int, ...], entries: int, held: frozenset[int] = frozenset()) -> int:
    """Every choice tried: after each read any of the held keys and the one just read may be dropped."""
    if not keys:
        return 0
    key, *rest = keys
    known = held | {key}
    choices = [known] if len(known) <= entries else [known - {gone} for gone in known]
    return (key in held) + max(most_hits(tuple(rest), entries, choice) for choice in choices)


@given(st.lists(st.integers(0, 4), max_size=9).map(tuple), st.integers(1, 3))
def test_belady_is_the_best_of_all_choices(keys: tuple[int, ...], entries: int) -> None:
    assert belady_hits(np.array(keys, np.int64), entries) == most_hits(keys, entries)


def test_belady_tells_of_every_request_once_and_forgets_what_is_past() -> None:
    keys = np.arange(200_000, dtype=np.int64) % 500
    heard: list[int] = []
    hits = belady_hits(keys, 50, heard.append)
    assert sum(heard) == len(keys)
    assert hits == 50 * (len(keys) // 500 - 1)  # of a loop, a fixed part stays


@given(st.lists(st.tuples(KEYS, st.integers(0, 15), st.integers(0, 4)), max_size=100))
def test_no_entry_is_read_at_or_after_its_deadline(steps: list[tuple[int, int, int]]) -> None:
    policy = TTL[int](Capacity(1000), ttl_ns=10)
    deadlines: dict[int, int] = {}
    for key, life, passes in steps:
        policy.advance(policy.now_ns + passes)
        now = policy.now_ns
        assert policy.touch(key) == (deadlines.get(key, 0) > now) == (key in policy)
        deadline = now + (life or 10)
        assert policy.put(key, deadline_ns=deadline if life else None)
        deadlines[key] = deadline
        check_whole(policy)
    policy.advance(policy.now_ns + 100)
    assert len(policy) == 0
