"""Columns of times as ns UTC, with nothing guessed about their unit or their zone."""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import UnreadableSource
from streams.days.importers.columns import mantissas

UNITS = {"s": -9, "ms": -6, "us": -3, "ns": 0}  # exponent at which a number of that unit is ns
_FIRST_NS, _LAST_NS = 315_532_800 * 10**9, 4_102_444_800 * 10**9  # 1980, 2100: a wrong unit falls outside
_TEXT = (
    r"^(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?)"
    r"(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?$"
)


class Times:
    """How the times of one file are written.

    Args:
        unit: of times that are numbers: s, ms, us or ns since 1970; None = times are no numbers.
        tz: zone of texts and timestamps that say none, an IANA name; None = they say it themselves.

    Raises:
        UnreadableSource: no such zone.
    """

    def __init__(self, unit: str | None, tz: str | None) -> None:
        self._unit, self._tz = unit, tz
        self._zone: str | None = None  # of the first text
        if tz is not None:
            try:
                ZoneInfo(tz)
            except (ZoneInfoNotFoundError, ValueError) as exc:
                raise UnreadableSource(f"{tz!r} is no time zone such as UTC or America/New_York") from exc

    def check(self, kind: pa.DataType, name: str) -> None:
        """Raises: UnreadableSource when times of this type cannot be read with what is known."""
        if pa.types.is_timestamp(kind):
            self._check_zone(kind.tz is not None, name)
            if self._unit is not None:
                raise UnreadableSource(f"column {name} is {kind}, which has a unit: drop --time-unit")
        elif pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            if self._unit is None:
                raise UnreadableSource(f"column {name} is {kind}: say --time-unit s, ms, us or ns")
            if self._tz is not None:
                raise UnreadableSource(f"column {name} counts from 1970 UTC: drop --tz")
        elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UnreadableSource(f"column {name} is {kind}: times are whole numbers, decimals, timestamps or texts")

    def _check_zone(self, has_zone: bool, name: str) -> None:
        if not has_zone and self._tz is None:
            raise UnreadableSource(f"times in {name} say no zone: say it with --tz, such as --tz UTC")
        if has_zone and self._tz is not None:
            raise UnreadableSource(f"times in {name} say their zone themselves: drop --tz")

    def instants(self, column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
        """Nanoseconds since 1970 UTC.

        Raises:
            ValueError: a time is none, is empty, is finer than a nanosecond, is of another zone than the file's first,
                is one that its zone's clocks never or twice showed, or is not between 1980 and 2100.
            UnreadableSource: see `check`.
        """
        if column.null_count:
            raise ValueError(f"{name} is empty")
        if self._unit is not None:
            ns = mantissas(column.cast(pa.decimal128(38, 9)), name, UNITS[self._unit])
        elif pa.types.is_timestamp(column.type):
            ns = self._zoned(column.cast(pa.timestamp("ns", column.type.tz)))
        else:
            ns = self._texts(column, name)
        if len(ns) and (ns.min() < _FIRST_NS or ns.max() > _LAST_NS):
            raise ValueError(f"{name} is not between 1980 and 2100: is the unit right?")
        return ns

    def _texts(self, column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
        parts = pc.extract_regex(column.combine_chunks(), _TEXT)
        if parts.null_count:
            raise ValueError(f"{name} is no time such as 2024-01-31 15:04:05.123456789 or 2024-01-31T15:04:05Z")
        zones = parts.field("zone").dictionary_encode().dictionary.to_pylist()
        zones = ["Z" if zone in ("+00:00", "+0000", "-00:00") else zone or "" for zone in zones]
        if zones and self._zone is None:
            self._check_zone(bool(zones[0]), name)
            self._zone = zones[0]
        if other := [zone for zone in zones if zone != self._zone]:
            raise ValueError(
                f"mixed time zones: {name} is of {other[0] or 'no zone'}, the file's first of {self._zone}"
            )
        ns = self._zoned(parts.field("time").cast(pa.timestamp("ns")))
        zone = self._zone or "Z"
        if zone != "Z":
            minutes = int(zone[1:3]) * 60 + int(zone[-2:])
            ns = ns - (minutes if zone[0] == "+" else -minutes) * 60 * 10**9
        return ns

    def _zoned(self, times: pa.ChunkedArray) -> NDArray[np.int64]:
        if self._tz is not None:
            times = pc.assume_timezone(times, self._tz, ambiguous="raise", nonexistent="raise")
        ns: NDArray[np.int64] = times.cast(pa.int64()).to_numpy()
        return ns
