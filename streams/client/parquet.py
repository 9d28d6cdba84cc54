"""Rows of a Parquet file as JSON ticks, a batch in memory at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import TickRefused, UnreadableSource
from models.market.json_refusals import Refusal
from streams.client.columns import DECIMALS, INTEGERS, SourceBatch, fields_of, json_tick

_ROWS_A_BATCH = 4096


@dataclass(frozen=True)
class RowTable:
    """An open Parquet file whose columns make ticks; `fields` names each column's field of the JSON tick."""

    path: str
    file: Any
    columns: list[str]
    fields: list[str]
    n_rows: int


def open_rows(path: str) -> RowTable:
    """Raises: UnreadableSource when the file is no Parquet, or its columns or their types make no ticks."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)  # where the writer left checksums
    except (pa.ArrowException, OSError) as exc:
        raise UnreadableSource(f"{path}: not a readable Parquet file ({str(exc).splitlines()[0][:120]})") from exc
    schema = file.schema_arrow
    fields = fields_of(schema.names, path)
    used = [(name, field) for name, field in zip(schema.names, fields, strict=True) if field is not None]
    for name, field in used:
        _check_type(path, name, field, schema.field(name).type)
    return RowTable(path, file, [name for name, _ in used], [field for _, field in used], file.metadata.num_rows)


async def read_rows(table: RowTable) -> AsyncIterator[SourceBatch]:
    """Raises: UnreadableSource when a page of the file is damaged: it cannot be decoded, or its checksum is another."""
    batches = _batches(table)
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        yield batch


def _batches(table: RowTable) -> Iterator[SourceBatch]:
    done = 0
    try:
        for rows in table.file.iter_batches(batch_size=_ROWS_A_BATCH, columns=table.columns):
            batch = SourceBatch([], [], [], [], done + len(rows))
            columns = zip(table.columns, table.fields, strict=True)
            cells = [_cells(rows.column(name), field) for name, field in columns]
            for number, row in enumerate(zip(*cells, strict=True), done + 1):
                _add(batch, table.fields, row, number)
            done += len(rows)
            yield batch
    except (pa.ArrowException, OSError) as exc:
        raise UnreadableSource(
            f"{table.path}: the file is damaged, row {done + 1} and on cannot be read ({str(exc)[:120]}): fetch it "
            "again from where it came, or write it anew"
        ) from exc


def _add(batch: SourceBatch, names: list[str], row: tuple[Any, ...], number: int) -> None:
    try:
        tick = json_tick(names, row)
    except TickRefused as exc:
        shown = repr(dict(zip(names, row, strict=True))).encode()
        batch.refused.append((shown, number, Refusal(-1, exc.reason, exc.detail)))
        return
    batch.ticks.append(tick)
    batch.originals.append(tick)
    batch.numbers.append(number)


def _cells(column: Any, field: str) -> list[Any]:
    if pa.types.is_timestamp(column.type):  # of any unit; the field says in which one it is wanted
        unit = "ns" if field.endswith("_ns") else "ms"
        column = column.cast(pa.timestamp(unit, column.type.tz), safe=False).cast(pa.int64())
    cells: list[Any] = column.to_pylist()
    return cells


def _check_type(path: str, name: str, field: str, kind: Any) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if field in DECIMALS and pa.types.is_floating(kind):
        raise UnreadableSource(
            f"{path}: column {name} is {kind}, and a float does not hold 0.1: cast it to decimal128(38, 9) or string "
            f'where the exact value is known (Polars: pl.col("{name}").cast(pl.Decimal(38, 9)))'
        )
    if field in INTEGERS and not (pa.types.is_integer(kind) or pa.types.is_timestamp(kind)):
        raise UnreadableSource(f"{path}: column {name} is {kind}, not an integer or a timestamp")
