"""The comparison with other caches: what it needs, and that its loops measure what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agents.bench.cache.job import Spec, measure
from agents.bench.cache.ours import PolicyAndDict
from agents.bench.cache.scenario import LOCK, CacheScenario
from agents.bench.cache.systems import PEERS
from agents.bench.peers.environment import locked_versions, peers_folder
from models.perf.requests import zipf_requests

_ROOT = Path(__file__).resolve().parents[2]
SPEC = Spec(held=200, capacity=50, new=100, requests="")


def test_the_lock_names_every_cache_with_hashes() -> None:
    locked, text = locked_versions(LOCK), LOCK.read_text()
    assert {peer.package for peer in PEERS.values()} <= locked.keys()
    assert text.count("--hash=sha256:") >= len(locked)
    assert "://" not in text
    assert peers_folder(_ROOT, LOCK) != peers_folder(_ROOT)


def test_the_loops_run_where_nothing_of_ours_is_installed() -> None:
    code = "import sys, agents.bench.cache.job; print(*{n.split('.')[0] for n in sys.modules})"
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT)
    assert set(out.stdout.split()) - set(sys.stdlib_module_names) == {"agents", "__main__"}


@pytest.mark.parametrize("system", ["reader", "row_reader", "policy"])
async def test_what_needs_a_service_is_measured_on_hits_alone(system: str) -> None:
    loops = await measure(system, SPEC, b"")
    assert loops.hit_ns > 0
    assert loops.miss_put_ns is None


@pytest.mark.parametrize("system", ["policy_and_dict", "memory_tier"])
async def test_skewed_requests_hit_as_often_as_there_is_room_for(system: str) -> None:
    requests = zipf_requests(5_000, 1_000, 0.9, seed=3)
    loops = await measure(system, SPEC, requests.tobytes())
    assert loops.miss_put_ns is not None
    assert loops.zipf_hit_ratio is not None
    most = np.sort(np.bincount(requests))[::-1][:50].sum() / len(requests)  # the 50 most popular keys, known before
    assert 0.5 * most < loops.zipf_hit_ratio < most


class Forgetful(PolicyAndDict):
    def __init__(self, capacity: int) -> None:
        super().__init__(capacity // 8)


async def test_a_cache_that_loses_what_it_had_room_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "forgetful", Forgetful)
    with pytest.raises(RuntimeError, match="150 of 200 keys were lost"):
        await measure("forgetful", SPEC, b"")


def test_versions_and_names_of_all_caches_are_reported() -> None:
    scenario = CacheScenario(Path(sys.executable), 10, 20, 30, 0.1, 5, 7)
    assert {
        "cachetools",
        "cachebox",
        "theine",
        "moka-py",
        "cashews",
        "aiocache",
        "dogpile-cache",
    } <= scenario.parameters.keys()
    fixed = {"hit_ns", "policy_hit_ns", "redis_reads_per_s", "redis_p99_ms", "coherence_violations"}
    assert fixed <= scenario.units.keys()
    assert {f"{peer}_hit_ns" for peer in PEERS} <= scenario.units.keys()


def test_requests_are_skewed_seeded_and_of_the_keys_there_are() -> None:
    requests = zipf_requests(100_000, 500, 0.9, seed=1)
    assert requests.dtype == np.uint32
    assert requests.max() < 500
    assert np.array_equal(requests, zipf_requests(100_000, 500, 0.9, seed=1))
    assert not np.array_equal(requests, zipf_requests(100_000, 500, 0.9, seed=2))
    counts = np.sort(np.bincount(requests, minlength=500))[::-1]
    assert counts[0] / counts[9] == pytest.approx(10**0.9, rel=0.15)
