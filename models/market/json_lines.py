"""Many JSON records in one run of bytes, so that a compiled loop can walk over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lines:
    """Records that lie in one array of bytes, in any order and with anything between them.

    Attributes:
        data: uint8.
        starts, ends: int64[n], where each record begins and ends (exclusive) in `data`.
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, records: Sequence[bytes]) -> Lines:
        ends = np.cumsum(np.fromiter(map(len, records), np.int64, len(records)))
        starts = np.zeros_like(ends)
        starts[1:] = ends[:-1]
        return cls(np.frombuffer(b"".join(records), np.uint8), starts, ends)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> bytes:
        return self.data[self.starts[number] : self.ends[number]].tobytes()
