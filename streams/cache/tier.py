"""What a tier of the reader's cache has to offer; `streams/testing/tier_contract.py` tests that it keeps to it.

Two kinds. A *log tier* is written by the worker (Redis, the worker's RocksDB) and says itself as of which version it
answers: its mark, read in one step with the values. An *own tier* belongs to the reader (memory, a disk of its own)
and stores with each entry the version as of which it was right. Either way an answer is a `Held` with its `as_of`, and
one check admits it: `as_of` at or above the floor of its key (protocol rule 9). A tier may therefore forget, lag or
lose its disk, and nothing wrong is served.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeGuard, TypeVar

from models.cache.coherence import PartitionView
from models.cache.keys import Location
from models.errors import MarketPrismError
from streams.cache.held import Held

Asked = tuple[Location, PartitionView]
# None: the tier has nothing to say of the key. A known miss is an entry whose version is -1.
Answer = Held | None | MarketPrismError


class Tier(Protocol):
    """One tier; used by one event loop. Each call answers or raises within a timeout of the tier's own.

    Attributes:
        name: short and stable; readers see it as `Entry.tier`.
    """

    name: str

    async def open(self) -> None:
        """Begin; a service that is away is no reason to fail: `read` says so. May be called once."""

    def read(self, at: Location, view: PartitionView) -> Awaitable[Held | None]:
        """What the tier holds of one key. The answer may be shared with others who asked; nobody changes it.

        Raises:
            ServiceUnavailable, CorruptStore: the tier cannot answer now. Anything else is a fault of the tier.
        """

    async def read_many(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """One answer a key, in their order; a key that fails is an error in its place and harms no other.

        Raises:
            ServiceUnavailable, CorruptStore: the tier cannot answer at all now.
        """

    async def probe(self) -> None:
        """A small request that touches no user's data, to see whether it answers and how fast. Raises as `read`."""

    async def close(self) -> None:
        """End; may be called twice."""


T = TypeVar("T", bound=Tier)


class LogTier(Tier, Protocol):
    """Written by the worker."""

    async def load_floors(self, partition: int, view: PartitionView) -> int:
        """Take the floors of tags, namespaces and flush into the view of a generic partition (rule 13).

        Returns:
            The version as of which they are complete; -1 = the tier has nothing of the partition.

        Raises:
            ServiceUnavailable, CorruptStore: the tier cannot answer now.
        """


class OwnTier(Tier, Protocol):
    """Filled by the reader. No call here waits or raises: what cannot be kept is not kept."""

    def keep(self, held: Held) -> None:
        """Store, unless what is there is right as of a newer version."""

    def drop(self, text: str) -> None:
        """Forget a key."""

    def resume_at(self) -> Mapping[int, int] | None:
        """Offsets of the invalidations from which the reader has to hear on, so that what an earlier process kept may
        be believed; None = there is nothing to be gained.
        """


@asynccontextmanager
async def opened(tier: T) -> AsyncIterator[T]:
    """The tier, opened; closed at the end."""
    await tier.open()
    try:
        yield tier
    finally:
        await tier.close()


def is_log_tier(tier: Tier) -> TypeGuard[LogTier]:
    return hasattr(tier, "load_floors")


def is_own_tier(tier: Tier) -> TypeGuard[OwnTier]:
    return hasattr(tier, "keep")


class Wrapper:
    """Base of a tier around a tier: what it does not change it passes on, methods that only that tier has included."""

    def __init__(self, inner: Tier) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not set yet: copying and unpickling ask before `__init__`
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"
