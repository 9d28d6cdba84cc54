"""The reader's memory with the face of a tier."""

from __future__ import annotations

from collections.abc import Sequence

from models.cache.coherence import PartitionView
from models.cache.keys import Location
from streams.cache.held import Held
from streams.cache.memory import Memory
from streams.cache.tier import Answer, Asked


class MemoryTier:
    """Own tier over a `Memory`; what it answers is the entry itself."""

    name = "memory"

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.keep, self.drop = memory.put, memory.drop

    def __repr__(self) -> str:
        return repr(self.memory)

    def __len__(self) -> int:
        return len(self.memory)

    @property
    def bytes(self) -> int:
        return self.memory.bytes

    @property
    def max_bytes(self) -> int:
        return self.memory.max_bytes

    async def open(self) -> None:
        """Nothing."""

    async def read(self, at: Location, view: PartitionView) -> Held | None:
        """See `Tier.read`."""
        return self.memory.get(at.key.text)

    async def read_many(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """See `Tier.read_many`."""
        return [self.memory.get(at.key.text) for at, _ in asked]

    async def probe(self) -> None:
        """Nothing: it always answers."""

    def resume_at(self) -> None:
        """Nothing outlives the process."""

    async def close(self) -> None:
        """Nothing; the entries stay."""
