"""CSV lines as typed columns, all of a block at once; lines that are not of the types are found and refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from models.market.fixed_point import MAX
from streams.days.importers.report import ImportReport
from streams.days.importers.text import Block

T = TypeVar("T")
Columns = dict[str, Any]  # NumPy arrays of one length, by name

DECIMAL = pa.decimal128(38, 9)  # exact; more decimals than nine are refused unless they are zeros


def read_block(block: Block, parse: Callable[[bytes], T], report: ImportReport, file: str) -> Iterator[tuple[int, T]]:
    """Parse whole lines together; where that fails, halves of them, down to the lines to refuse.

    Args:
        parse: makes columns of lines; raises ArrowInvalid or ValueError with the reason if any of them is bad.

    Yields:
        runs of good lines: the number of the first, and what `parse` made of them.
    """
    waiting = [block]
    while waiting:
        line, text = waiting.pop()
        try:
            yield line, parse(text)
        except (pa.ArrowException, ValueError) as exc:
            lines = text.split(b"\n")
            if len(lines) == 1:
                report.refuse(file, line, _reason(exc), text)
                continue
            half = len(lines) // 2
            waiting.append(Block(line + half, b"\n".join(lines[half:])))
            waiting.append(Block(line, b"\n".join(lines[:half])))


def _reason(exc: Exception) -> str:
    text = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return text.removeprefix("CSV conversion error to ").removeprefix("CSV parse error: ")[:200]


def csv_columns(text: bytes, types: Mapping[str, pa.DataType], *, nullable: frozenset[str] = frozenset()) -> pa.Table:
    """Lines without a header as a table with these columns in this order.

    Raises:
        ArrowInvalid: a line has more or fewer fields, or a field is not of its type.
        ValueError: a field is empty whose column is not in `nullable` (texts may always be empty).
    """
    table = csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(column_names=list(types), use_threads=False, block_size=len(text) + 1),
        parse_options=csv.ParseOptions(ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=dict(types),
            null_values=[""],
            strings_can_be_null=False,
            true_values=["true"],
            false_values=["false"],
        ),
    )
    for name in types:
        if name not in nullable and table.column(name).null_count:
            raise ValueError(f"{name} is empty")
    return table


def integers(table: pa.Table, name: str, low: int, high: int) -> NDArray[np.int64]:
    """A column of whole numbers. Raises: ValueError when one is not in low..high, both included."""
    values: NDArray[np.int64] = table.column(name).to_numpy()
    if len(values) and (values.min() < low or values.max() > high):
        raise ValueError(f"{name} is not in {low}..{high}")
    return values


def mantissas(column: pa.ChunkedArray, name: str, exponent: int) -> NDArray[np.int64]:
    """Exact int64 mantissas of a column of decimals; empty fields are 0.

    Raises:
        ValueError: a value has more decimals than the exponent, or does not fit int64.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no rows at all
        return np.zeros(0, np.int64)
    if exponent != -array.type.scale:
        try:
            array = array.cast(pa.decimal128(38, -exponent))
        except pa.ArrowInvalid as exc:
            raise ValueError(f"{name} has more than {-exponent} decimals") from exc
    words = np.frombuffer(array.buffers()[1], np.int64)[2 * array.offset : 2 * (array.offset + len(array))]
    low, high = words[::2], words[1::2]
    if array.null_count:
        empty = array.is_null().to_numpy(zero_copy_only=False)
        low, high = np.where(empty, 0, low), np.where(empty, 0, high)
    if ((high != low >> 63) | (low == -MAX - 1)).any():  # the sign goes on, else it is longer
        raise ValueError(f"{name} does not fit int64 with exponent {exponent}")
    return np.ascontiguousarray(low)
