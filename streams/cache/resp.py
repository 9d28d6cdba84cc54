"""Commands as Redis reads them, in parts that are sent one after the other: so what is large need not be copied.

Source: RESP, "Arrays" and "Bulk strings" (redis.io/docs/latest/develop/reference/protocol-spec).
"""

from __future__ import annotations

from collections.abc import Sequence

import hiredis
from redis.typing import EncodableT

from models.cache.packed_keys import PackedKeys

Part = bytes | memoryview  # a view is of bytes: its length is theirs


def packed_command(*runs: Sequence[EncodableT] | PackedKeys | memoryview) -> list[Part]:
    """Parts of one command, from its name on.

    Args:
        runs: its arguments in their order: some small ones, keys that are packed already, or one that is large. Views
            must not change until they are sent.
    """
    n, parts = 0, list[Part]()
    for run in runs:
        if isinstance(run, memoryview):
            n += 1
            parts += (b"$%d\r\n" % len(run), run, b"\r\n")
        elif isinstance(run, PackedKeys):
            n += len(run)
            parts.append(run.packed)
        elif run:
            n += len(run)
            packed = hiredis.pack_command(tuple(run))  # type: ignore[arg-type]
            parts.append(memoryview(packed)[packed.index(b"\n") + 1 :])  # it begins with a count of its own
    return [b"*%d\r\n" % n, *parts]
