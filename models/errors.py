"""The one error tree: each leaf is named for the fact, each message says what, where and what to do."""

from __future__ import annotations


class MarketPrismError(Exception):
    """Base of every error this project raises on purpose; the CLI prints its message as one line."""


class Recoverable(MarketPrismError):
    """The same call may succeed later; retry catches only this."""


class SettingsError(MarketPrismError):
    """A setting is unknown, has the wrong type or is out of range."""


class ServiceUnavailable(Recoverable):
    """Kafka, Redis or a local process does not answer within its deadline."""


class PartlyUnavailable(ServiceUnavailable):
    """A part of a service, such as one node of a cluster, does not answer; the others do or may."""


class ServiceSetupError(MarketPrismError):
    """A local service cannot be installed or started (no network, port taken, no disk, no Java)."""


class InvalidInstrument(MarketPrismError):
    """Text is not `venue.market_type.BASE-QUOTE[-...]` or breaks the grammar of its market type."""


class InvalidKey(MarketPrismError):
    """Text is not a cache key: `namespace:subject[:id]`, or `md:<instrument>:<facet>`."""


class UnkeyableArgument(MarketPrismError):
    """A cached function was called with an argument of a type that has no key."""


class InstrumentConflict(MarketPrismError):
    """An instrument is defined already with other exponents; they never change."""


class UnreadableSource(MarketPrismError):
    """A file of ticks is absent, not of its format, or lacks columns; single bad lines are dead letters instead."""


class TooManyRejects(MarketPrismError):
    """More of a recording cannot be read than an import was told to allow."""


class CorruptFrame(MarketPrismError):
    """Bytes are not a whole frame or invalidation of a version this code reads."""


class CorruptPage(MarketPrismError):
    """A stored state page has the wrong length, magic or version."""


class CorruptDay(MarketPrismError):
    """A recorded day misses a file, or a checksum or row count is wrong."""


class InvalidRecipe(MarketPrismError):
    """A day cannot be generated as asked: its numbers do not fit together."""


class NothingToMeasure(MarketPrismError):
    """A measure was asked of a day or an instrument without messages."""


class NothingSelected(MarketPrismError):
    """A selection of days names an instrument, a venue or a time that they do not have."""


class InvalidFaultPlan(MarketPrismError):
    """A plan of faults cannot be read, or names an instrument or a venue that the days do not have."""


class RunConflict(MarketPrismError):
    """A run cannot go on: its record or its topics are absent or say something else, or it has ended."""


class TickRefused(MarketPrismError):
    """A tick breaks the rules of the wire; `reason` is one of the words in docs/wire.md.

    Attributes:
        reason: machine word, such as `bad_number`.
        detail: what was wrong and where, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class WriteRefused(TickRefused):
    """A cache write breaks the bounds of the wire, or what its key holds does not let it be done."""

    REASON = "bad_write"

    def __init__(self, detail: str) -> None:
        super().__init__(self.REASON, detail)


class OutcomeUnknown(MarketPrismError):
    """Nobody can say whether a conditional write or an increment was done: it is or may come in the log.

    Not recoverable by the same call again: that might count twice. Read the key, then decide.
    """


class UnreadableValue(MarketPrismError):
    """Bytes of a cached value cannot be made a value of; a read counts them and answers a miss.

    Attributes:
        reason: machine word, such as `bad_signature`.
        detail: what was wrong, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class PublishFailed(Recoverable):
    """Kafka did not acknowledge records within the deadline; they were not lost silently."""


class BufferFull(Recoverable):
    """A bounded buffer takes no more; nothing that it took was dropped."""


class TooStale(Recoverable):
    """No copy could be proven as fresh as was asked for."""


class OwnerFenced(MarketPrismError):
    """A newer owner of the partition exists; this worker must stop writing."""


class DeadlineExceeded(Recoverable):
    """A wait reached its deadline; the message names what was awaited."""


class CorruptStore(MarketPrismError):
    """RocksDB's files are damaged: a checksum is wrong, or a file that another one speaks of is missing or cut."""


class DiskFull(Recoverable):
    """A disk has no room for state; nothing was committed, and the log has everything that is missing."""


class ChangelogLost(MarketPrismError):
    """A changelog begins after what the disk holds: records of state were deleted that nobody has any more."""
