"""Bars of one instrument written by hand, for peers whose state is one value a key: plain lists, no windows."""

from __future__ import annotations

from typing import Any

from agents.bench.peers.jobs.task import BAR_S, GRACE_S, Bar

Window = list[Any]  # start in seconds, open, high, low, close, volume
Bars = list[Any]  # newest event time in ms; then for each length the windows that are open, oldest first


def no_bars() -> Bars:
    return [0, *([] for _ in BAR_S)]


def copy_bars(bars: Bars) -> Bars:
    newest_ms, *levels = bars
    return [newest_ms, *([window.copy() for window in windows] for windows in levels)]


def take_trade(bars: Bars, key: str, ts_ms: int, price: float, size: float, closed: list[Bar]) -> bool:
    """Fold one trade in, and close what its time closes; False for one whose window is closed.

    A window is over once a trade of its instrument is `GRACE_S` behind its end, or further.
    """
    bars[0] = max(bars[0], ts_ms)
    over_s = bars[0] // 1000 - GRACE_S
    start = ts_ms // 1000 // BAR_S[0] * BAR_S[0]
    windows: list[Window] = bars[1]
    for window in reversed(windows):
        if window[0] == start:
            break
    else:
        if start + BAR_S[0] <= over_s:
            return False
        window = [start, price, price, price, price, 0.0]
        windows.append(window)
        windows.sort()
    if price > window[2]:
        window[2] = price
    elif price < window[3]:
        window[3] = price
    window[4] = price
    window[5] += size
    while windows and windows[0][0] + BAR_S[0] <= over_s:
        _close(bars, 0, windows.pop(0), key, closed)
    return True


def _close(bars: Bars, level: int, window: Window, key: str, closed: list[Bar]) -> None:
    """A closed window is a bar, and a row of the next longer window."""
    start, open_, high, low, close, volume = window
    closed.append(Bar(key, BAR_S[level], start, open_, high, low, close, volume))
    if (above := level + 1) == len(BAR_S):
        return
    length_s, windows = BAR_S[above], bars[above + 1]
    if windows and windows[0][0] + length_s <= start:
        _close(bars, above, windows.pop(0), key, closed)
    if not windows:
        windows.append([start // length_s * length_s, open_, high, low, close, volume])
        return
    longer = windows[0]
    longer[2], longer[3] = max(longer[2], high), min(longer[3], low)
    longer[4] = close
    longer[5] += volume
