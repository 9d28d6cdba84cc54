"""Ticks as rows of a table: which columns there are and how a row becomes a JSON tick (docs/publishing.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from models.errors import TickRefused, UnreadableSource
from models.market.json_refusals import Refusal

# column -> field of the JSON tick; other columns have the field's own name
ALIASES = {
    "kind": "data_type",
    "size": "quantity",
    "bid_size": "bid_quantity",
    "ask_size": "ask_quantity",
    "update_id": "last_update_id",
    "ts_event_ns": "ts_ns",
    "ts_event_ms": "ts_ms",
    "ts_recv_ns": "collected_ts_ns",
    "ts_recv_ms": "collected_ts_ms",
}
KINDS = {
    "book": "orderbook",
    "funding": "funding_rate",
    "volatility": "volatility_index",
    "lsr_top": "lsr_top_position",
    "lsr_all": "lsr_all_account",
    "bar": "ohlcv",
}
INTEGERS = frozenset({"ts_ns", "ts_ms", "collected_ts_ns", "collected_ts_ms", "next_funding_ts_ms", "start_ts_ms"})
NESTED = frozenset({"bids", "asks"})  # a JSON array in the cell
DECIMALS = frozenset(
    {"price", "quantity", "bid_price", "bid_quantity", "ask_price", "ask_quantity"}
    | {"funding_rate", "mark_price", "index_price", "open_interest_value", "open_interest_usd", "volatility_index"}
    | {"long_ratio", "short_ratio", "long_short_ratio", "open", "high", "low", "close", "volume"}
)
TEXTS = frozenset(
    {"instrument", "exchange", "market_type", "symbol", "data_type", "side", "trade_id", "update_type", "interval"}
    | {"period", "first_update_id", "last_update_id", "prev_update_id"}
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class SourceBatch:
    """Some records of a source.

    Attributes:
        ticks: JSON ticks.
        originals: the records as they came, one for each tick (NDJSON: the same).
        numbers: number of each tick's line or row in the source, from 1.
        refused: records that could not be written as a JSON tick at all: original, number, refusal.
        done: share of the source that is read, in the units of `TickSource.total`.
    """

    ticks: list[bytes]
    originals: list[bytes]
    numbers: list[int]
    refused: list[tuple[bytes, int, Refusal]]
    done: int


def fields_of(columns: Iterable[str], where: str) -> list[str | None]:
    """The JSON tick's field of each column, None for columns that mean nothing.

    Raises:
        UnreadableSource: a tick cannot be made from these columns, or two of them mean the same field.
    """
    known = DECIMALS | TEXTS | INTEGERS | NESTED
    names = [ALIASES.get(name.strip().lower(), name.strip().lower()) for name in columns]
    present = [name for name in names if name in known]
    if twice := sorted({name for name in present if present.count(name) > 1}):
        raise UnreadableSource(f"{where}: two columns mean {', '.join(twice)}; drop one")
    missing = []
    if "instrument" not in present and not {"exchange", "market_type", "symbol"} <= set(present):
        missing.append("instrument (or exchange, market_type, symbol)")
    if "data_type" not in present:
        missing.append("kind")
    if not {"ts_ns", "ts_ms"} & set(present):
        missing.append("ts_ns (or ts_ms)")
    if missing:
        raise UnreadableSource(
            f"{where}: no column {' and no column '.join(missing)} among {', '.join(names)[:200]}; "
            "docs/publishing.md lists the columns"
        )
    return [name if name in known else None for name in names]


def json_tick(fields: Sequence[str | None], cells: Sequence[Any]) -> bytes:
    """One row as a JSON tick; None and empty text count as absent.

    Raises:
        TickRefused: a cell cannot be written as its field; all else is judged by whoever reads the JSON tick.
    """
    tick: dict[str, Any] = {}
    for field, cell in zip(fields, cells, strict=True):
        if field is None or cell is None or cell == "":
            continue
        if field in INTEGERS:
            tick[field] = _integer(cell)
        elif field in NESTED:
            tick[field] = _nested(field, cell)
        elif field == "instrument":
            _name(tick, str(cell))
        elif isinstance(cell, Decimal):
            tick[field] = format(cell, "f")
        else:
            tick[field] = str(cell)
    if "data_type" in tick:
        tick["data_type"] = KINDS.get(tick["data_type"], tick["data_type"])
    return _encode(tick)


def _integer(cell: Any) -> Any:
    """The number if the cell is one; else the cell itself, which the tick's reader refuses by name."""
    try:
        return int(cell)
    except (ValueError, TypeError):
        return cell


def _nested(field: str, cell: Any) -> Any:
    try:
        return _decode(cell) if isinstance(cell, str) else cell
    except msgspec.DecodeError as exc:
        raise TickRefused("bad_json", f"{field} is not a JSON array of levels: {exc}") from exc


def _name(tick: dict[str, Any], text: str) -> None:
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise TickRefused("bad_symbol", f"instrument {text[:60]!r} is not venue.market_type.BASE-QUOTE")
    tick["exchange"], tick["market_type"], tick["symbol"] = parts
