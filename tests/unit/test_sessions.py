"""The reader workload: as it was described, seeded, and the same whichever windows are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from models.perf.sessions import DAY_S, Ask, Asks, Burst, ReaderSessions, busiest_s, open_ratio

SESSIONS = ReaderSessions(2_000, 1_000, seed=3, bursts=[])
AT_S = busiest_s()


def rows(asks: Asks) -> list[tuple[float, int, int, int]]:
    return sorted(zip(*(column.tolist() for column in asks), strict=True))


def test_lists_have_5_to_50_different_instruments_most_of_one_sector() -> None:
    sizes = (SESSIONS.lists >= 0).sum(1)
    assert sizes.min() >= 5
    assert sizes.max() == 50
    assert 11 <= np.median(sizes) <= 13
    of_one = []
    for row, size in zip(SESSIONS.lists, sizes, strict=True):
        mine = row[:size]
        assert len(set(mine.tolist())) == size
        of_one.append(np.bincount(SESSIONS.sector[mine]).max() / size)
    assert 0.7 < np.mean(of_one) < 0.8  # 0.7 and what of the rest happens to be of the sector


def test_every_open_session_polls_every_1_to_5_seconds() -> None:
    asks = SESSIONS.asks(AT_S, AT_S + 60)
    polls = asks.kind == Ask.LIST
    assert (np.diff(asks.due_s) >= 0).all()
    assert asks.due_s[polls].min() >= AT_S
    assert asks.due_s[polls].max() < AT_S + 60
    for session in range(0, 2_000, 97):
        gaps = np.diff(asks.due_s[polls & (asks.session == session)])
        assert 1 <= gaps.min() <= gaps.max() <= 5


def test_a_tenth_of_the_polls_leads_to_a_look_and_that_to_another_one() -> None:
    asks = SESSIONS.asks(AT_S, AT_S + 100)
    polls, looks = (asks.kind == Ask.LIST).sum(), asks.kind == Ask.DETAIL
    assert looks.sum() / polls == pytest.approx(0.1 * 1.4, rel=0.05)
    listed = np.array(
        [i in SESSIONS.lists[s] for s, i in zip(asks.session[looks], asks.instrument[looks], strict=True)]
    )
    assert listed.mean() > 0.7  # looks at the list's own; peers need not be of it
    assert (asks.instrument[~looks] == -1).all()


def test_windows_make_the_same_day_as_one_piece() -> None:
    whole = rows(SESSIONS.asks(100, 130))
    parts = [row for start in range(100, 130, 5) for row in rows(SESSIONS.asks(start, start + 5))]
    assert sorted(parts) == whole
    assert rows(ReaderSessions(2_000, 1_000, seed=3, bursts=[]).asks(100, 130)) == whole
    assert rows(ReaderSessions(2_000, 1_000, seed=4, bursts=[]).asks(100, 130)) != whole


def test_a_burst_draws_attention_that_fades() -> None:
    instrument = int(np.bincount(SESSIONS.lists[SESSIONS.lists >= 0]).argmax())
    burst = Burst(AT_S + 100, instrument, 20.0)
    drawn = ReaderSessions(2_000, 1_000, seed=3, bursts=[burst])

    def looks(sessions: ReaderSessions, start_s: float) -> int:
        asks = sessions.asks(start_s, start_s + 100)
        return int(((asks.kind == Ask.DETAIL) & (asks.instrument == instrument)).sum())

    assert looks(drawn, AT_S) == looks(SESSIONS, AT_S)
    assert looks(drawn, AT_S + 100) > 5 * looks(SESSIONS, AT_S + 100)
    assert looks(drawn, AT_S + 100) > 2 * looks(drawn, AT_S + 600)
    one = np.array([instrument], np.int32)
    factors = [float(drawn.attention(one, np.array([burst.at_s + s]))[0]) for s in (-1, 0, 300)]
    assert factors == [1, 20, pytest.approx(1 + 19 / np.e)]


def test_the_day_is_u_shaped_and_all_sessions_are_open_in_the_busiest_half_hour() -> None:
    hours = open_ratio(np.linspace(0, DAY_S, 13, endpoint=False))
    assert hours.max() == 1
    assert hours[[0, 1, 12]].mean() > 1.5 * hours[5:11].mean()
    assert len(set(SESSIONS.asks(AT_S, AT_S + 6).session.tolist())) == 2_000
    quiet = SESSIONS.asks(10.5 * DAY_S / 13, 10.5 * DAY_S / 13 + 6).session
    assert len(set(quiet.tolist())) == pytest.approx(2_000 * 0.59 / 1.46, rel=0.1)


def test_bursts_come_some_times_a_day() -> None:
    n = [len(ReaderSessions(1, 50, seed=seed).bursts) for seed in range(50)]
    assert 5 < np.mean(n) < 7
    assert all(5 <= burst.factor <= 20 for burst in ReaderSessions(1, 50, seed=1).bursts)
