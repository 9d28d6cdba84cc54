"""What people with open screens ask a cache for: seeded sessions that poll their lists and look closer now and then.

Each session has a list of instruments, most of them of one sector. It polls the list every few seconds; a poll is
followed by a closer look at one of the list now and then, and that by a look at another one of the sector. A burst of
an instrument draws attention to it, which fades. How many sessions are open follows the hours of the day.

Source of the numbers: the reader workload that the project plans for (docs/benchmarks.md, `readers`); hours of the day
as message rates of AMZN by half hour (LOBSTER sample of 2012-06-21).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.perf.requests import zipf_ranks

DAY_S = 23_400.0  # 6.5 hours, a session of a stock exchange
N_SECTORS = 11

_LIST_MEDIAN, _LIST_SIGMA = 12.0, 0.6  # lognormal; a hundredth of it lies beyond either bound
_LIST_LEAST, _LIST_MOST = 5, 50
_SECTOR_SHARE = 0.7
_ZIPF = 0.9
_PERIOD_S = (1.0, 5.0)
_DETAIL, _PEER = 0.1, 0.4
_THINK_S = (0.2, 2.0)  # between a poll and the look that follows it
_ATTENTION = (5.0, 20.0)
_FADE_S = 300.0  # to 1/e
_BURSTS_A_DAY = 6
_HALF_HOURS = np.array([1.14, 1.41, 1.23, 1.11, 0.82, 0.89, 0.81, 0.67, 0.99, 0.78, 0.59, 1.09, 1.46])


class Ask(IntEnum):
    """What is asked for."""

    LIST = 0  # one facet of every instrument of the session's list
    DETAIL = 1  # all facets of one instrument


class Asks(NamedTuple):
    """Requests, by rising due time.

    Attributes:
        due_s: float64[n], seconds since the day began.
        session: int32[n].
        kind: uint8[n], `Ask`.
        instrument: int32[n], of a detail; -1 of a list.
    """

    due_s: NDArray[np.float64]
    session: NDArray[np.int32]
    kind: NDArray[np.uint8]
    instrument: NDArray[np.int32]


class Burst(NamedTuple):
    """Attention to an instrument rises at `at_s` to `factor` times what it was, and fades."""

    at_s: float
    instrument: int
    factor: float


class ReaderSessions:
    """All sessions of a day; the same arguments give the same requests, whichever windows of time are asked for.

    Args:
        n_sessions: as many as are open in the busiest half hour.
        n_instruments: instruments 0..n-1; which of them are popular is drawn.
        bursts: None = about six in the day, drawn.

    Attributes:
        lists: int32[n_sessions, 50], instruments of each session's list, each once; -1 behind its end.
        sector: int32[n_instruments].
        period_s, phase_s: float64[n_sessions]; a poll is due at phase + k * period.
        bursts: by time.
    """

    def __init__(
        self, n_sessions: int, n_instruments: int, *, seed: int = 7, bursts: list[Burst] | None = None
    ) -> None:
        rng = np.random.default_rng(seed)
        self._seed = seed
        self.sector = rng.integers(0, N_SECTORS, n_instruments).astype(np.int32)
        by_rank = rng.permutation(n_instruments).astype(np.int32)
        self._by_sector = [by_rank[self.sector[by_rank] == sector] for sector in range(N_SECTORS)]
        self.lists = self._make_lists(rng, n_sessions, by_rank)
        self._sizes = (self.lists >= 0).sum(1)
        self.period_s = rng.uniform(*_PERIOD_S, n_sessions)
        self.phase_s = rng.uniform(0, self.period_s)
        self._open_rank = rng.permutation(n_sessions) / n_sessions
        self.bursts = self._make_bursts(rng, by_rank) if bursts is None else sorted(bursts)

    def asks(self, start_s: float, end_s: float) -> Asks:
        """Everything due in [start_s, end_s).

        The looks that follow polls in the window are in it, although some are due up to 4 s later: nothing that a poll
        leads to is lost between windows. Cost: some 200 ns a request.
        """
        first = np.ceil((start_s - self.phase_s) / self.period_s).astype(np.int64)
        n_polls = np.maximum(np.ceil((end_s - self.phase_s) / self.period_s).astype(np.int64) - first, 0)
        session = np.repeat(np.arange(len(n_polls), dtype=np.int32), n_polls)
        number = np.repeat(first, n_polls) + _counting(n_polls)
        due_s = self.phase_s[session] + number * self.period_s[session]
        is_open = self._open_rank[session] < open_ratio(due_s)
        session, number, due_s = session[is_open], number[is_open], due_s[is_open]
        looks = self._details(session, number, due_s)
        all_asks = Asks(
            np.concatenate((due_s, looks.due_s)),
            np.concatenate((session, looks.session)),
            np.concatenate((np.full(len(due_s), Ask.LIST, np.uint8), looks.kind)),
            np.concatenate((np.full(len(due_s), -1, np.int32), looks.instrument)),
        )
        order = np.argsort(all_asks.due_s, kind="stable")
        due_s, session, kind, instrument = all_asks
        return Asks(due_s[order], session[order], kind[order], instrument[order])

    def attention(self, instrument: NDArray[np.int32], at_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """By how much more often an instrument is looked at than in quiet times: 1 without a burst before.

        Args:
            instrument: int32[...]; at_s: float64, of the same shape.
        """
        factor = np.ones(instrument.shape)
        for burst in self.bursts:
            since_s = at_s - burst.at_s
            rise = (burst.factor - 1) * np.exp(-np.maximum(since_s, 0) / _FADE_S)
            factor += np.where((instrument == burst.instrument) & (since_s >= 0), rise, 0)
        return factor

    def _details(self, session: NDArray[np.int32], number: NDArray[np.int64], due_s: NDArray[np.float64]) -> Asks:
        chance = np.stack([_chance(self._seed, session, number, draw) for draw in range(6)])
        most = 1 + sum(burst.factor - 1 for burst in self.bursts)
        wanted = np.flatnonzero(chance[0] < _DETAIL * most)
        session, due_s, chance = session[wanted], due_s[wanted], chance[:, wanted]
        lists = self.lists[session]
        weight = np.where(lists >= 0, self.attention(lists, np.broadcast_to(due_s[:, None], lists.shape)), 0)
        total = weight.sum(1)
        looks = chance[0] < _DETAIL * total / self._sizes[session]  # of one instrument in quiet times: a tenth by n
        session, due_s, chance = session[looks], due_s[looks], chance[:, looks]
        at = (np.cumsum(weight[looks], 1) > (chance[1] * total[looks])[:, None]).argmax(1)
        seen = lists[looks, at]
        low, high = _THINK_S
        look_s = due_s + low + chance[2] * (high - low)
        goes_on = chance[3] < _PEER
        peer = self._peers(seen[goes_on], chance[4, goes_on])
        peer_s = look_s[goes_on] + low + chance[5, goes_on] * (high - low)
        instrument = np.concatenate((seen, peer))
        return Asks(
            np.concatenate((look_s, peer_s)),
            np.concatenate((session, session[goes_on])),
            np.full(len(instrument), Ask.DETAIL, np.uint8),
            instrument,
        )

    def _peers(self, instrument: NDArray[np.int32], chance: NDArray[np.float64]) -> NDArray[np.int32]:
        """Another one of the same sector, evenly; the same one where the sector has no other."""
        peers = instrument.copy()
        for sector, members in enumerate(self._by_sector):
            mine = self.sector[instrument] == sector
            if mine.any() and len(members) > 1:
                place = np.empty(len(self.sector), np.int64)
                place[members] = np.arange(len(members))
                step = 1 + (chance[mine] * (len(members) - 1)).astype(np.int64)
                peers[mine] = members[(place[instrument[mine]] + step) % len(members)]
        return peers

    def _make_lists(self, rng: np.random.Generator, n_sessions: int, by_rank: NDArray[np.int32]) -> NDArray[np.int32]:
        most = min(_LIST_MOST, len(by_rank))
        drawn = np.exp(rng.normal(np.log(_LIST_MEDIAN), _LIST_SIGMA, n_sessions))
        sizes = np.clip(np.rint(drawn), min(_LIST_LEAST, most), most).astype(np.int64)
        lists = np.full((n_sessions, _LIST_MOST), -1, np.int32)
        for n, size in enumerate(sizes.tolist()):
            own = self._by_sector[int(rng.integers(N_SECTORS))]
            n_own = min(int(rng.binomial(size, _SECTOR_SHARE)), len(own))
            picked = rng.choice(own, n_own, replace=False).tolist()
            chosen = set(picked)
            while len(picked) < size:
                for rank in zipf_ranks(rng, 2 * size, len(by_rank), _ZIPF).tolist():
                    instrument = int(by_rank[rank])
                    if instrument not in chosen and len(picked) < size:
                        chosen.add(instrument)
                        picked.append(instrument)
            lists[n, :size] = picked
        return lists

    @staticmethod
    def _make_bursts(rng: np.random.Generator, by_rank: NDArray[np.int32]) -> list[Burst]:
        n = int(rng.poisson(_BURSTS_A_DAY))
        times, ranks = rng.uniform(0, DAY_S, n), zipf_ranks(rng, n, len(by_rank), _ZIPF)
        factors = rng.uniform(*_ATTENTION, n)
        return sorted(
            Burst(float(at_s), int(by_rank[rank]), float(factor))
            for at_s, rank, factor in zip(times, ranks, factors, strict=True)
        )


def open_ratio(at_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[n], above 0 and at most 1: share of the sessions that are open; steps by half hour, day after day."""
    half_hour = np.floor_divide(at_s % DAY_S, DAY_S / len(_HALF_HOURS)).astype(np.int64)
    ratio: NDArray[np.float64] = (_HALF_HOURS / _HALF_HOURS.max())[np.minimum(half_hour, len(_HALF_HOURS) - 1)]
    return ratio


def busiest_s() -> float:
    """When the half hour begins in which every session is open, seconds since the day began."""
    return float(_HALF_HOURS.argmax()) * DAY_S / len(_HALF_HOURS)


def _counting(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0..count-1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _chance(seed: int, session: NDArray[np.int32], number: NDArray[np.int64], draw: int) -> NDArray[np.float64]:
    """float64[n] in [0, 1), by session, poll and draw alone, so that it is the same in every window.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    x = session.astype(np.uint64) << np.uint64(34) ^ number.astype(np.uint64) << np.uint64(3) ^ np.uint64(draw)
    x += np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
