"""Commands in parts are, joined, what the library itself would send, and what is large is in them uncopied."""

from __future__ import annotations

import hiredis
import numpy as np
import pytest

from models.cache.key_bytes import KeyBytes
from models.cache.packed_keys import NO_KEYS
from models.market.facets import FACETS
from models.market.instruments import Instrument
from streams.cache.resp import packed_command

BEFORE, AFTER = ("FCALL", "mp_apply", 7, b"mark"), (b"\r\n*3\r\n", 5, b"", "ö", 0.5)
LARGE = memoryview(bytes(range(256)) * 200)


def keys_of(n: int) -> KeyBytes:
    keys = KeyBytes("run.x.", 3)
    keys.catch_up([Instrument("binance", "spot", f"S{i}-USDT") for i in range(n)])
    return keys


@pytest.mark.parametrize("n", [0, 1, 120])
@pytest.mark.parametrize("rows", [LARGE, LARGE[1:-7], memoryview(b"")])
def test_a_command_in_parts_is_the_command(n: int, rows: memoryview) -> None:
    keys = keys_of(n).pack(np.arange(n, dtype=np.int32) * len(FACETS))
    parts = packed_command(BEFORE, keys, (), AFTER, rows, [b"x"] * n)
    assert b"".join(parts) == hiredis.pack_command((*BEFORE, *keys, *AFTER, bytes(rows), *[b"x"] * n))


def test_one_run_is_a_whole_command() -> None:
    for command in (("PING",), BEFORE, AFTER):
        assert b"".join(packed_command(command)) == hiredis.pack_command(command)
    assert b"".join(packed_command(("PING",), NO_KEYS)) == hiredis.pack_command(("PING",))


def test_keys_and_rows_are_not_copied() -> None:
    keys = keys_of(9).pack(np.arange(9, dtype=np.int32) * len(FACETS))
    owners = [
        part.obj for part in packed_command(BEFORE, keys.part(2, 5), LARGE[160:240]) if isinstance(part, memoryview)
    ]
    assert any(owner is keys.data.obj for owner in owners)
    assert any(owner is LARGE.obj for owner in owners)
