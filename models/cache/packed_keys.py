"""Redis keys as the bytes of a command, apart from `key_bytes` so that readers need no compiler.

Source: RESP, "Bulk strings" (redis.io/docs/latest/develop/reference/protocol-spec).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class PackedKeys:
    """Keys as consecutive bulk strings (`$length CRLF key CRLF`); iterates over the keys themselves.

    Attributes:
        data: of all of them, and perhaps of more; a view of bytes.
        bounds: int64[n + 1], where each begins in `data`, and the end of the last.
    """

    data: memoryview
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[bytes]:
        packed, bounds = bytes(self.packed), (self.bounds - self.bounds[0]).tolist()
        for start, end in pairwise(bounds):
            yield packed[packed.index(b"\n", start) + 1 : end - 2]

    def part(self, start: int, end: int) -> PackedKeys:
        """Keys `start` to `end` (exclusive), fewer where there are not so many."""
        if start <= 0 and end >= len(self):
            return self
        bounds = self.bounds[start : end + 1]
        return PackedKeys(self.data, bounds) if len(bounds) else NO_KEYS

    @property
    def packed(self) -> memoryview:
        """The bulk strings, not a copy."""
        return self.data[self.bounds[0] : self.bounds[-1]]


NO_KEYS = PackedKeys(memoryview(b""), np.zeros(1, np.int64))
