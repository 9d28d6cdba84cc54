"""Deep look into a policy's structure: what must be true of its queues between any two calls."""

from __future__ import annotations

from models.cache.adaptive import Adaptive
from models.cache.follower import Follower
from models.cache.lfu import LFU
from models.cache.lirs import _HIR as HIR
from models.cache.lirs import _LIR as LIR
from models.cache.lirs import GHOSTS_A_KEY, LIRS
from models.cache.lru import LRU
from models.cache.policy import BoundedPolicy, Policy
from models.cache.s3fifo import S3FIFO
from models.cache.tinylfu import TinyLFU
from models.cache.ttl import TTL


def check_whole(policy: Policy[int]) -> None:
    """Raises: AssertionError, a queue, a weight or a bound is wrong."""
    match policy:
        case Adaptive():
            _check_adaptive(policy)
        case TTL():
            _check_ttl(policy)
        case BoundedPolicy():
            _check_accounts(policy)
    assert len(policy) <= policy.capacity.max_entries
    assert policy.weight <= policy.capacity.max_weight
    assert sorted(policy) == sorted(set(policy))


def _check_accounts(policy: BoundedPolicy[int]) -> None:
    assert policy.weight == sum(slot.weight for slot in policy._slots.values())
    assert all(slot.weight >= 1 for slot in policy._slots.values())
    match policy:
        case S3FIFO() | TinyLFU():
            _check_queues(policy)
        case LIRS():
            _check_lirs(policy)
        case LFU():
            _check_lfu(policy)
        case other:
            assert isinstance(other, LRU | Follower)


def _check_queues(policy: S3FIFO[int] | TinyLFU[int]) -> None:
    """Each key is in the one queue that its slot names, with the same slot, and queues know their weights."""
    assert not policy._queues[0]
    assert sum(len(queue) for queue in policy._queues) == len(policy)
    for where, queue in enumerate(policy._queues):
        assert all(slot is policy._slots[key] and slot.where == where for key, slot in queue.items())
        assert policy._weights[where] == sum(slot.weight for slot in queue.values())
    if isinstance(policy, S3FIFO):
        assert all(0 <= slot.uses <= 3 for slot in policy._slots.values())
        assert not policy._slots.keys() & policy._ghosts._keys.keys()
        assert len(policy._ghosts) <= policy.capacity.max_entries
    else:
        assert not policy._is_over(3) or len(policy._queues[3]) == 1
        assert policy._sketch._mask & (policy._sketch._mask + 1) == 0
        assert len(policy._sketch) == len(policy._sketch._first) == len(policy._sketch._second)


def _check_lirs(policy: LIRS[int]) -> None:
    stack, queue, slots = policy._stack, policy._queue, policy._slots
    lir = {key for key, slot in slots.items() if slot.where == LIR}
    assert queue.keys() == slots.keys() - lir == {key for key, slot in slots.items() if slot.where == HIR}
    assert lir <= stack.keys()
    assert policy._n_lir == len(lir)
    assert policy._lir_weight == sum(slots[key].weight for key in lir)
    assert len(lir) <= max(1, policy._lir_entries)
    assert policy._lir_weight <= policy._lir_max_weight or len(lir) == 1
    assert {key for key, slot in stack.items() if slot is None} == policy._ghosts._keys.keys()
    assert all(slot is None or slot is slots[key] for key, slot in stack.items())
    assert not stack or next(iter(stack)) in lir
    assert len(policy._ghosts) <= GHOSTS_A_KEY * policy.capacity.max_entries


def _check_lfu(policy: LFU[int]) -> None:
    """A ring of buckets by rising count, none of them empty, links true in both directions."""
    seen: list[int] = []
    bucket = policy._head.right
    while bucket is not policy._head:
        assert bucket.keys
        assert bucket.left.count < bucket.count
        assert bucket.left.right is bucket and bucket.right.left is bucket
        for key in bucket.keys:
            assert isinstance(key, int)
            assert policy._slots[key].uses == bucket.count
            assert policy._bucket_of[key] is bucket
            seen.append(key)
        bucket = bucket.right
    assert sorted(seen) == sorted(policy._slots) == sorted(policy._bucket_of)


def _check_follower(policy: Follower[int]) -> None:
    """Whom the model does not hold is known, and leaves first."""
    model = policy._model
    assert {key for key in policy if key not in model} <= policy._strays.keys() <= set(policy)


def _check_adaptive(policy: Adaptive[int]) -> None:
    parts = [policy._live] if policy._old is None else [policy._live, policy._old]
    for part in parts:
        _check_accounts(part)
    assert len(parts) == 1 or not policy._live._slots.keys() & parts[1]._slots.keys()
    shadows = policy._shadows
    assert shadows.weights == {key: part.weight_of(key) for part in parts for key in part if shadows.samples(key)}
    assert policy.live == shadows.model.name
    if policy._follower is None:
        assert policy.candidates[shadows.leader] is type(policy._live)
    else:
        assert policy._live is policy._follower and policy._follower._model is shadows.model
        _check_follower(policy._follower)
        assert shadows.rate == 1 and policy._old is None
    for i, cache in enumerate(shadows._caches):
        check_whole(cache)
        assert i in shadows._unthinned or all(shadows.samples(key) for key in cache)


def _check_ttl(policy: TTL[int]) -> None:
    check_whole(policy._inner)
    deadlines = policy._deadlines
    assert deadlines._by_key.keys() == set(policy._inner)
    live = {(deadline, key) for deadline, _, key in deadlines._heap}
    assert {(deadline, key) for key, deadline in deadlines._by_key.items()} <= live
    assert len(deadlines._heap) <= 2 * len(deadlines) + 64 + 1
