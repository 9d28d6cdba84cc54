"""Bars as plain lists of open, high, low, close and volume, for peers' own windows."""

from __future__ import annotations

from typing import Any

Tick = dict[str, Any]
Values = list[float]


def add(bar: Values, tick: Tick) -> Values:
    """The bar with one trade more; an empty one begins with it."""
    price = float(tick["price"])
    if not bar:
        return [price, price, price, price, float(tick["quantity"])]
    if price > bar[1]:
        bar[1] = price
    elif price < bar[2]:
        bar[2] = price
    bar[3] = price
    bar[4] += float(tick["quantity"])
    return bar


def merge(bar: Values, shorter: Values) -> Values:
    """The bar with the next shorter one behind it; an empty one begins with it."""
    if not bar:
        return shorter.copy()
    _, high, low, close, volume = shorter
    return [bar[0], max(bar[1], high), min(bar[2], low), close, bar[4] + volume]
