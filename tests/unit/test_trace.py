"""Traces are read in the forms of the literature, and what is none of them is refused with its place."""

from __future__ import annotations

import gzip
import lzma
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest

from models.errors import UnreadableSource
from streams.cache import trace as trace_module
from streams.cache.trace import FORMS, MAX_LINE_BYTES, read_trace


def written(folder: Path, data: bytes, name: str = "t.trace") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def keys(folder: Path, form: str, data: bytes, limit: int | None = None) -> list[int]:
    read: list[int] = read_trace(written(folder, data), form, limit=limit).keys.tolist()
    return read


def packed(order: str, *numbers: int) -> bytes:
    return struct.pack(f"{order}{len(numbers)}I", *numbers)


@pytest.mark.parametrize(
    ("form", "data", "expected"),
    [
        ("lirs", b"*\n5\r\n\r\n 7 \n5", [5, 7, 5]),
        ("cache2k", packed(">", 1, 2, 1), [1, 2, 1]),
        ("u32", packed("<", 1, 2, 0xFFFFFFFF), [1, 2, 0xFFFFFFFF]),
        ("keys", "session:4\nsession:ü\nsession:4\n".encode(), [0, 1, 0]),
        ("arc", b"10 3 0 1\n7 1 0 2\n", [10, 11, 12, 7]),
    ],
)
def test_each_form_gives_its_requests_in_order(form: str, data: bytes, expected: list[int], tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, data), form)
    assert trace.keys.tolist() == expected
    assert (trace.name, trace.unique) == ("t.trace", len(set(expected)))


def test_both_orders_of_bytes_are_told_apart(tmp_path: Path) -> None:
    assert keys(tmp_path, "cache2k", packed("<", 1)) != keys(tmp_path, "u32", packed("<", 1)) == [1]


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lambda data: bytes(cramjam.zstd.compress(data))])
def test_compression_is_told_by_content_and_a_truncated_file_by_its_end(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    data = b"".join(b"%d\n" % (i * 7919 % 1000) for i in range(100_000))
    whole = pack(data)
    assert len(keys(tmp_path, "lirs", whole)) == 100_000
    with pytest.raises(UnreadableSource, match=r"t\.trace cannot be read beyond request \d+: "):
        keys(tmp_path, "lirs", whole[: len(whole) // 2])


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"1\n2\n" * 50_000))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(UnreadableSource, match="cannot be read beyond request"):
        keys(tmp_path, "lirs", bytes(whole))


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("lirs", b"1\n2\nx7\n", r":3: 'x7' is no whole number"),
        ("lirs", b"1\n-2\n", r":2: '-2' is no whole number"),
        ("lirs", b"1\n\n9223372036854775808\n", r":3: '9223372036854775808' is no whole number"),
        ("lirs", packed("<", 1, 2, 3), "is no whole number"),
        ("lirs", b"1\n" + b"9" * (MAX_LINE_BYTES + 1) + b"\n", ":2: is longer than 4096 bytes"),
        ("keys", b"a\n" + b"b" * 300_000, ":2: is longer than 4096 bytes"),
        ("arc", b"1 2 0 1\n5\n", ":2: has no two numbers"),
        ("arc", b"1 99999999 0 1\n", ":1: asks for 99,999,999 blocks"),
        ("arc", b"9223372036854775807 9 0 1\n", ":1: asks for 9 blocks"),
        ("u32", b"\0" * 7, "ends inside a number: 3 bytes are left"),
        ("lirs", b"*\n\n", "holds no request"),
        ("u32", b"", "holds no request"),
    ],
)
def test_what_is_not_of_the_form_is_refused_with_its_place(
    form: str, data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnreadableSource, match=message):
        keys(tmp_path, form, data)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(b"7" * 40_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableSource, match=":1: is longer than 4096 bytes"):
            read_trace(path, "lirs")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSource, match="No such file"):
        read_trace(tmp_path / "none", "lirs")


@pytest.mark.parametrize("form", FORMS)
def test_a_limit_takes_exactly_so_many_from_the_start(form: str, tmp_path: Path) -> None:
    data = (
        packed("<", *range(1, 9)) if form in ("u32", "cache2k") else b"1 4\n2 4\n" if form == "arc" else b"1\n2\n" * 4
    )
    whole = keys(tmp_path, form, data)
    assert len(whole) == 8
    for limit in range(1, 10):
        assert keys(tmp_path, form, data, limit) == whole[:limit]


def test_what_follows_the_limit_is_not_read(tmp_path: Path) -> None:
    data = b"1\n" * trace_module._CHUNK + b"not a number\n"
    assert len(keys(tmp_path, "lirs", data, trace_module._CHUNK)) == trace_module._CHUNK


def test_a_trace_longer_than_memory_should_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "MAX_REQUESTS", 10)
    assert len(keys(tmp_path, "u32", b"\0" * 40)) == 10
    with pytest.raises(UnreadableSource, match="more than 10 requests; read a part of it with --limit"):
        keys(tmp_path, "u32", b"\0" * 44)


def test_progress_counts_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(packed("<", *range(200_000))))
    seen: list[tuple[int, int]] = []
    read_trace(path, "u32", progress=lambda done, total: seen.append((done, total)))
    size = path.stat().st_size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
