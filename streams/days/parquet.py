"""Ticks as Parquet: the schema of a day's files, and rows to columns and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import CorruptDay
from models.market.tick import TICK, TickArray

MAX_GROUP_BYTES = 256 << 20  # of a row group, unpacked: sixteen times what is written here
_TIME = pa.timestamp("ns", tz="UTC")
_TYPES = {"ts_event": _TIME, "ts_recv": _TIME}
PARQUET = pa.schema(
    [pa.field(name, _TYPES.get(name) or pa.from_numpy_dtype(TICK[name]), nullable=False) for name in TICK.names or ()]
)
# Chosen by size on a crypto day, 6.4 bytes a row: prices and sizes repeat, a dense seq vanishes as deltas, and times
# and update ids are smallest plain (zstd finds an event's equal values; deltas hide them).
_DICTIONARY = ["price", "size", "instrument_id", "kind", "action", "side", "flags"]
_ENCODING = {"seq": "DELTA_BINARY_PACKED"}


def open_writer(path: Path) -> Any:
    """A `ParquetWriter` for `to_table`'s tables."""
    return pq.ParquetWriter(
        path,
        PARQUET,
        compression="zstd",
        compression_level=3,
        use_dictionary=_DICTIONARY,
        column_encoding=_ENCODING,
        data_page_version="2.0",
        write_page_checksum=True,
        sorting_columns=[pq.SortingColumn(PARQUET.get_field_index(n)) for n in ("ts_recv", "seq")],
    )


def to_table(ticks: TickArray) -> Any:
    columns = [pa.array(np.ascontiguousarray(ticks[field.name])).view(field.type) for field in PARQUET]
    return pa.Table.from_arrays(columns, schema=PARQUET)


def to_ticks(batch: Any) -> TickArray:
    """Rows of a record batch of the schema. Raises: KeyError when a value is missing."""
    ticks = np.empty(batch.num_rows, TICK)
    for name in PARQUET.names:
        column = batch.column(name)
        if column.null_count:
            raise KeyError(f"column {name} has {column.null_count} empty values")
        if name in _TYPES:
            column = column.view(pa.int64())
        ticks[name] = column.to_numpy(zero_copy_only=False)
    return ticks


def read_ticks(path: Path, rows: int, groups: Sequence[int] | None = None) -> Iterator[TickArray]:
    """Rows of a file in TICK arrays of at most `rows`, page checksums checked; of some row groups only if named.

    Raises:
        CorruptDay: the file is missing or a page cannot be read.
    """
    for batch in read_batches(path, rows, groups=groups):
        try:
            ticks = to_ticks(batch)
        except KeyError as exc:
            raise CorruptDay(f"{path}: cannot be read: {exc}") from exc
        yield ticks


def read_batches(
    path: Path, rows: int, *, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
) -> Iterator[Any]:
    """As `read_ticks`, as record batches of some columns. Raises: CorruptDay."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
            wanted = list(columns or PARQUET.names)
            if missing := set(wanted) - set(parquet.schema_arrow.names):
                raise KeyError(f"no column {', '.join(sorted(missing))}")
            metadata = parquet.metadata
            largest = max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)
            if largest > MAX_GROUP_BYTES:
                raise CorruptDay(
                    f"{path}: a row group unpacks to {largest} bytes, and {MAX_GROUP_BYTES} are allowed in a day"
                )
            yield from parquet.iter_batches(batch_size=rows, row_groups=groups, columns=wanted)
    except FileNotFoundError as exc:
        raise CorruptDay(f"{path}: missing") from exc
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise CorruptDay(f"{path}: cannot be read: {exc}") from exc


def groups_after(path: Path, row: int) -> tuple[list[int], int]:
    """Row groups that hold rows after number `row` (from 1), and how many rows lie before the first of them.

    Raises:
        CorruptDay: the file is missing, or its footer cannot be read.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            metadata = parquet.metadata
            ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
    except FileNotFoundError as exc:
        raise CorruptDay(f"{path}: missing") from exc
    except (pa.ArrowException, OSError) as exc:
        raise CorruptDay(f"{path}: its footer cannot be read: {exc}") from exc
    first = int(np.searchsorted(ends, row, "right"))
    return list(range(first, len(ends))), int(ends[first - 1]) if first else 0


def groups_within(path: Path, start_ns: int, stop_ns: int) -> list[int]:
    """Row groups that may hold events of `[start_ns, stop_ns)`: by the file's footer, nothing else is read.

    The group before the first such one is among them, because an event may begin there.

    Raises:
        CorruptDay: the file is missing, or its footer cannot be read or has no ranges of `ts_recv`.
    """
    try:
        with pq.ParquetFile(path) as parquet:
            metadata, column = parquet.metadata, parquet.schema_arrow.names.index("ts_recv")
            ranges = [metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups)]
            found = [i for i, r in enumerate(ranges) if r.max_raw >= start_ns and r.min_raw < stop_ns]
    except FileNotFoundError as exc:
        raise CorruptDay(f"{path}: missing") from exc
    except (pa.ArrowException, OSError, ValueError, AttributeError) as exc:
        raise CorruptDay(f"{path}: its footer cannot be read: {exc}") from exc
    return [found[0] - 1, *found] if found and found[0] else found
