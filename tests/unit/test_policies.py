"""What each policy is for, and what changing from one to another must not cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from models.cache.adaptive import Adaptive
from models.cache.ghost import Ghosts
from models.cache.lfu import LFU
from models.cache.lirs import LIRS
from models.cache.lru import LRU
from models.cache.policy import Capacity, Policy, Reason
from models.cache.s3fifo import S3FIFO
from models.cache.shadows import Shadows
from models.cache.sketch import FrequencySketch
from models.cache.stats import CacheStats
from models.cache.tinylfu import TinyLFU
from models.cache.ttl import TTL
from tests.policies import check_whole


def hits(policy: Policy[int], keys: Iterable[int]) -> int:
    n = 0
    for key in keys:
        if policy.touch(key):
            n += 1
        else:
            policy.put(key)
    return n


def zipf(n_keys: int, n: int, seed: int, exponent: float = 1.0) -> list[int]:
    weights = [1 / (i + 1) ** exponent for i in range(n_keys)]
    return random.Random(seed).choices(range(n_keys), weights, k=n)


def recency(n: int, seed: int) -> list[int]:
    """Reads of what was read lately, however often, with keys that come and go."""
    rng, stack, out = random.Random(seed), list(range(50)), []
    for i in range(n):
        back = int(rng.lognormvariate(2.5, 1.5))
        key = stack.pop(-1 - back) if back < len(stack) else 10_000 + i
        stack.append(key)
        out.append(key)
        del stack[:-2000]
    return out


@pytest.mark.parametrize("bad", [{}, {"entries": 0}, {"weight": -1}, {"entries": 5, "weight": 0}])
def test_a_capacity_that_holds_nothing_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="capacity"):
        Capacity(**bad)


@pytest.mark.parametrize("make", [S3FIFO, LIRS, TinyLFU])
def test_a_scan_does_not_push_out_what_is_read_again_and_again(make: Callable[[Capacity], Policy[int]]) -> None:
    policy = make(Capacity(100))
    hot = list(range(80))
    for _ in range(5):
        hits(policy, hot)
    hits(policy, range(1000, 3000))
    assert hits(policy, hot) > 70
    assert hits(LRU(Capacity(100)), [*hot * 5, *range(1000, 3000), *hot]) == 4 * 80


def test_a_ghost_that_returns_goes_to_the_main_queue_at_once() -> None:
    policy = S3FIFO[int](Capacity(10))
    hits(policy, range(11))
    assert 0 not in policy
    hits(policy, [0])
    hits(policy, range(100, 105))
    assert 0 in policy and 10 not in policy


def test_one_eviction_looks_at_a_bounded_number_of_keys() -> None:
    policy = S3FIFO[int](Capacity(10_000))
    for _ in range(5):
        hits(policy, range(10_000))
    policy.put(-1)
    uses = [slot.uses for slot in policy._slots.values()]
    assert sum(3 - n for n in uses if n < 3) < 1000  # of 30,000


def test_a_hot_key_that_grows_keeps_its_rank() -> None:
    policy = S3FIFO[str](Capacity(weight=100))
    for key in "abcdefghij":
        policy.put(key, 10)
    for _ in range(3):
        policy.touch("j")
    policy.put("k", 10)  # now the small queue is in use
    policy.put("j", 11)
    assert policy._slots["j"].uses == 3
    for i in range(50):
        policy.put(f"scan{i}", 10)
    assert "j" in policy


@pytest.mark.parametrize("make", [LRU, S3FIFO, LIRS, TinyLFU, Adaptive])
def test_a_listener_that_raises_leaves_the_policy_whole(make: Callable[..., Policy[int]]) -> None:
    def refuse(key: int, weight: int, reason: Reason) -> None:
        raise RuntimeError(f"{key} {reason.value}")

    policy = make(Capacity(5), refuse)
    for key in range(5):
        policy.put(key)
    with pytest.raises(RuntimeError, match="capacity"):
        policy.put(5)
    check_whole(policy)
    assert len(policy) == 4 and 5 not in policy


def test_lirs_takes_in_new_keys_of_low_recency_after_all_old_ones_were_removed() -> None:
    policy = LIRS[int](Capacity(100))
    hits(policy, range(150))
    for key in range(100):
        policy.remove(key)
    hits(policy, list(range(200, 290)) * 3)
    check_whole(policy)
    assert policy._n_lir > 50


def test_the_sketch_counts_like_a_table_until_it_fades() -> None:
    sketch = FrequencySketch(1000)
    keys = zipf(500, 5000, 1)
    for key in keys:
        sketch.meet(key)
    wrong = [key for key in set(keys) if sketch.count(key) != min(15, keys.count(key))]
    assert all(sketch.count(key) >= min(15, keys.count(key)) for key in set(keys))
    assert len(wrong) < 25
    before = sketch.count(keys[0])
    for key in range(10**6, 10**6 + 12_000):
        sketch.meet(key)
    assert sketch.count(keys[0]) <= before // 2 + 1


def test_a_sketch_that_grows_forgets_nothing() -> None:
    sketch = FrequencySketch(1)
    for _ in range(5):
        sketch.meet("a")
    sketch.make_room(1000)
    assert sketch.count("a") == 5
    assert len(sketch) == 16_384


@pytest.mark.parametrize("make", [LIRS, TinyLFU, S3FIFO])
def test_keys_that_grow_in_place_do_not_widen_a_queue(make: Callable[[Capacity], Policy[int]]) -> None:
    policy = make(Capacity(weight=1000))
    for _ in range(3):
        hits(policy, range(50))
    for key in range(50):
        policy.put(key, 20)
        check_whole(policy)
    assert (len(policy), policy.weight) == (50, 1000)


def test_a_key_that_grows_keeps_its_count() -> None:
    policy = LFU[int](Capacity(weight=30))
    for key, n in ((1, 1), (2, 0), (3, 3)):
        policy.put(key, 10)
        for _ in range(n):
            policy.touch(key)
    policy.put(3, 11)
    check_whole(policy)
    assert set(policy) == {1, 3}
    policy.put(4, 9)
    policy.put(5, 9)
    policy.put(6, 19)
    assert set(policy) == {3, 6}


def test_history_is_bounded() -> None:
    lirs, s3fifo = LIRS[int](Capacity(10)), S3FIFO[int](Capacity(10))
    for policy in (lirs, s3fifo):
        for i in range(20_000):  # a cache that is read and scanned at once
            hits(policy, [i % 5, 1000 + i])
            if i % 1000 == 0:
                check_whole(policy)
    assert len(lirs._stack) <= 10 + 2 * 10
    assert len(s3fifo._ghosts) <= 9


def test_ghosts_are_forgotten_oldest_first() -> None:
    ghosts = Ghosts[int]()
    for key in (3, 1, 2):
        ghosts.add(key)
    assert ghosts.discard(1) and not ghosts.discard(1)
    assert (ghosts.pop(), len(ghosts), 2 in ghosts) == (3, 1, True)


def test_an_entry_expires_once_and_is_told_as_expired() -> None:
    heard: list[tuple[int, int, Reason]] = []
    policy = TTL[int](Capacity(10), lambda *event: heard.append(event), ttl_ns=10)
    policy.put(1, 5)
    policy.put(2, 6, deadline_ns=3)
    policy.put(3, 7)
    policy.put(3, 8, deadline_ns=100)
    assert policy.advance(10) == 2
    assert heard == [(3, 7, Reason.REPLACED), (2, 6, Reason.EXPIRED), (1, 5, Reason.EXPIRED)]
    assert (list(policy), policy.weight) == ([3], 8)
    assert policy.advance(5) == 0 and policy.now_ns == 10


def test_an_entry_past_its_deadline_is_neither_kept_nor_taken() -> None:
    heard: list[Reason] = []
    policy = TTL[int](Capacity(10), lambda key, weight, reason: heard.append(reason), ttl_ns=10)
    policy.put(1)
    policy.now_ns = 50  # time has passed, and nobody dropped what is due
    assert 1 not in policy
    assert not policy.put(1, deadline_ns=50)
    assert (len(policy), heard) == (0, [Reason.EXPIRED])
    with pytest.raises(ValueError, match="0 ns"):
        TTL(Capacity(1), ttl_ns=0)


def test_many_entries_that_are_due_at_once_leave_over_several_calls() -> None:
    policy = TTL[int](Capacity(5000), ttl_ns=10)
    for key in range(2500):
        policy.put(key)
    assert policy.advance(10) == 1000
    assert not policy.touch(2400), "what is due is not read, dropped or not"
    assert [policy.advance(10) for _ in range(3)] == [1000, 499, 0]


def test_deadlines_that_are_renewed_forever_take_bounded_room() -> None:
    policy = TTL[int](Capacity(5), ttl_ns=1000)
    for now in range(5000):
        policy.now_ns = now
        policy.put(now % 5)
        assert len(policy._deadlines._heap) < 100


PHASES = {
    "loop": ([key for _ in range(60) for key in range(300)], LIRS),
    "recency": (recency(30_000, 3), LRU),
    "popularity": (zipf(4000, 40_000, 4, 0.8), TinyLFU),
}


@pytest.mark.parametrize("phase", PHASES)
def test_adaptive_comes_close_to_the_policy_that_suits_the_traffic(phase: str) -> None:
    keys, best = PHASES[phase]
    n = len(keys)
    adaptive, reference, default = Adaptive[int](Capacity(150)), best(Capacity(150)), S3FIFO[int](Capacity(150))
    hits(adaptive, keys[: n // 2])
    hits(reference, keys[: n // 2])
    hits(default, keys[: n // 2])
    ours, theirs, plain = (hits(policy, keys[n // 2 :]) / (n - n // 2) for policy in (adaptive, reference, default))
    assert ours > theirs - 0.01
    assert ours > plain - 0.01


def test_adaptive_follows_the_traffic_from_phase_to_phase_and_stays_within_one() -> None:
    policy = Adaptive[int](Capacity(150))
    lives, switches = [], []
    for phase in ("loop", "recency", "loop"):
        before = policy.n_switches
        hits(policy, PHASES[phase][0])
        lives.append(policy.live)
        switches.append(policy.n_switches - before)
    assert lives == ["lirs", "lru", "lirs"]
    assert max(switches) <= 3


@pytest.mark.parametrize("seed", range(3))
def test_adaptive_loses_nothing_where_policies_are_alike(seed: int) -> None:
    policy = Adaptive[int](Capacity(150))
    keys = random.Random(seed).choices(range(1500), k=40_000)  # no policy can know anything here
    assert hits(policy, keys) > hits(S3FIFO(Capacity(150)), keys) - 0.002 * len(keys)
    assert policy.n_switches <= 6


def test_a_steady_loop_is_left_to_the_policy_that_holds_it() -> None:
    policy = Adaptive[int](Capacity(150))
    hits(policy, [key for _ in range(100) for key in range(300)])
    assert (policy.live, policy.n_switches) == ("lirs", 1)


def test_contents_become_those_of_the_followed_policy() -> None:
    policy, alone = Adaptive[int](Capacity(100)), LRU[int](Capacity(100))
    keys = zipf(800, 6000, 7, 0.7)
    hits(policy, keys[:3000])
    hits(alone, keys[:3000])
    policy.switch_to(LRU)
    assert set(policy) != set(alone)
    policy._shadows._patience = 1e9  # no other one takes over
    for key in keys[3000:]:
        hits(alone, [key])
        hits(policy, [key])
        check_whole(policy)
    assert set(policy) == set(alone)


def test_a_small_cache_that_turns_out_to_be_large_follows_no_longer() -> None:
    policy = Adaptive[int](Capacity(weight=100_000))
    for key in range(1024):
        policy.put(key, 10)
    assert policy._follower is not None
    policy.put(1024, 10)
    check_whole(policy)
    assert policy._follower is None and len(policy) == 1025
    for key in range(1025, 1100):
        policy.put(key, 10)
    check_whole(policy)
    assert policy._old is None and len(policy) == 1100
    assert not policy._shadows._unthinned
    assert len(policy._shadows.model) == len(policy._sampled) < 700


@pytest.mark.parametrize("n", [1000, 1100])  # all keys sampled, and half of them
@pytest.mark.parametrize("goal", Adaptive(Capacity(1)).candidates, ids=lambda policy: policy.name)
def test_a_switch_drops_no_entry_and_hits_go_on_while_it_lasts(goal: type[LRU[int]], n: int) -> None:
    heard: list[Reason] = []
    policy = Adaptive[int](Capacity(n), lambda key, weight, reason: heard.append(reason))
    for start in policy.candidates:
        policy.switch_to(start)
        hits(policy, range(n))
        held = set(policy)
        heard.clear()
        policy.switch_to(goal)
        assert set(policy) == held
        assert all(policy.touch(key) for key in held)
        check_whole(policy)
        for key in list(held)[:100]:
            policy.put(key)
        assert set(policy) == held
        assert set(heard) == {Reason.REPLACED}
        for key in range(5000, 5070):
            policy.put(key)
            assert len(policy) <= n
            check_whole(policy)
        assert policy._old is None, "70 misses hand 1,120 keys over"


@pytest.mark.parametrize("start", Adaptive(Capacity(1)).candidates, ids=lambda policy: policy.name)
@pytest.mark.parametrize("goal", Adaptive(Capacity(1)).candidates, ids=lambda policy: policy.name)
def test_what_was_handed_over_leaves_when_it_is_read_no_more(goal: type[LRU[int]], start: type[LRU[int]]) -> None:
    policy = Adaptive[int](Capacity(1100))
    policy.switch_to(start)
    hits(policy, list(range(1100)) * 3)
    policy.switch_to(goal)
    hits(policy, zipf(900, 30_000, 5, 0.3))
    before = policy.n_switches
    moved = [key + 10_000 for key in zipf(900, 60_000, 6, 0.3)]
    hits(policy, moved[:40_000])
    assert hits(policy, moved[40_000:]) > 0.9 * 20_000
    assert policy.n_switches <= before + 2


def test_keys_handed_to_tinylfu_are_protected_only_once_they_are_read() -> None:
    policy = Adaptive[int](Capacity(1100))
    hits(policy, list(range(1100)) * 3)
    policy.switch_to(TinyLFU)
    hits(policy, range(2000, 2100))
    assert isinstance(policy._live, TinyLFU) and policy._old is None
    assert not policy._live._queues[3], "unread for ever, they would leave no room for those that are read"
    policy.touch(1099)
    assert list(policy._live._queues[3]) == [1099]


def test_a_switch_to_a_stranger_is_refused() -> None:
    with pytest.raises(ValueError):
        Adaptive[int](Capacity(5)).switch_to(TTL)  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", [Capacity(50_000), Capacity(weight=500_000)])
def test_a_large_cache_samples_few_of_its_keys(capacity: Capacity) -> None:
    policy = Adaptive[int](capacity)
    for key in range(60_000):
        policy.put(key, 10)
    assert policy._shadows.rate == 1 / 64
    assert 500 < len(policy._shadows.weights) < 1100
    check_whole(policy)


def lead(shadows: Shadows[int], n: int, *, rival: bool) -> int | None:
    """So many reads that either the rival hits and the leader misses, or the other way round."""
    hits = [not rival] * 2
    hits[1 - shadows.leader] = rival
    chosen = None
    for _ in range(n):
        chosen = shadows._count(hits)
    return chosen


def held(n: int) -> Shadows[int]:
    """Two shadows of so many keys."""
    shadows = Shadows[int]((S3FIFO, LRU), Capacity(n), n_safe=1)
    for key in range(n):
        shadows.read(key, 1)
    shadows._weigh()
    return shadows


def test_a_rival_takes_over_by_a_lead_that_grows_with_the_cache() -> None:
    shadows = held(100)
    assert lead(shadows, 19, rival=True) is None
    assert lead(shadows, 1, rival=True) == 1


def test_what_a_leader_was_ahead_is_remembered_up_to_a_bound() -> None:
    shadows = held(100)
    lead(shadows, 500, rival=False)
    assert lead(shadows, 100 + 19, rival=True) is None
    assert lead(shadows, 1, rival=True) == 1


def test_each_change_asks_for_twice_the_lead_until_the_leader_proves_itself() -> None:
    shadows = held(100)
    shadows.follow(1)
    shadows._patience = 0
    assert lead(shadows, 39, rival=True) is None
    assert lead(shadows, 1, rival=True) == 0
    lead(shadows, 140, rival=False)  # 100 ahead of the former one
    shadows._look()
    assert lead(shadows, 50 + 19, rival=True) is None, "the first one is safe: less is remembered against it"
    assert lead(shadows, 1, rival=True) == 0


def test_after_a_change_no_other_follows_at_once() -> None:
    shadows = held(128)
    shadows.follow(1)
    assert lead(shadows, 100, rival=True) is None
    for _ in range(3):
        shadows._look()
    assert lead(shadows, 1, rival=True) == 0


def test_stats_count_hits_and_reasons() -> None:
    stats = CacheStats(hits=3, misses=1)
    stats.heard(1, 1, Reason.EXPIRED)
    assert (stats.hit_ratio, stats.requests, stats.left[Reason.EXPIRED]) == (0.75, 4, 1)
    assert stats.part_of(CacheStats(hits=4)) == 0.75
    assert CacheStats().hit_ratio == 0.0
    assert CacheStats().part_of(CacheStats(misses=5)) == 1.0


def test_the_cache_of_the_documentation_holds_what_its_policy_holds() -> None:
    text = (Path(__file__).parents[2] / "docs" / "caching.md").read_text()
    code = next(code for code in text.split("```python\n")[1:] if "S3FIFO" in code).split("```")[0]
    code = code.replace("100_000", "10").replace("64 << 20", "50")
    names: dict[str, Any] = {}
    exec(code, names)
    rng = random.Random(1)
    for _ in range(2000):
        key = f"key:{rng.randrange(30)}"
        value = names["get"](key)
        if value is None or rng.random() < 0.2:
            names["put"](key, bytes(rng.randrange(1, 60)))
        assert set(names["values"]) == set(names["policy"])
        assert sum(map(len, names["values"].values())) == names["policy"].weight <= 50
