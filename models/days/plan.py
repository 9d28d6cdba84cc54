"""Plans of faults: what is to go wrong in a replay, as data. The same plan and seed give the same faulty stream."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from models.errors import InvalidFaultPlan
from models.market.instruments import Instrument

Share = Annotated[float, Meta(gt=0, le=1, description="a share of events, above 0 and at most 1")]
Milliseconds = Annotated[float, Meta(gt=0, le=3_600_000, description="milliseconds, above 0 and at most an hour")]
Offset = Annotated[float, Meta(ge=0, le=1e9, description="seconds of market time since the first row")]

_S = 10**9


class FaultCode(IntEnum):
    """What a control row that tells of a fault carries in `side` (docs/wire.md)."""

    DROP = 1
    DUPLICATE = 2
    REORDER = 3
    DELAY = 4
    CLOCK_SKEW = 5
    DISCONNECT = 6
    HALT = 7


class _Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="fault"):
    """Whom and when it concerns: instruments and venues named (none = all), in `[from_s, to_s)`."""

    code: ClassVar[FaultCode]

    instruments: tuple[str, ...] = ()
    venues: tuple[str, ...] = ()
    from_s: Offset = 0.0
    to_s: Offset | None = None

    def __post_init__(self) -> None:
        if self.to_s is not None and self.to_s <= self.from_s:
            raise ValueError(f"to_s {self.to_s} is not after from_s {self.from_s}")

    def window_ns(self, first_ns: int) -> tuple[int, int]:
        """`[start, stop)`, ns UTC, for a stream whose first row was received at `first_ns`."""
        stop = 2**62 if self.to_s is None else first_ns + int(self.to_s * _S)
        return first_ns + int(self.from_s * _S), stop

    def targets(self, instruments: Sequence[Instrument]) -> NDArray[np.bool_]:
        """By the instruments' index. Raises: InvalidFaultPlan when a name is nobody's."""
        if not self.instruments and not self.venues:
            return np.ones(len(instruments), np.bool_)
        known = {i.text for i in instruments} | {i.venue for i in instruments}
        if strange := sorted({*self.instruments, *self.venues} - known):
            raise InvalidFaultPlan(f"fault {self.code.name.lower()} names {', '.join(strange)}: the days have no such")
        return np.array([i.text in self.instruments or i.venue in self.venues for i in instruments], np.bool_)


class Drop(_Fault, frozen=True, kw_only=True, tag="drop"):
    """Events are lost between the source and the log: the positions of what follows show the gap."""

    code = FaultCode.DROP
    share: Share


class Duplicate(_Fault, frozen=True, kw_only=True, tag="duplicate"):
    """Events reach the log twice, at the same positions."""

    code = FaultCode.DUPLICATE
    share: Share


class Reorder(_Fault, frozen=True, kw_only=True, tag="reorder"):
    """Events are received up to `within_ms` late, each by its own delay, so that later ones overtake them."""

    code = FaultCode.REORDER
    share: Share
    within_ms: Milliseconds


class Delay(_Fault, frozen=True, kw_only=True, tag="delay"):
    """Events are received `delay_ms` late, in order: a queue. What comes after the window waits for them."""

    code = FaultCode.DELAY
    delay_ms: Milliseconds


class ClockSkew(_Fault, frozen=True, kw_only=True, tag="clock_skew"):
    """A clock is wrong by `skew_ms`, and by `drift_ppm` more from then on: the venue's or the receiver's."""

    code = FaultCode.CLOCK_SKEW
    clock: Literal["venue", "receiver"] = "venue"
    skew_ms: Annotated[float, Meta(ge=-3_600_000, le=3_600_000)] = 0.0
    drift_ppm: Annotated[float, Meta(ge=-100_000, le=100_000)] = 0.0


class Disconnect(_Fault, frozen=True, kw_only=True, tag="disconnect"):
    """Nothing is received in the window. Then `snapshot`: what stands is told anew, as after a reconnection."""

    code = FaultCode.DISCONNECT
    to_s: Offset
    snapshot: bool = True


class Halt(_Fault, frozen=True, kw_only=True, tag="halt"):
    """Trading halts: quotes and books are withdrawn, nothing trades in the window, then they stand again."""

    code = FaultCode.HALT
    to_s: Offset


Fault = Drop | Duplicate | Reorder | Delay | ClockSkew | Disconnect | Halt


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Faults, numbered from 1 in their order."""

    seed: Annotated[int, Meta(ge=0, le=2**62)]
    faults: tuple[Fault, ...]
