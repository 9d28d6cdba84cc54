"""The same three loops on one cache, by CPU time of its process: `python -m agents.bench.cache.job SYSTEM SPEC`.

It runs in our environment for what is ours and in the other caches' own one for them, so it needs neither. What a loop
itself takes, some 10 ns, is in all figures.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from array import array
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from time import process_time

from agents.bench.cache.systems import PEERS, Cache

VALUE = b"v" * 100
_ROUNDS = 5


@dataclass(frozen=True)
class Spec:
    """What a process is told.

    Attributes:
        held: keys of the first loop, all of them in a cache with twice the room.
        capacity: entries, of the other two loops.
        new: keys of the second loop, each asked for once.
        requests: file of uint32: numbers of the keys of the third loop.
    """

    held: int
    capacity: int
    new: int
    requests: str


@dataclass(frozen=True)
class Loops:
    """CPU ns a request; None where a cache cannot do it: one without a bound evicts nothing.

    Attributes:
        hit_ns: a key that is held.
        miss_put_ns: a key that was never there, put after the miss into a full cache.
        zipf_ns, zipf_hit_ratio: skewed requests, each miss put.
    """

    hit_ns: float
    miss_put_ns: float | None = None
    zipf_ns: float | None = None
    zipf_hit_ratio: float | None = None


async def measure(system: str, spec: Spec, requests: bytes) -> Loops:
    """Raises: RuntimeError, a cache lost keys that it had room for."""
    numbers = array("I", requests)
    make = PEERS.get(system) or import_module("agents.bench.cache.ours").OURS[system]
    gc.freeze()
    hit_ns = await _hits(make(2 * spec.held), spec.held)
    if not make.bounded or not make.puts:
        return Loops(hit_ns)
    cache = make(spec.capacity)
    await cache.start()
    await cache.ask([f"old:{number}" for number in range(2 * spec.capacity)], VALUE)
    keys = [f"new:{number}" for number in range(spec.new)]
    cache.expect(keys)
    began = process_time()
    await cache.ask(keys, VALUE)
    miss_put_ns = (process_time() - began) / len(keys) * 1e9
    await cache.stop()
    cache = make(spec.capacity)
    await cache.start()
    texts = [cache.key(number) for number in range(max(numbers) + 1)]
    keys = [texts[number] for number in numbers]
    cache.expect(texts)
    began = process_time()
    missed = await cache.ask(keys, VALUE)
    zipf_ns = (process_time() - began) / len(keys) * 1e9
    await cache.stop()
    return Loops(hit_ns, miss_put_ns, zipf_ns, 1 - missed / len(keys))


async def _hits(cache: Cache, n_held: int) -> float:
    await cache.start()
    keys = [cache.key(number) for number in range(n_held)]
    await cache.fill(keys, VALUE)
    figures = []
    for _ in range(_ROUNDS):
        began = process_time()
        await cache.read(keys)
        figures.append((process_time() - began) / n_held * 1e9)
    if missed := await cache.count_missing(keys):
        raise RuntimeError(f"{missed} of {n_held} keys were lost in a cache with twice the room")
    await cache.stop()
    return median(figures)


if __name__ == "__main__":
    spec = Spec(**json.loads(sys.argv[2]))
    print(json.dumps(asdict(asyncio.run(measure(sys.argv[1], spec, Path(spec.requests).read_bytes())))))
