"""When something happens in the sample day, and in which market."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RATE = 17.0  # mean events a second over all instruments
# Hawkes process as a sum of exponentials: (children of an event, their mean delay in s); fitted to all messages of a
# day of AMZN (LOBSTER sample), whose 100-ms bursts are ten times those of a Poisson process
_KERNEL = ((0.13, 1.03), (0.23, 0.015), (0.51, 0.00043))
_ZIPF = 0.7  # popularity of instruments


def sample_times(
    n_markets: int, length_s: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Seconds and markets of a Hawkes process, drawn generation by generation; children mostly stay on their market."""
    popularity = 1 / np.arange(1, n_markets + 1) ** _ZIPF
    popularity /= popularity.sum()
    n = int(rng.poisson(_RATE * length_s * (1 - sum(weight for weight, _ in _KERNEL))))
    times, ids = rng.random(n) * length_s, rng.choice(n_markets, n, p=popularity)
    all_times, all_ids = [times], [ids]
    while len(times):
        born, where = [], []
        for weight, delay in _KERNEL:
            children = rng.poisson(weight, len(times))
            born.append(np.repeat(times, children) + rng.exponential(delay, int(children.sum())))
            where.append(np.repeat(ids, children))
        times, ids = np.concatenate(born), np.concatenate(where)
        strays = rng.random(len(ids)) < 0.2
        ids[strays] = rng.choice(n_markets, int(strays.sum()), p=popularity)
        inside = times < length_s
        times, ids = times[inside], ids[inside]
        all_times.append(times)
        all_ids.append(ids)
    return np.concatenate(all_times), np.concatenate(all_ids)
