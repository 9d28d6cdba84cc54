"""CSV lines as typed columns, all of a block at once; lines that are not of the types are found and refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from models.market.fixed_point import MAX
from models.market.instruments import Instrument
from streams.days.importers.report import ImportReport
from streams.days.importers.text import Block

S = TypeVar("S")
T = TypeVar("T")

N_EVIDENCE = 1000  # rows that choose an instrument's exponents
DECIMAL = pa.decimal128(38, 9)  # exact; more decimals than nine are refused unless they are zeros


class Run(NamedTuple, Generic[S, T]):
    """Good records one after the other: the number of the first, what they came as, what they were parsed to."""

    first: int
    source: S
    parsed: T


def read_parts(
    first: int,
    source: S,
    *,
    parse: Callable[[S], T],
    halves: Callable[[S], tuple[S, int, S] | None],
    refuse: Callable[[int, str, S], None],
) -> Iterator[Run[S, T]]:
    """Parse records together; where that fails, halves of them, down to the ones to refuse.

    Args:
        first: number of the first record.
        parse: raises ArrowException or ValueError with the reason if any record is bad.
        halves: the first half, its number of records, the other half; None of a single record.
        refuse: takes a bad record's number, the reason and the record.
    """
    waiting = [(first, source)]
    while waiting:
        number, part = waiting.pop()
        try:
            yield Run(number, part, parse(part))
        except (pa.ArrowException, ValueError) as exc:
            if (both := halves(part)) is None:
                refuse(number, _reason(exc), part)
            else:
                waiting += [(number + both[1], both[2]), (number, both[0])]


def read_block(block: Block, parse: Callable[[bytes], T], report: ImportReport, file: str) -> Iterator[Run[bytes, T]]:
    """As `read_parts`, of a block's lines; bad ones are refused to the report."""
    return read_parts(
        block.line,
        block.text,
        parse=parse,
        halves=_halves,
        refuse=lambda line, reason, text: report.refuse(file, line, reason, text),
    )


def _halves(text: bytes) -> tuple[bytes, int, bytes] | None:
    lines = text.split(b"\n")
    half = len(lines) // 2
    return (b"\n".join(lines[:half]), half, b"\n".join(lines[half:])) if half else None


def _reason(exc: Exception) -> str:
    """Arrow's words without the row, which counts in what was parsed together."""
    text = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    return re.sub(r"Row #[0-9]+: ", "", text).removeprefix("CSV parse error: ")[:200]


def csv_columns(
    text: bytes, types: Mapping[str, pa.DataType], *, nullable: frozenset[str] = frozenset(), quoted: bool = False
) -> pa.Table:
    """Lines without a header as a table with these columns in this order.

    Args:
        quoted: fields may stand in quotation marks.

    Raises:
        ArrowInvalid: a line has more or fewer fields, or a field is not of its type.
        ValueError: a field is empty whose column is not in `nullable` (texts may always be empty), or a line holds
            more or less than a row.
    """
    if not text:
        raise ValueError("an empty line")
    table = csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(column_names=list(types), use_threads=False, block_size=len(text) + 1),
        parse_options=csv.ParseOptions(ignore_empty_lines=False, quote_char='"' if quoted else False),
        convert_options=csv.ConvertOptions(
            column_types=dict(types),
            null_values=[""],
            strings_can_be_null=False,
            true_values=["true"],
            false_values=["false"],
        ),
    )
    if table.num_rows != text.count(b"\n") + 1:  # a quotation mark or a bare CR took a line's end or made one
        raise ValueError("a line is not one row")
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


def digits(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Texts of at most 18 digits as numbers; 0 for all other texts (ids that are no number)."""
    is_number = pc.match_substring_regex(column, "^[0-9]{1,18}$")
    values: NDArray[np.int64] = pc.if_else(is_number, column, "0").cast(pa.int64()).to_numpy()
    return values


def coded(column: pa.ChunkedArray, known: Mapping[str, int], name: str) -> NDArray[np.int64]:
    """What each text of a column stands for. Raises: ValueError when one stands for nothing."""
    codes, texts = encoded(column)
    if unknown := [text for text in texts if text not in known]:
        raise ValueError(f"{name} {unknown[0]!r} is none of {', '.join(sorted(filter(None, known)))}")
    return np.array([known[text] for text in texts], np.int64)[codes]


def encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """A column of texts as numbers into a list of its different texts, in order of appearance."""
    combined = pa.chunked_array([column.combine_chunks()], column.type) if column.num_chunks != 1 else column
    array = combined.chunk(0).dictionary_encode()
    return array.indices.to_numpy().astype(np.int64), array.dictionary.to_pylist()


def evidence(table: pa.Table, names: Iterable[str]) -> list[Decimal]:
    """What is in some columns of numbers, row by row."""
    columns = [table.column(name).cast(DECIMAL).to_pylist() for name in names]
    return [value for row in zip(*columns, strict=True) for value in row if value is not None]


def mantissas(column: pa.ChunkedArray, name: str, exponent: int) -> NDArray[np.int64]:
    """Exact int64 mantissas of a column of decimals; empty fields are 0.

    Raises:
        ValueError: a value has more decimals than the exponent, or does not fit int64.
    """
    array = column.combine_chunks()
    if not len(array):
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


def numbers(
    column: pa.ChunkedArray, name: str, ids: NDArray[np.int32], instruments: Sequence[Instrument], *, sizes: bool
) -> NDArray[np.int64]:
    """Mantissas of a DECIMAL column of prices or sizes, each with the exponent of its row's instrument.

    Raises:
        ValueError: as `mantissas`, or a size is negative.
    """
    values = np.zeros(len(ids), np.int64)
    exponents = np.array([i.size_exp if sizes else i.price_exp for i in instruments], np.int64)[ids]
    for exponent in np.unique(exponents).tolist():
        at = exponents == exponent
        values[at] = mantissas(column if at.all() else column.filter(pa.array(at)), name, exponent)
    if sizes and (values < 0).any():
        raise ValueError(f"{name} is negative")
    return values
