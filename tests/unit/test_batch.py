"""The calls of a batch are, byte by byte, the commands that the library would pack of the same arguments."""

from __future__ import annotations

from dataclasses import replace

import hiredis
import numpy as np
import pytest

from models.cache.key_bytes import KeyBytes
from models.cache.keys import Space
from models.market.facets import FACETS
from models.market.instruments import Instrument
from streams.cache.batch import Batch, packed_calls, put

MARK, NOW_NS = b"md:{p3}:@mark", 1_800_000_000_000_000_000
LAST, REWRITE = 1, 2


def batch_of(n_rows: int, n_updates: int, *, rewrite: bool = False) -> Batch:
    keys = KeyBytes("run.x.", 3)
    keys.catch_up([Instrument("binance", "spot", f"S{i}-USDT") for i in range(n_rows)])
    rows = np.random.default_rng(n_rows).bytes(80 * n_rows)
    updates = [(b"x:%d" % i, put(b"%d" % i * 9)) for i in range(n_updates)]
    names = np.arange(n_rows, dtype=np.int32) * len(FACETS)
    return Batch(Space.MARKET, 3, 7, -1, 9, 5, keys.pack(names), rows, updates, rewrite)


def command(batch: Batch, start: int, end: int, flags: int) -> bytes:
    n_rows = len(batch.row_keys)
    keys = [*batch.row_keys, *(key for key, _ in batch.updates)][start:end]
    updates = [update for _, update in batch.updates][max(start - n_rows, 0) : max(end - n_rows, 0)]
    numbers = (n.to_bytes(8, "big") for n in (7, 0, 10, 5, NOW_NS))  # token, versions + 1, watermark, now
    rows = batch.rows[start * 80 : end * 80]
    return hiredis.pack_command(("FCALL", "mp_apply", 1 + len(keys), MARK, *keys, *numbers, flags, rows, *updates))


@pytest.mark.parametrize(
    ("n_rows", "n_updates", "starts"),
    [
        (0, 0, [0]), (3, 0, [0]), (0, 4, [0]), (3, 4, [0]), (499, 1, [0]), (500, 0, [0]),
        (0, 501, [0, 500]), (500, 1, [0, 500]), (1000, 0, [0, 500]), (700, 600, [0, 500, 1000]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rewrite", [False, True])
def test_calls_are_the_commands_and_only_the_last_one_raises_the_mark(
    n_rows: int, n_updates: int, starts: list[int], rewrite: bool
) -> None:
    batch = batch_of(n_rows, n_updates, rewrite=rewrite)
    wanted = [command(batch, start, start + 500, rewrite * REWRITE) for start in starts]
    calls = packed_calls(batch, MARK, NOW_NS, raises_mark=False)
    assert [b"".join(call) for call in calls] == wanted
    wanted[-1] = command(batch, starts[-1], starts[-1] + 500, rewrite * REWRITE + LAST)
    assert [b"".join(call) for call in packed_calls(batch, MARK, NOW_NS)] == wanted


def test_rows_in_a_view_are_not_copied_and_come_to_the_same_bytes() -> None:
    batch = batch_of(1100, 0)
    view = memoryview(batch.rows)
    viewed = packed_calls(replace(batch, rows=view), MARK, NOW_NS)
    assert [b"".join(call) for call in viewed] == [b"".join(call) for call in packed_calls(batch, MARK, NOW_NS)]
    for call, n_rows in zip(viewed, (500, 500, 100), strict=True):
        assert [len(part) for part in call if isinstance(part, memoryview) and part.obj is view.obj] == [80 * n_rows]


def test_rows_that_do_not_fit_the_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="3 keys have 239 bytes of rows, not 80 each"):
        packed_calls(replace(batch_of(3, 0), rows=bytes(239)), MARK, NOW_NS)
