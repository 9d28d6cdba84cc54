"""JSON ticks (`md.json.v1`) to rows, a batch at a time; `json_text` has the way back.

Cost in batches of some hundred records: trades and quotes about 0.6 us each, in compiled code alone (`json_scan`);
other types, and records with anything unusual, a typed decode of 2.5 us each, a book level 0.5 us.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.errors import InvalidInstrument, TickRefused
from models.market.fixed_point import mantissa
from models.market.instruments import (
    DEFAULT_EXPONENT,
    SMALL_PRICE_SIZE_EXPONENT,
    Instrument,
)
from models.market.json_lines import Lines
from models.market.json_records import NS_PER_MS, JsonTick, decode
from models.market.json_refusals import UNREADABLE, Refusal, explain, market, too_large
from models.market.json_rows import EVENT, convert, convert_at, pack_event, rows, why_unfit
from models.market.json_scan import DAY_NS, InstrumentNames, scan
from models.market.registry import InstrumentRegistry
from models.market.tick import RAW, TICK, Flag, TickArray

MAX_ROWS = 1 << 17  # no record of 1 MiB becomes more rows: a level takes ten bytes

_SMALL_PRICE = 10 ** (-DEFAULT_EXPONENT - 2)  # 0.01


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
    """One record as a batch of its own, for about 40 us; arguments as in `parse_batch`.

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
    received_ns: ArrayLike,
    positions: ArrayLike,
    registry: InstrumentRegistry,
    strict: bool = False,
) -> Batch:
    """Rows of many records, once; who does it again and again keeps a `JsonParser`. Arguments as there."""
    parser = JsonParser(registry, strict=strict)
    return parser.parse(Lines.of(records), received_ns=received_ns, positions=positions)


class JsonParser:
    """Reads batches of JSON ticks; what it knows of the registry's instruments stays compiled between them.

    Args:
        registry: known instruments; those met for the first time are added.
        strict: refuse unknown instruments (`unknown_instrument`) instead of defining them.
    """

    def __init__(self, registry: InstrumentRegistry, *, strict: bool = False) -> None:
        self.registry = registry
        self.strict = strict
        self._names = InstrumentNames(registry)

    def parse(self, lines: Lines, *, received_ns: ArrayLike, positions: ArrayLike) -> Batch:
        """Rows of many records; never raises on their content.

        Args:
            lines: JSON ticks.
            received_ns: when each was received, ns UTC: the log's own stamp. It stands in for a missing `collected_*`.
            positions: `seq` of each record's first row, u64; its rows count on from there. `seq` rises strictly if
                each position leaves room for the rows before it (at most MAX_ROWS a record).
        """
        received, at = np.asarray(received_ns, np.int64), np.asarray(positions, np.uint64)
        n_known = len(self.registry)
        self._names.catch_up()
        found = scan(lines, received, self._names)
        numbers = convert_at(found.events, found.shapes, lines.data, found.spans, self.registry.exponents)
        ticks, unfit = rows(found.events, found.shapes, numbers, at)
        left = found.left
        if (unfit >= 0).any():  # the typed decoder says why
            left = np.sort(np.concatenate([left, found.events["record"][unfit >= 0]]))
        if not len(left):
            return Batch(ticks, [], [])
        others, records, refused = self._decode(lines, left, received, at)
        if len(others):
            ticks = _merged(ticks, found.events["record"][unfit < 0], others, records)
        return Batch(ticks, refused, self.registry.instruments[n_known:])

    def _decode(
        self, lines: Lines, left: NDArray[np.int64], received: NDArray[np.int64], positions: NDArray[np.uint64]
    ) -> tuple[TickArray, NDArray[np.int64], list[Refusal]]:
        """Rows, the records that have some, and refusals of the records numbered `left`, by the typed decoder."""
        registry, strict = self.registry, self.strict
        known = registry.by_parts.get
        records = [lines[i] for i in left.tolist()]
        limits = too_large(records)
        shapes: list[bytes] = []
        numbers: list[str] = []
        packed: list[bytes] = []
        refused: list[Refusal] = []
        for n, (i, data, heard) in enumerate(zip(left.tolist(), records, received[left].tolist(), strict=True)):
            try:
                if limits and n in limits:
                    raise TickRefused("too_large", limits[n])
                tick = decode(data)
                latest = heard + DAY_NS
                ts_event, ts_recv = _instants(tick, heard, latest)
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
                packed.append(pack_event(i, instrument, len(shape) >> 2, ts_event, ts_recv, venue_seq, ref_id))
        events, all_shapes = _arrays(packed, shapes)
        converted = convert(events, all_shapes, numbers, registry.exponents)
        ticks, unfit = rows(events, all_shapes, converted, positions)
        refused += [
            Refusal(int(events["record"][k]), *why_unfit(numbers, converted, int(unfit[k])))
            for k in np.flatnonzero(unfit >= 0)
        ]
        return ticks, events["record"][unfit < 0], sorted(refused)


def _merged(
    ticks: TickArray, records: NDArray[np.int64], others: TickArray, their_records: NDArray[np.int64]
) -> TickArray:
    """Rows in the order of their records, given the record of each event on both sides."""
    order = np.argsort(np.concatenate([_of_rows(ticks, records), _of_rows(others, their_records)]), kind="stable")
    merged: TickArray = np.concatenate([ticks.view(RAW), others.view(RAW)])[order].view(TICK)
    return merged


def _of_rows(ticks: TickArray, records: NDArray[np.int64]) -> NDArray[np.int64]:
    """The record of each row."""
    ends = (ticks["flags"] & Flag.LAST) != 0
    of_rows: NDArray[np.int64] = records[np.cumsum(ends) - ends]
    return of_rows


def _arrays(packed: Sequence[bytes], shapes: Sequence[bytes]) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
    return np.frombuffer(b"".join(packed), EVENT), np.frombuffer(b"".join(shapes), np.uint8).reshape(-1, 4)


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
        raise TickRefused("bad_time", "event time or receipt is before 1970")
    if ts_event > latest_ns or ts_recv > latest_ns or ts_event > ts_recv + DAY_NS:
        raise TickRefused("bad_time", "event time or receipt is more than a day ahead of receipt")
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
        price = mantissa(text, DEFAULT_EXPONENT) if text is not None else 0
        if price:
            size_exp = SMALL_PRICE_SIZE_EXPONENT if abs(price) < _SMALL_PRICE else DEFAULT_EXPONENT
            break
    instrument = Instrument(tick.exchange, tick.market_type, tick.symbol, size_exp=size_exp, implicit=True)
    events, shapes = _arrays([pack_event(0, 0, len(shape) >> 2, 0, 0, 0, 0)], [shape])
    exponents = np.array([[instrument.price_exp, instrument.size_exp]], np.int8)
    converted = convert(events, shapes, texts, exponents)
    if converted.status.any():
        raise TickRefused(*why_unfit(texts, converted))
    try:
        return registry.add(instrument)
    except InvalidInstrument as exc:
        raise TickRefused(exc.args[1], exc.args[0]) from exc
