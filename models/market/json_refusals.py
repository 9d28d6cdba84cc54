"""Why a JSON tick is refused: looked for only once decoding failed, so that good records do not pay for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidInstrument
from models.market.instruments import validate
from models.market.json_records import TYPES

MAX_BYTES = 1 << 20
MAX_DEPTH = 8  # the record itself is depth 1

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what decoding any bytes may raise

_TIMES = ("ts_ms", "ts_ns", "collected_ts_ms", "collected_ts_ns", "next_funding_ts_ms", "start_ts_ms")
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPEN_CURLY, _OPEN_SQUARE, _CLOSE_CURLY, _CLOSE_SQUARE = (ord(c) for c in "{[}]")


class Refusal(NamedTuple):
    """One record that did not become ticks.

    Attributes:
        record: its index in the batch.
        reason: one of the words of `md.dead.v1` (docs/wire.md).
        detail: what was wrong, for people.
    """

    record: int
    reason: str
    detail: str


def too_large(records: Sequence[bytes]) -> dict[int, str]:
    """Details by index of the records beyond a limit, in bytes or in nesting; about 1 ns a byte."""
    ends = np.cumsum(np.fromiter(map(len, records), np.int64, len(records)))
    depths = np.zeros(len(records), np.int64)
    _depths(np.frombuffer(b"".join(records), np.uint8), ends, depths)
    found = {int(i): f"nested deeper than {MAX_DEPTH}" for i in np.flatnonzero(depths > MAX_DEPTH)}
    sizes = np.diff(ends, prepend=0)
    for i in np.flatnonzero(sizes > MAX_BYTES):
        found[int(i)] = f"{sizes[i]} bytes, more than {MAX_BYTES}"
    return found


def explain(data: bytes, error: Exception) -> tuple[str, str]:
    """Reason and detail for a record that does not decode into its struct; `error` is what decoding raised."""
    try:
        record = msgspec.json.decode(data)
    except UNREADABLE as exc:
        return "bad_json", str(exc)
    if not isinstance(record, dict):
        return "bad_json", f"a tick is an object, not {type(record).__name__}"
    for name in ("exchange", "market_type", "symbol", "data_type"):
        if record.get(name) is None:
            return "missing_field", f"{name} is missing"
    data_type = record["data_type"]
    struct = TYPES.get(data_type) if isinstance(data_type, str) else None
    if struct is None:
        return "unknown_type", f"data_type {str(data_type)[:40]!r} is none of {', '.join(TYPES)}"
    refusal = market(record["exchange"], record["market_type"], record["symbol"])
    if refusal is not None:
        return refusal
    for field in msgspec.structs.fields(struct):
        if field.required and record.get(field.name) is None:
            return "missing_field", f"{field.name} is missing"
    for name in _TIMES:
        if name in struct.__struct_fields__ and type(record.get(name, None)) not in (int, type(None)):
            return "bad_time", f"{name} {str(record[name])[:40]!r} is not an integer"
    if "update_type" in struct.__struct_fields__ and record["update_type"] not in ("snapshot", "delta"):
        return "unknown_type", f"update_type {str(record['update_type'])[:40]!r} is neither snapshot nor delta"
    return "bad_number", str(error)[:200]


def market(exchange: object, market_type: object, symbol: object) -> tuple[str, str] | None:
    """Reason and detail if the three parts do not name an instrument."""
    if not isinstance(exchange, str) or not isinstance(market_type, str):
        return "bad_market", "exchange and market_type are text"
    if not isinstance(symbol, str):
        return "bad_symbol", "symbol is text"
    try:
        validate(exchange, market_type, symbol)
    except InvalidInstrument as exc:
        return exc.args[1], exc.args[0][:200]
    return None


@numba.njit(cache=True)
def _depths(data: NDArray[np.uint8], ends: NDArray[np.int64], depths: NDArray[np.int64]) -> None:
    """Deepest nesting of each record, brackets in strings aside; records that are no JSON get some number."""
    start = 0
    for k in range(len(ends)):
        depth, deepest, in_string, i = 0, 0, False, start
        while i < ends[k]:
            byte = data[i]
            if in_string:
                if byte == _BACKSLASH:
                    i += 1
                elif byte == _QUOTE:
                    in_string = False
            elif byte == _QUOTE:
                in_string = True
            elif byte in (_OPEN_CURLY, _OPEN_SQUARE):
                depth += 1
                deepest = max(deepest, depth)
            elif byte in (_CLOSE_CURLY, _CLOSE_SQUARE):
                depth -= 1
            i += 1
        depths[k] = deepest
        start = ends[k]
