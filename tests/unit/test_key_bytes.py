"""Keys packed by the compiled loop are those that Python makes, in the bytes that Redis wants."""

from __future__ import annotations

import numpy as np
import pytest

from models.cache.key_bytes import KeyBytes
from models.cache.keys import facet_key
from models.cache.packed_keys import NO_KEYS, PackedKeys
from models.market.facets import FACETS
from models.market.instruments import Instrument

INSTRUMENTS = [
    Instrument("a", "spot", "B-C"),
    Instrument("binance", "perpetual", "BTC-USDT"),
    Instrument("deribit", "options", "BTC-USD-251226-100000.5-C"),
    Instrument("v" * 32, "options", f"{'A' * 20}-{'B' * 12}-251226-{'9' * 12}-P"),
]
NAMES = [(slot, facet) for slot in range(len(INSTRUMENTS)) for facet in range(len(FACETS))]


def packed(prefix: str, names: list[tuple[int, int]], *, at_once: int = len(INSTRUMENTS)) -> PackedKeys:
    keys = KeyBytes(prefix, 17)
    for known in range(0, len(INSTRUMENTS), at_once):
        keys.catch_up(INSTRUMENTS[: known + at_once])
    return keys.pack(np.array([slot * len(FACETS) + facet for slot, facet in names], np.int32))


def made(prefix: str, names: list[tuple[int, int]]) -> list[bytes]:
    return [facet_key(prefix, facet, INSTRUMENTS[slot].text, 17) for slot, facet in names]


@pytest.mark.parametrize("prefix", ["", "run.x.", f"run.{'x' * 90}."])
@pytest.mark.parametrize("at_once", [1, 3, 4])
def test_packed_keys_are_the_keys_of_their_names(prefix: str, at_once: int) -> None:
    names = NAMES[::-1] + NAMES[3::7]
    keys, wanted = packed(prefix, names, at_once=at_once), made(prefix, names)
    assert list(keys) == wanted
    assert keys.packed == b"".join(b"$%d\r\n%s\r\n" % (len(key), key) for key in wanted)
    assert len(keys) == len(names)


def test_parts_are_the_keys_between_and_none_beyond_the_end() -> None:
    keys, wanted = packed("", NAMES), made("", NAMES)
    for start, end in ((0, 5), (5, 500), (len(NAMES) - 1, 1000), (7, 7), (len(NAMES), 1000), (1000, 1500)):
        part = keys.part(start, end)
        assert list(part) == wanted[start:end]
        assert len(part) == len(wanted[start:end])
        assert part.packed == b"".join(b"$%d\r\n%s\r\n" % (len(key), key) for key in wanted[start:end])
    assert list(NO_KEYS) == []
    assert NO_KEYS.packed == b""
