"""The JSON of Binance's combined streams and depth snapshots, typed: what is not of this form does not decode."""

from __future__ import annotations

from typing import Annotated

import msgspec

LIMIT = 2**63

Levels = list[tuple[str, str]]
_Natural = Annotated[int, msgspec.Meta(ge=0, le=LIMIT - 1)]


class Frame(msgspec.Struct):
    stream: str
    data: msgspec.Raw


class Diff(msgspec.Struct):
    E: _Natural
    s: str
    U: _Natural
    u: _Natural
    b: Levels
    a: Levels
    T: _Natural | None = None
    pu: _Natural | None = None


class Quote(msgspec.Struct):
    s: str
    u: _Natural
    b: str
    B: str
    a: str
    A: str
    T: _Natural | None = None


class Trade(msgspec.Struct):
    s: str
    t: _Natural
    p: str
    q: str
    T: _Natural
    m: bool


class Snapshot(msgspec.Struct):
    lastUpdateId: _Natural
    bids: Levels
    asks: Levels
    T: _Natural | None = None
