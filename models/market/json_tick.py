"""JSON ticks (`md.json.v1`) to rows, a batch at a time; `json_text` has the way back.

Cost: one typed decode a record, then one compiled conversion and a few NumPy steps a batch: about 2 us a trade or
quote in batches of some hundred records, 0.2 us a book level more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import InvalidInstrument, TickRefused
from models.market import fixed_point
from models.market.fixed_point import mantissas
from models.market.instruments import (
    DEFAULT_EXPONENT,
    MONEY_EXPONENT,
    SMALL_PRICE_SIZE_EXPONENT,
    Instrument,
)
from models.market.json_records import MONEY, NS_PER_MS, JsonTick, decode
from models.market.json_refusals import UNREADABLE, Refusal, explain, market, too_large
from models.market.registry import InstrumentRegistry
from models.market.tick import TICK, Action, Flag, Kind, TickArray

MAX_ROWS = 1 << 17  # no record of 1 MiB becomes more rows: a level takes ten bytes
DAY_NS = 86_400 * 10**9

_SMALL_PRICE = 10 ** (-DEFAULT_EXPONENT - 2)  # 0.01
_KIND, _ACTION, _SIDE, _FLAGS = range(4)
_SHAPE = slice(TICK.itemsize - 4, TICK.itemsize)
_EVENT_FIELDS = ("record", "instrument", "rows", "ts_event", "ts_recv", "venue_seq", "ref_id")
_EVENT = np.dtype([(name, "<i8") for name in _EVENT_FIELDS])
_pack_event = struct.Struct(f"<{len(_EVENT_FIELDS)}q").pack


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch of records became.

    Attributes:
        ticks: TICK[n], events in the order of their records; `instrument_id` is the registry's id.
        refused: the records that gave no row, in the order of the batch.
        defined: instruments met for the first time, in the order of their ids; they are in the registry already and
            have to reach `md.instruments.v1` before the rows leave.
    """

    ticks: TickArray
    refused: list[Refusal]
    defined: list[Instrument]


def parse(
    data: bytes, *, received_ns: int, registry: InstrumentRegistry, position: int = 1, strict: bool = False
) -> Batch:
    """One record as a batch of its own, for about 60 us; arguments as in `parse_batch`.

    Raises:
        TickRefused: the record breaks a rule of the wire; nothing else is raised, whatever the bytes.
    """
    batch = parse_batch([data], received_ns=[received_ns], positions=[position], registry=registry, strict=strict)
    for refusal in batch.refused:
        raise TickRefused(refusal.reason, refusal.detail)
    return batch


def parse_batch(
    records: Sequence[bytes],
    *,
    received_ns: Sequence[int],
    positions: ArrayLike,
    registry: InstrumentRegistry,
    strict: bool = False,
) -> Batch:
    """Rows of many records; never raises on their content.

    Args:
        records: JSON ticks.
        received_ns: when each was received, ns UTC: the log's own stamp. It stands in for a missing `collected_*`.
        positions: `seq` of each record's first row, u64; its rows count on from there. `seq` rises strictly if each
            position leaves room for the rows before it (at most MAX_ROWS a record).
        registry: known instruments; those met for the first time are added.
        strict: refuse unknown instruments (`unknown_instrument`) instead of defining them.
    """
    limits = too_large(records)
    known = registry.by_parts.get
    shapes: list[bytes] = []
    numbers: list[str] = []
    events: list[bytes] = []
    refused: list[Refusal] = []
    n_known = len(registry)
    for i, (data, received) in enumerate(zip(records, received_ns, strict=True)):
        try:
            if limits and i in limits:
                raise TickRefused("too_large", limits[i])
            tick = decode(data)
            latest = received + DAY_NS
            ts_event, ts_recv = _instants(tick, received, latest)
            shape, texts, venue_seq, ref_id = tick.event(latest)
            instrument = known((tick.exchange, tick.market_type, tick.symbol))
            if instrument is None:
                instrument = _meet(tick, registry, shape, texts, strict)
        except TickRefused as exc:
            refused.append(Refusal(i, exc.reason, exc.detail))
        except UNREADABLE as exc:
            refused.append(Refusal(i, *explain(data, exc)))
        else:
            shapes.append(shape)
            numbers += texts
            events.append(_pack_event(i, instrument, len(shape) >> 2, ts_event, ts_recv, venue_seq, ref_id))
    ticks, unfit = _rows(
        np.frombuffer(b"".join(shapes), np.uint8).reshape(-1, 4),
        numbers,
        np.frombuffer(b"".join(events), _EVENT),
        np.asarray(positions, np.uint64),
        registry.refs,
    )
    return Batch(ticks, sorted(refused + unfit), registry.instruments[n_known:])


def _instants(tick: JsonTick, received_ns: int, latest_ns: int) -> tuple[int, int]:
    """Event and receipt time, ns UTC."""
    ts_event, ts_recv = tick.ts_ns, tick.collected_ts_ns
    if ts_event is None:
        if tick.ts_ms is None:
            raise TickRefused("missing_field", "ts_ms (or ts_ns) is missing")
        ts_event = tick.ts_ms * NS_PER_MS
    if ts_recv is None:
        ts_recv = received_ns if tick.collected_ts_ms is None else tick.collected_ts_ms * NS_PER_MS
    if ts_event < 0 or ts_recv < 0:
        raise TickRefused("bad_time", f"event time {ts_event} ns or receipt {ts_recv} ns is before 1970")
    if ts_event > latest_ns or ts_recv > latest_ns or ts_event > ts_recv + DAY_NS:
        raise TickRefused("bad_time", f"event time {ts_event} ns or receipt {ts_recv} ns is over a day ahead")
    return ts_event, ts_recv


def _meet(tick: JsonTick, registry: InstrumentRegistry, shape: bytes, texts: Sequence[str], strict: bool) -> int:
    """Define the instrument of this tick, unless the tick itself is going to be refused."""
    refusal = market(tick.exchange, tick.market_type, tick.symbol)
    if refusal is not None:
        raise TickRefused(*refusal)
    if strict:
        raise TickRefused("unknown_instrument", f"{tick.exchange}.{tick.market_type}.{tick.symbol} is not defined")
    size_exp = DEFAULT_EXPONENT
    for text in tick.prices():
        price = fixed_point.mantissa(text, DEFAULT_EXPONENT) if text is not None else 0
        if price:
            size_exp = SMALL_PRICE_SIZE_EXPONENT if abs(price) < _SMALL_PRICE else DEFAULT_EXPONENT
            break
    instrument = Instrument(tick.exchange, tick.market_type, tick.symbol, size_exp=size_exp, implicit=True)
    shapes = np.frombuffer(shape, np.uint8).reshape(-1, 4)
    exponents = _exponents(shapes, instrument.price_exp, instrument.size_exp)
    _, status = _values(texts, exponents)
    if status.any():
        raise TickRefused(*_why_unfit(texts, exponents, status))
    try:
        return registry.add(instrument)
    except InvalidInstrument as exc:
        raise TickRefused(exc.args[1], exc.args[0]) from exc


def _rows(
    shapes: NDArray[np.uint8],
    numbers: Sequence[str],
    events: NDArray[np.void],
    positions: NDArray[np.uint64],
    refs: NDArray[np.void],
) -> tuple[TickArray, list[Refusal]]:
    """Rows of all events whose numbers fit; a refusal for each of the others."""
    event = np.repeat(np.arange(len(events)), events["rows"])  # of each row
    instrument = events["instrument"][event]
    exponents = _exponents(shapes, refs["price_exp"][instrument], refs["size_exp"][instrument])
    values, status = _values(numbers, exponents)
    kind, action = shapes[:, _KIND], shapes[:, _ACTION]
    empty = values[:, 1] == 0
    keep = ~(empty & (kind == Kind.BOOK) & (action == Action.ADD))  # a snapshot's level of quantity 0 is no level
    refused = []
    if status.any():
        unfit = np.unique(event[status.any(axis=1)])
        for k in unfit:
            rows = slice(*np.searchsorted(event, (k, k + 1)))
            texts = numbers[2 * rows.start : 2 * rows.stop]
            refused.append(Refusal(int(events["record"][k]), *_why_unfit(texts, exponents[rows], status[rows])))
        keep &= ~np.isin(event, unfit)
    gone = empty & (action == Action.UPDATE) & (shapes[:, _SIDE] != 0) & ((kind == Kind.BOOK) | (kind == Kind.QUOTE))
    shapes = shapes.copy()
    shapes[gone, _ACTION] = Action.DELETE
    if not keep.all():
        event, shapes, values = event[keep], shapes[keep], values[keep]
    return _ticks(shapes, values, events, event, positions), refused


def _ticks(
    shapes: NDArray[np.uint8],
    values: NDArray[np.int64],
    events: NDArray[np.void],
    event: NDArray[np.int64],
    positions: NDArray[np.uint64],
) -> TickArray:
    ticks = np.zeros(len(event), TICK)
    first = np.flatnonzero(np.diff(event, prepend=-1))
    index = np.arange(len(event)) - np.repeat(first, np.diff(first, append=len(event)))  # of a row in its event
    for name in ("ts_event", "ts_recv", "venue_seq", "ref_id"):
        ticks[name] = events[name][event]
    ticks["seq"] = positions[events["record"][event]] + index.astype(np.uint64)
    ticks["instrument_id"] = events["instrument"][event]
    ticks["price"], ticks["size"] = values.T
    kind = shapes[:, _KIND]
    ticks["ref_id"][(index > 0) & ((kind == Kind.FUNDING) | (kind == Kind.LONG_SHORT))] = 0
    shapes[np.flatnonzero(np.diff(event, append=len(events))), _FLAGS] |= int(Flag.LAST)
    ticks.view(np.uint8).reshape(-1, TICK.itemsize)[:, _SHAPE] = shapes
    return ticks


def _exponents(shapes: NDArray[np.uint8], price_exp: ArrayLike, size_exp: ArrayLike) -> NDArray[np.int8]:
    """Shape (n, 2): exponents of each row's price and size."""
    exponents = np.empty((len(shapes), 2), np.int8)
    exponents[:, 0], exponents[:, 1] = price_exp, size_exp
    money = (shapes[:, _KIND] == MONEY[_KIND]) & (shapes[:, _SIDE] == MONEY[_SIDE])
    exponents[money, 0] = MONEY_EXPONENT
    return exponents


def _values(texts: Sequence[str], exponents: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Shape (n, 2) each: mantissas of price and size, and their status; a size below zero is out of range."""
    values, status = mantissas(texts, exponents.ravel())
    values, status = values.reshape(-1, 2), status.reshape(-1, 2)
    status[values[:, 1] < 0, 1] = fixed_point.OUT_OF_RANGE
    return values, status


def _why_unfit(texts: Sequence[str], exponents: NDArray[np.int8], status: NDArray[np.uint8]) -> tuple[str, str]:
    """Reason and detail for the first number whose status is not OK."""
    at = int(np.flatnonzero(status.ravel())[0])
    code, text = int(status.flat[at]), texts[at]
    if code == fixed_point.OUT_OF_RANGE and at % 2 and text.startswith("-"):
        return "out_of_range", f"size {text[:40]!r} is negative"
    return fixed_point.REASONS[code], fixed_point.describe(text, int(exponents.flat[at]), code)
