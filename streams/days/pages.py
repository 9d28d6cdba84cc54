"""What reading a Parquet file takes in memory, seen from its footer and page headers before anything is unpacked.

A page is unpacked as a whole, to as many bytes as its own header says; the footer may say something else. So every
header is looked at: a few hundred bytes and some 20 us a page, whose usual size is a MiB.
Source: Apache Parquet format, `parquet.thrift` (PageHeader) and Thrift's compact protocol.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MAX_RATIO = 250  # as of packed text
MIN_JUDGED_BYTES = 64 << 20  # what an unpacked file may reach at any ratio
_HEADER_BYTES = 512
_MOST_HEADER_BYTES = 1 << 20  # a header may hold the page's least and largest value
_UNPACKED, _STORED = 2, 3  # fields of a page header
_DEEPEST = 8


class Pages(NamedTuple):
    """Of some columns of a row group.

    Attributes:
        largest: bytes of the largest page of each column together: about what is unpacked at a time.
        unpacked: bytes of all pages, or of all values at 8 bytes each if that is more.
    """

    largest: int
    unpacked: int


def pages_of(path: Path, metadata: Any, columns: Sequence[str]) -> Iterator[Pages]:
    """Look at the pages of columns of the top level, row group by row group.

    Args:
        metadata: the file's, as `pyarrow.parquet.FileMetaData`.

    Raises:
        ValueError: a page header is none, or names no bytes that can be.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as stream:
        for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
            largest, unpacked, n_values = 0, 0, 0
            for chunk in (group.column(number) for number in range(group.num_columns)):
                if chunk.path_in_schema not in columns:
                    continue
                sizes = [0, *_sizes(stream.fileno(), chunk)]
                largest, unpacked, n_values = largest + max(sizes), unpacked + sum(sizes), n_values + chunk.num_values
            yield Pages(largest, max(unpacked, 8 * n_values))


def is_bomb(n_bytes: int, unpacked: int) -> bool:
    """Whether a file of so many bytes unpacks to what no recording of a market does."""
    return unpacked > max(MIN_JUDGED_BYTES, MAX_RATIO * n_bytes)


def _sizes(descriptor: int, chunk: Any) -> Iterator[int]:
    """Bytes that each page of a column chunk unpacks to."""
    at = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None:
        at = min(at, chunk.dictionary_page_offset)
    end = at + chunk.total_compressed_size
    while at < end:
        header, stored, unpacked = _page(descriptor, at)
        yield unpacked
        at += header + stored


def _page(descriptor: int, at: int) -> tuple[int, int, int]:
    """Bytes of the page header there, of the page as it is stored, and unpacked. Raises: ValueError."""
    n = _HEADER_BYTES
    while True:
        data = os.pread(descriptor, n, at)
        try:
            fields, length = _struct(data, 0, 0)
            break
        except IndexError:
            if len(data) < n or n >= _MOST_HEADER_BYTES:
                raise ValueError(f"no page header at byte {at}") from None
            n *= 16
    stored, unpacked = fields.get(_STORED, -1), fields.get(_UNPACKED, -1)
    if stored < 0 or unpacked < 0:
        raise ValueError(f"no page header at byte {at}")
    return length, stored, unpacked


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, int], int]:
    """The whole numbers among a struct's fields, and where it ends. Raises: IndexError, ValueError."""
    if depth > _DEEPEST:
        raise ValueError("a page header of structs in structs")
    fields: dict[int, int] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        match head & 15:  # a type of the compact protocol
            case 1 | 2:  # true, false
                pass
            case 3:  # a byte
                at += 1
            case 4 | 5 | 6:  # i16, i32, i64
                fields[number], at = _integer(data, at)
            case 7:  # a double
                at += 8
            case 8:  # bytes
                length, at = _varint(data, at)
                at += length
            case 12:
                _, at = _struct(data, at, depth + 1)
            case other:
                raise ValueError(f"a page header with a field of type {other}")
    return fields, at + 1


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a page header with a number of more than 64 bits")
