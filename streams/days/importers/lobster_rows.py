"""The lines of LOBSTER's two files as arrays, and the rows of messages.

Source: LOBSTER's description of its output, https://lobsterdata.com/info/DataStructure.php
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.market.depth import Tables
from models.market.tick import TICK, Action, Kind, Side, TickArray
from streams.days.importers.columns import csv_columns, integers, mantissas

PRICE_SCALE = 10**5  # dollars x 10,000, mantissas are at exponent -9
SIZE_SCALE = 10**9
_MOST_SHARES = 9 * 10**9
_MOST_PRICE = 9 * 10**13
_NO_LEVEL = 9_999_999_999  # the price of a place without a level

SUBMIT, _CANCEL, _DELETE, EXECUTE, EXECUTE_HIDDEN, _CROSS, _HALT = range(1, 8)
_MESSAGE = {
    "time": pa.decimal128(38, 13),  # real files hold 43002.632812672004: what is below a nanosecond is left out
    "type": pa.int64(),
    "order": pa.int64(),
    "size": pa.int64(),
    "price": pa.int64(),
    "direction": pa.int64(),
}
_STATUS = {-1: Action.DELETE, 0: Action.UPDATE, 1: Action.ADD}  # price of a halt message: halted, quotes, trades


class Messages(NamedTuple):
    """Shape (n,) each; `line` is the number in the file."""

    line: NDArray[np.int64]
    ns: NDArray[np.int64]  # since midnight
    type: NDArray[np.int64]
    order: NDArray[np.int64]
    size: NDArray[np.int64]
    price: NDArray[np.int64]
    direction: NDArray[np.int64]


def parse_messages(text: bytes) -> NDArray[np.int64]:
    table = csv_columns(text, _MESSAGE)
    ns = mantissas(table.column("time"), "time", -13) // 10**4
    if len(ns) and (ns.min() < 0 or ns.max() >= 86_400 * 10**9):
        raise ValueError("the time is not within a day")
    kinds, direction = integers(table, "type", SUBMIT, _HALT), integers(table, "direction", -1, 1)
    price = integers(table, "price", -1, _MOST_PRICE)
    if (np.where(kinds == _HALT, price > 1, price < 1)).any():
        raise ValueError("the price is not above 0, or of a halt not -1, 0 or 1")
    if ((direction == 0) & (kinds != _CROSS)).any():
        raise ValueError("the direction is not 1 or -1")
    size, order = integers(table, "size", 0, _MOST_SHARES), integers(table, "order", 0, 2**63 - 1)
    return np.column_stack([ns, kinds, order, size, price, direction])


def parse_books(text: bytes, n_levels: int) -> NDArray[np.int64]:
    """Lines of the orderbook file, shape (n, 4 x levels). Raises: ArrowInvalid, ValueError."""
    names = [f"{side}_{what}_{k}" for k in range(n_levels) for side in ("ask", "bid") for what in ("price", "size")]
    table = csv_columns(text, dict.fromkeys(names, pa.int64()))
    bounds = {"price": (-_NO_LEVEL, _MOST_PRICE), "size": (0, _MOST_SHARES)}
    return np.column_stack([integers(table, name, *bounds[name.split("_")[1]]) for name in names])


def tables_of(lines: NDArray[np.int64], n_levels: int) -> Tables:
    """[n, side, level, (price, size)] of lines `ask price, ask size, bid price, bid size` a level."""
    tables = lines.reshape(-1, n_levels, 2, 2)[:, :, ::-1].transpose(0, 2, 1, 3).copy()
    tables[..., 1][np.abs(tables[..., 0]) == _NO_LEVEL] = 0
    tables *= np.array([PRICE_SCALE, SIZE_SCALE])
    return tables


Part = tuple[NDArray[np.int64], TickArray]  # the event of each row, and the rows


def row(kind: Kind, action: Action, flags: int = 0, *, n: int) -> TickArray:
    rows = np.zeros(n, TICK)
    rows["kind"], rows["action"], rows["flags"] = kind, action, flags
    return rows


def order_rows(m: Messages, good: NDArray[np.bool_]) -> Iterator[Part]:
    """L3: an order enters, some of it is executed, some of it is taken off, trading halts or goes on."""
    sides = np.where(m.direction == 1, np.uint8(Side.BID), np.uint8(Side.ASK))
    for action, wanted in (
        (Action.ADD, m.type == SUBMIT),
        (Action.TRADE, m.type == EXECUTE),
        (Action.DELETE, np.isin(m.type, (_CANCEL, _DELETE, EXECUTE))),
    ):
        at = np.flatnonzero(wanted & good)
        rows = row(Kind.ORDER, action, n=len(at))
        rows["side"], rows["ref_id"] = sides[at], m.order[at]
        rows["price"], rows["size"] = m.price[at] * PRICE_SCALE, m.size[at] * SIZE_SCALE
        yield at, rows
    for price, action in _STATUS.items():
        at = np.flatnonzero((m.type == _HALT) & (m.price == price) & good)
        yield at, row(Kind.ORDER, action, n=len(at))


def trade_rows(m: Messages, good: NDArray[np.bool_]) -> Part:
    """An execution of a resting sell order was the trade of a buyer; a cross has no aggressor."""
    at = np.flatnonzero(np.isin(m.type, (EXECUTE, EXECUTE_HIDDEN, _CROSS)) & good)
    rows = row(Kind.TRADE, Action.TRADE, n=len(at))
    rows["side"] = np.select([m.type[at] == _CROSS, m.direction[at] == -1], [Side.NONE, Side.BID], Side.ASK)
    rows["price"], rows["size"] = m.price[at] * PRICE_SCALE, m.size[at] * SIZE_SCALE
    return at, rows
