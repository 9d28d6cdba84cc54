"""Compiled kernel of a generated day: what each message says, from small books that live by orders, trades and lives.

Every market has up to 16 levels a side and up to 128 orders that will be taken out again. An *action* is an order put
in, one taken out, or a trade at the touch. It makes one message (a book diff), two (the quote follows if the best bid
or offer changed) or more (prints before the diff): the further ones take the place of the market's next arrivals, so
that a market has exactly as many messages as arrivals.

Random numbers are SplitMix64 (Steele, Lea and Flood 2014), and of floating point only + - * / and sqrt are used, which
IEEE 754 rounds exactly (the kernel is compiled without fast-math): the same rows on every machine.
All kernels stand in this one file because numba's cache looks only at the file of the function that is called; sizes
come from the arrays for the same reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.days.floor import Floor, Ints

_FEW = 3  # levels below which a side loses none
MAX_ROWS = 96  # rows that one action may make: two sides change, or a snapshot

# What an arrival asks for beyond an ordinary action; see `trade_on`
ACT, BURST, PRINT, WIDEN, NARROW, CROSS, UNCROSS, LOSE, SHOW, SNAPSHOT, MUTE = range(11)

# models.market.tick, for the reason above
_TRADE, _QUOTE, _BOOK = 1, 2, 3
_ADD, _UPDATE, _DELETE, _CLEAR, _TRADED = 1, 2, 3, 4, 5
_BID, _ASK = 1, 2
_LAST, _TOB, _SNAPSHOT_FLAG, _MBP = 128, 64, 32, 16

# No reference counts (`_nrt`), as in models.market.levels: it compiles and runs faster, and nothing may allocate
_kernel = njit(cache=True, nogil=True, _nrt=False)
_N, _OPEN = 0, 1  # cursor of the rows: how many, where the open event began


@_kernel
def _draw(random: NDArray[np.uint64]) -> Any:
    random[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_kernel
def _uniform(random: NDArray[np.uint64]) -> float:
    return float(_draw(random) >> np.uint64(11)) * 2.0**-53


@_kernel
def _below(random: NDArray[np.uint64], bound: int) -> int:
    return int((_draw(random) >> np.uint64(33)) * np.uint64(bound) >> np.uint64(31))


@_kernel
def _heavy(random: NDArray[np.uint64]) -> float:
    """1 or more, with P(> x) = x ** -1.6 up to 2000: u ** (-5/8) by square roots."""
    root = np.sqrt(np.sqrt(np.sqrt(1.0 - _uniform(random))))
    square = root * root
    return float(min(1.0 / (square * square * root), 2000.0))


@_kernel
def _order_size(floor: Floor) -> int:
    """Units: round lots and odd ones on an exchange, a heavy tail everywhere."""
    random, lot = floor.random, floor.base_units
    if floor.odds[2] == 0.0:
        return int(_heavy(random) * lot)
    u = _uniform(random)
    if u < floor.odds[2]:
        return lot
    if u < floor.odds[2] + 0.3:
        return 1 + int(_below(random, lot - 1))
    return (1 + int(_heavy(random))) * lot


@_kernel
def _row(
    out: NDArray[np.void], rows: Ints, who: int, kind: int, action: int, side: int, price: int, size: int, ref: int
) -> None:
    row = out[rows[_N]]
    rows[_N] += 1
    row.instrument_id, row.kind, row.action, row.side, row.flags = who, kind, action, side, 0
    row.price, row.size, row.ref_id, row.venue_seq = price, size, ref, 0


@_kernel
def _close(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int, flags: int, venue_seq: int) -> None:
    """End the event that is open: stamps, update id, flags; or take it back if the market's messages get lost."""
    market, start, end = floor.markets[who], rows[_OPEN], rows[_N]
    if market.silent == 1:
        rows[_N] = start
        return
    lag = floor.lag_ns[_below(floor.random, len(floor.lag_ns))]
    # one connection brings a market's messages in order, some microseconds apart
    recv = max(at + market.lag_ns + lag, market.recv_ns + 1_000 + _below(floor.random, 8_000))
    market.recv_ns = recv
    for k in range(start, end):
        row = out[k]
        row.ts_event, row.ts_recv = at - at % floor.stamp_ns, recv
        row.venue_seq, row.flags = venue_seq, flags
    out[end - 1].flags = flags | _LAST
    rows[_OPEN] = end


@_kernel
def _set(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, line: int, price: int, size: int) -> None:
    """Set one level of a side (0 takes it out), with its row; a side that is full drops its worst level."""
    levels, n, sign = floor.levels[line], floor.depth[line], 1 if line & 1 else -1
    market, side = floor.markets[who], _ASK if line & 1 else _BID
    seat = 0
    while seat < n and sign * (levels[seat].price - price) < 0:
        seat += 1
    there = seat < n and levels[seat].price == price
    if size == 0:
        if there:
            for k in range(seat, n - 1):
                levels[k].price, levels[k].size = levels[k + 1].price, levels[k + 1].size
            floor.depth[line] = n - 1
            _row(out, rows, who, _BOOK, _DELETE, side, price * market.tick, 0, market.update_id)
        return
    if not there:
        if n == len(levels):
            n -= 1
            _row(out, rows, who, _BOOK, _DELETE, side, levels[n].price * market.tick, 0, market.update_id)
        for k in range(n, seat, -1):
            levels[k].price, levels[k].size = levels[k - 1].price, levels[k - 1].size
        levels[seat].price = price
        floor.depth[line] = n + 1
    levels[seat].size = size
    _row(out, rows, who, _BOOK, _UPDATE, side, price * market.tick, size * market.unit, market.update_id)


@_kernel
def _diff(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> None:
    """End a book diff: it covers the venue's update ids since the one before."""
    market = floor.markets[who]
    market.update_id += 1 + (_below(floor.random, 5) if floor.stamp_ns > 1 else 0)
    _close(floor, out, rows, who, at, _MBP, market.update_id)


@_kernel
def _quote(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> None:
    market = floor.markets[who]
    for side in range(2):
        best = floor.levels[2 * who + side, 0]
        _row(out, rows, who, _QUOTE, _UPDATE, side + 1, best.price * market.tick, best.size * market.unit, 0)
    _close(floor, out, rows, who, at, _TOB, market.update_id)


@_kernel
def _snapshot(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> None:
    market = floor.markets[who]
    _row(out, rows, who, _BOOK, _CLEAR, 0, 0, 0, 0)
    for side in range(2):
        for k in range(floor.depth[2 * who + side]):
            level = floor.levels[2 * who + side, k]
            _row(out, rows, who, _BOOK, _ADD, side + 1, level.price * market.tick, level.size * market.unit, 0)
    _close(floor, out, rows, who, at, _SNAPSHOT_FLAG | _MBP, market.update_id)


@_kernel
def _lean(floor: Floor, who: int) -> float:
    """Probability that the next pressure is upwards: a half, more below the opening price and less above."""
    market = floor.markets[who]
    off = np.float64(market.anchor - floor.levels[2 * who, 0].price) / np.float64(market.anchor)
    return min(max(0.5 + 2.0 * off, 0.1), 0.9)


@_kernel
def _put_in(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> bool:
    """A new order; True if the touch changed."""
    market, random = floor.markets[who], floor.random
    bid, ask = floor.levels[2 * who, 0].price, floor.levels[2 * who + 1, 0].price
    gap, usual = ask - bid, market.spread
    side = 0 if _uniform(random) < _lean(floor, who) else 1
    line, sign = 2 * who + side, 1 if side else -1
    best = floor.levels[line, 0].price
    u, v = _uniform(random), _uniform(random)
    inside = 0.0  # probability of a better price than the best one
    if market.wide == 0 and gap > 1:
        inside = (
            max(0.75, 1.0 - np.float64(usual) / np.float64(gap))
            if gap > usual
            else 0.15 * np.float64(gap) / np.float64(usual)
        )
    if u < inside:
        closed = int(np.float64(usual) * (0.3 + 0.9 * v)) if gap > usual else gap - 1
        price = best - sign * min(max(gap - closed, 1), gap - 1)
    elif u < inside + 0.2:
        price = best
    else:
        price = best + sign * (1 + int(v * v * v * np.float64(6 + 2 * usual)))
    n = floor.depth[line]
    worst = floor.levels[line, n - 1].price
    if n == len(floor.levels[line]) and sign * (price - worst) > 0:
        price = worst
    if price < 1:
        price = best
    size, standing = _order_size(floor), 0
    for k in range(n):
        if floor.levels[line, k].price == price:
            standing = floor.levels[line, k].size
    _set(floor, out, rows, who, line, price, standing + size)
    _diff(floor, out, rows, who, at)
    order = floor.orders[who, market.n_orders]
    market.n_orders += 1
    order.until_ns = at + floor.life_ns[_below(random, len(floor.life_ns))]
    order.price, order.size, order.side = price, size, side
    return bool(sign * (price - best) <= 0)


@_kernel
def _take_out(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> int:
    """Take out the order whose time is up first, if it is or the table is full; 0 nothing, 1 done, 2 at the touch."""
    market, orders = floor.markets[who], floor.orders[who]
    while market.n_orders > 0:
        first = 0
        for k in range(1, market.n_orders):
            if orders[k].until_ns < orders[first].until_ns:
                first = k
        full = market.n_orders == len(orders)
        if orders[first].until_ns > at and not full:
            return 0
        order, last = orders[first], orders[market.n_orders - 1]
        price, size, side = order.price, order.size, order.side
        order.until_ns, order.price, order.size, order.side = last.until_ns, last.price, last.size, last.side
        market.n_orders -= 1
        line = 2 * who + side
        for k in range(floor.depth[line]):
            level = floor.levels[line, k]
            if level.price != price:
                continue
            left, wide = max(level.size - size, 0), floor.levels[2 * who + 1, 0].price - floor.levels[2 * who, 0].price
            # nobody leaves an empty side, nor the touch while the spread is wide: such an order stays until it trades
            if left == 0 and (floor.depth[line] <= _FEW or (k == 0 and wide > market.spread)):
                break
            _set(floor, out, rows, who, line, price, left)
            _diff(floor, out, rows, who, at)
            return 2 if k == 0 else 1
    return 0


@_kernel
def _trade(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int, units: int) -> int:
    """A market order, filled level by level from the touch; returns its messages, the diff included."""
    market, random = floor.markets[who], floor.random
    if _uniform(random) >= 0.6:  # orders that are worked in pieces keep their side
        market.aggressor = 1 if _uniform(random) < _lean(floor, who) else 2
    side = 2 - market.aggressor  # a buyer takes the ask
    line, n_messages = 2 * who + side, 0
    changed, n_changed = floor.filled, 0
    while units > 0 and n_messages < len(changed):
        best = floor.levels[line, n_changed]
        most = best.size if floor.depth[line] - n_changed > _FEW else best.size - 1
        fill = min(units, most)
        if fill <= 0:
            break
        first = fill
        if fill > 1 and n_messages + 1 < len(changed) and _uniform(random) < floor.odds[1]:
            first = 1 + _below(random, min(fill - 1, 2**30))
        for part in (first, fill - first):
            if part > 0:
                market.trade_id += 1
                _row(
                    out, rows, who, _TRADE, _TRADED, market.aggressor, best.price * market.tick, part * market.unit,
                    market.trade_id,
                )  # fmt: skip
                _close(floor, out, rows, who, at, 0, 0)
                n_messages += 1
        changed[n_changed, 0], changed[n_changed, 1] = best.price, best.size - fill
        n_changed += 1
        units -= fill
        if fill < best.size:
            break
    if n_messages:
        for k in range(n_changed):
            _set(floor, out, rows, who, line, changed[k, 0], changed[k, 1])
        _diff(floor, out, rows, who, at)
        n_messages += 1
    return n_messages


@_kernel
def _work(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> int:
    """An order comes or goes: 1, or 2 if the touch changed."""
    done: int = _take_out(floor, out, rows, who, at)
    if done == 0:
        return 2 if _put_in(floor, out, rows, who, at) else 1
    return done


@_kernel
def _act(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> int:
    """One ordinary action; returns its messages."""
    market = floor.markets[who]
    room = market.left >= len(floor.filled) + 2
    if room and _uniform(floor.random) < floor.odds[0]:
        units = int(_heavy(floor.random) * (np.float64(floor.base_units) * 0.4))
        n: int = _trade(floor, out, rows, who, at, max(units, 1))
        if n:
            _quote(floor, out, rows, who, at)
            return n + 1
    if market.left == 0:  # no place for the quote that may have to follow: say the last one again
        _quote(floor, out, rows, who, at)
        return 1
    if _work(floor, out, rows, who, at) == 2:
        _quote(floor, out, rows, who, at)
        return 2
    return 1


@_kernel
def _widen(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int, ticks: int) -> None:
    """Everybody leaves: each side's levels go, and a few come back `ticks` away from where the best one was."""
    for side in range(2):
        line, sign = 2 * who + side, 1 if side else -1
        best = floor.levels[line, 0].price
        away = max(best + sign * ticks, 2 * _FEW)
        while floor.depth[line] > 0 and sign * (floor.levels[line, 0].price - away) < 0:
            _set(floor, out, rows, who, line, floor.levels[line, 0].price, 0)
        for k in range(_FEW):
            _set(floor, out, rows, who, line, away + sign * k, floor.base_units)
    floor.markets[who].wide = 1
    _diff(floor, out, rows, who, at)
    _quote(floor, out, rows, who, at)


@_kernel
def _narrow(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int) -> None:
    """Everybody is back: the usual spread around the middle."""
    usual = floor.markets[who].spread
    bid = (floor.levels[2 * who, 0].price + floor.levels[2 * who + 1, 0].price - usual) // 2
    for side in range(2):
        line, sign = 2 * who + side, 1 if side else -1
        for k in range(_FEW):
            _set(floor, out, rows, who, line, max(bid, _FEW) + side * usual + sign * k, _order_size(floor))
    floor.markets[who].wide = 0
    _diff(floor, out, rows, who, at)
    _quote(floor, out, rows, who, at)


@_kernel
def _command(floor: Floor, out: NDArray[np.void], rows: Ints, who: int, at: int, code: int, value: int) -> None:
    """One step of a planted anomaly; it takes nobody's place."""
    market = floor.markets[who]
    if code == BURST:
        units = int(_heavy(floor.random) * np.float64(floor.base_units * value))
        for line in (2 * who, 2 * who + 1):  # somebody must take the other side
            best = floor.levels[line, 0]
            _set(floor, out, rows, who, line, best.price, best.size + units)
        _diff(floor, out, rows, who, at)
        if _trade(floor, out, rows, who, at, units):
            _quote(floor, out, rows, who, at)
    elif code == PRINT:
        market.trade_id += 1
        side = 1 + _below(floor.random, 2)
        price = floor.levels[2 * who, 0].price * (10_000 + value) // 10_000
        size = floor.base_units * market.unit
        _row(out, rows, who, _TRADE, _TRADED, side, price * market.tick, size, market.trade_id)
        _close(floor, out, rows, who, at, 0, 0)
    elif code == WIDEN:
        _widen(floor, out, rows, who, at, value * market.spread // 2)
    elif code == NARROW:
        _narrow(floor, out, rows, who, at)
    elif code == CROSS:
        _set(floor, out, rows, who, 2 * who, floor.levels[2 * who + 1, 0].price + value, floor.base_units)
        _diff(floor, out, rows, who, at)
        _quote(floor, out, rows, who, at)
    elif code == UNCROSS:
        _set(floor, out, rows, who, 2 * who, floor.levels[2 * who, 0].price, 0)
        _diff(floor, out, rows, who, at)
        _quote(floor, out, rows, who, at)
    elif code == LOSE:
        market.silent = 1
        for _ in range(value):
            _work(floor, out, rows, who, at)
        market.silent = 0
    elif code == SHOW:
        _work(floor, out, rows, who, at)
    elif code == SNAPSHOT:
        _snapshot(floor, out, rows, who, at)


@_kernel
def open_book(floor: Floor, who: int, bid: int, out: NDArray[np.void], rows: Ints, at: int) -> None:
    """Fill an empty market's book around `bid` (ticks) and send its snapshot and quote."""
    market, random = floor.markets[who], floor.random
    rows[_OPEN] = rows[_N]
    for side in range(2):
        line, sign = 2 * who + side, 1 if side else -1
        price = bid + side * market.spread
        for k in range(3 * len(floor.levels[line]) // 4):
            floor.levels[line, k].price, floor.levels[line, k].size = price, _order_size(floor)
            floor.depth[line] = k + 1
            price += sign * (1 + (_below(random, 2) if market.spread > 1 else 0))
    _snapshot(floor, out, rows, who, at)
    _quote(floor, out, rows, who, at)


@_kernel
def trade_on(
    floor: Floor,
    at: Ints,
    who: NDArray[np.int32],
    code: NDArray[np.uint8],
    value: Ints,
    mark: NDArray[np.uint16],
    begin: int,
    out: NDArray[np.void],
    marks: NDArray[np.uint16],
    rows: Ints,
) -> int:
    """Play arrivals from number `begin` on until all are played or `out` is nearly full; returns the next number.

    Args:
        at, who, code, value: the arrivals: ns UTC, market, command and its value.
        mark: label of each arrival, for its rows; 0 = none.
        out, marks: rows and their labels; `rows[0]` counts them.
    """
    i = begin
    while i < len(at) and rows[_N] + MAX_ROWS <= len(out):
        market, start = floor.markets[who[i]], rows[_N]
        rows[_OPEN] = start
        if code[i] == ACT:
            market.left -= 1
            if market.owed > 0:
                market.owed -= 1
            else:
                n = _act(floor, out, rows, who[i], at[i])
                market.owed += n - 1
        elif code[i] == MUTE:
            market.left -= 1
        else:
            _command(floor, out, rows, who[i], at[i], code[i], value[i])
        for k in range(start, rows[_N]):
            marks[k] = mark[i]
        i += 1
    return i
