"""When messages come: Hawkes clusters under a day's curve and its slow modulation, and shocks that hit many symbols."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.days.draws import Draws, Floats, Ints, exp, ten_to
from models.days.profile import Profile

S = 10**9
SESSION_S = 23_400
_GROUP = 1_000_000  # messages that are made at once: some 100 MB of work space
_SPARE = 1.08  # messages of clusters, of which chance leaves out what is too much: their sum varies by 3 % a symbol
_SHOCKS = 7, 9  # a session, both ends included
_SHOCK_MESSAGES = 150, 250  # of the most popular symbol
_SHOCK_SHARE = 0.02  # of a symbol's messages that may be shocks: small days have small ones


class Arrivals(NamedTuple):
    """One entry a message, in order of time."""

    at: Ints  # ns since the day's start
    who: NDArray[np.int32]  # symbol


def arrivals(counts: Ints, duration_s: int, profile: Profile, draws: Draws) -> Arrivals:
    """Exactly `counts[i]` messages of symbol i within `duration_s` seconds.

    A message has children after each term of the kernel, they have theirs, and so on (Hawkes and Oakes 1974: the
    cluster form of the process whose intensity is a sum of exponentials). Given how many there are, the times of the
    first ones are independent draws from the curve. How many clusters a symbol has is fixed, so that days of different
    seeds have equally many quiet seconds.

    Cost: 24 bytes and 0.5 us a message.
    """
    at, who = _shocks(counts, duration_s, draws)
    rest = counts - np.bincount(who, minlength=len(counts))
    curve = np.cumsum(_curve(duration_s, profile, draws))
    parts = [(at, who)]
    first = 0
    while first < len(counts):
        until = max(first + 1, int(np.searchsorted(np.cumsum(rest[first:]), _GROUP, side="right")) + first)
        parts += _clusters(rest[first:until], first, curve, profile, draws)
        first = until
    at, who = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    order = np.lexsort((who, at))
    return Arrivals(at[order], who[order].astype(np.int32))


def _curve(duration_s: int, profile: Profile, draws: Draws) -> Floats:
    """Relative rate of each second: the day's curve times a slow modulation (Ornstein-Uhlenbeck, exponentiated)."""
    second = np.arange(duration_s)
    curve = np.array(profile.curve)[np.minimum(second // profile.curve_step_s, len(profile.curve) - 1)]
    hour, spike_s = second % 3600, profile.hour_spike_s
    curve = np.where(hour < spike_s, curve * profile.hour_spike, curve)
    keep = 1.0 - 1.0 / profile.slow_s
    noise = draws.normal(duration_s) * profile.slow_sigma
    scale = float(np.sqrt(1.0 - keep * keep))
    level, path = float(noise[0]), []
    for step in (noise * scale).tolist():
        path.append(level)
        level = level * keep
        level = level + step
    return curve * exp(np.array(path))


def _clusters(wanted: Ints, first: int, curve: Floats, profile: Profile, draws: Draws) -> list[tuple[Ints, Ints]]:
    """Times and symbols of `wanted[i]` messages of symbol `first + i`, unordered."""
    duration = float(len(curve))
    branching = sum(weight for weight, _ in profile.kernel)
    done: list[tuple[Ints, Ints]] = []
    missing = wanted.copy()
    while missing.any():
        n_first = (missing * (1.0 - branching) * _SPARE).astype(np.int64) + (missing > 0)
        symbol = np.repeat(np.arange(len(wanted)), n_first)
        place = draws.uniform(len(symbol)) * float(curve[-1])
        time = np.searchsorted(curve, place, side="right") + draws.uniform(len(symbol))
        cluster = np.arange(len(symbol))
        times, clusters = [time], [cluster]
        while len(time):
            born, whose = [], []
            fertile = draws.uniform(len(time)) < profile.fertile
            time, cluster = time[fertile], cluster[fertile]
            for weight, delay_s in profile.kernel:
                n_children = draws.poisson(weight / profile.fertile, len(time))
                whose.append(np.repeat(cluster, n_children))
                delays = draws.exponential(len(whose[-1])) * delay_s
                born.append(np.repeat(time, n_children) + delays)
            time, cluster = np.concatenate(born), np.concatenate(whose)
            inside = time < duration
            time, cluster = time[inside], cluster[inside]
            times.append(time)
            clusters.append(cluster)
        time, cluster = np.concatenate(times), np.concatenate(clusters)
        owner = symbol[cluster]
        order = np.lexsort((draws.raw(len(owner)), owner))
        time, owner = time[order], owner[order]
        sizes = np.bincount(owner, minlength=len(wanted))
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        kept = rank < missing[owner]
        done.append(((time[kept] * 1e9).astype(np.int64), owner[kept] + first))
        missing -= np.minimum(sizes, missing)
    return done


def _shocks(counts: Ints, duration_s: int, draws: Draws) -> tuple[Ints, Ints]:
    """Bursts from outside: news moves the most popular symbol always, others the more often the more popular.

    Their sizes are spread evenly over the range, one in each n-th of it: a day has only a few, and were they drawn
    independently, what they add to the Fano factors would differ more from seed to seed than all else together.
    """
    n_shocks = (draws.between(*_SHOCKS) * duration_s + SESSION_S // 2) // SESSION_S
    smallest, largest = _SHOCK_MESSAGES
    popularity = counts / max(int(counts.max(initial=1)), 1)
    bound = (counts * _SHOCK_SHARE).astype(np.int64) // max(n_shocks, 1)
    at, who = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number in range(n_shocks):
        joins = draws.uniform(len(counts)) <= np.sqrt(popularity)
        size = smallest + int((largest - smallest) * (number + float(draws.uniform(1)[0])) / n_shocks)
        n = np.where(joins, np.minimum((popularity * size).astype(np.int64), bound), 0)
        width_ns = int(ten_to(1.0 + draws.uniform(1))[0] * 1e6)  # 10 to 100 ms
        start = int(draws.uniform(1)[0] * (duration_s * 1e9 - width_ns))
        symbol = np.repeat(np.arange(len(counts)), n)
        who.append(symbol)
        at.append(start + draws.below(width_ns, len(symbol)))
    return np.concatenate(at), np.concatenate(who)
