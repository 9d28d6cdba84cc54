"""Cache keys: what people write (`md:binance.spot.BTC-USDT:quote`, `session:42`) and what Redis and Kafka make of it.

A key is `namespace:subject[:id...]`; the namespace `md` belongs to the market and is read-only. A key is one text and
kept whole wherever it goes: nothing is joined or split on the way, so two keys never become one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

import msgspec

from models.errors import InvalidInstrument, InvalidKey
from models.market.facets import FACETS, facet_number
from models.market.instruments import instrument_hash, parse, partition_of

MAX_KEY_BYTES = 512
MARKET_NAMESPACE = "md"
MARK = "@mark"
FLOORS = "@floors"

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Space(Enum):
    """Which source topic numbers the versions of a key; the value is the word in Redis keys."""

    MARKET = "md"  # md.frames.v1
    GENERIC = "cache"  # cache.writes.v1

    __hash__ = object.__hash__  # in C: each read looks up what is known of its partition by space and number


class Key(msgspec.Struct, frozen=True, gc=False):
    """One key, checked.

    Attributes:
        text: as people write it.
        space: which log made it.
        kafka_key: what decides its partition: the instrument's text, or the whole text of a generic key.
        namespace: text before the first `:`.
        subject: hash of the instrument (u64), 0 for a generic key.
        facet: facet number of a market key, -1 for a generic key.
    """

    text: str
    space: Space
    kafka_key: str
    namespace: str
    subject: int = 0
    facet: int = -1

    def partition(self, n_partitions: int) -> int:
        return partition_of(self.kafka_key, n_partitions)


def parse_key(text: str) -> Key:
    """Check a key as people write it.

    Raises:
        InvalidKey: it is too long, has no namespace, or names no instrument or facet. The message says which.
    """
    if len(text if text.isascii() else text.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidKey(f"key {text[:40]!r}... is longer than {MAX_KEY_BYTES} bytes")
    namespace, colon, rest = text.partition(":")
    if not (colon and rest) or not _NAMESPACE.fullmatch(namespace):
        raise InvalidKey(f"key {text!r} is not namespace:subject[:id], such as session:42")
    if not text.isprintable():
        raise InvalidKey(f"key {text!r} holds characters that cannot be printed")
    if namespace != MARKET_NAMESPACE:
        return Key(text, Space.GENERIC, text, namespace)
    instrument, _, facet_name = rest.partition(":")
    facet = facet_number(facet_name)
    if facet is None:
        raise InvalidKey(f"key {text!r} names no facet; known are {', '.join(FACETS)}")
    try:
        parse(instrument)
    except InvalidInstrument as exc:
        raise InvalidKey(f"key {text!r}: {exc.args[0]}") from exc
    return Key(text, Space.MARKET, instrument, MARKET_NAMESPACE, instrument_hash(instrument), facet)


class Location(msgspec.Struct, frozen=True, gc=False):
    """Where a key lies: worked out once a key, because murmur2 in Python costs more than a read from memory.

    Attributes:
        redis_key, mark_key: of the value and of its partition's mark.
        subject: what invalidations name it by: an instrument's hash or a generic key's text.
        floor: what its floor is kept under (rule 9): `facet_floor`, or a generic key's text.
    """

    key: Key
    partition: int
    redis_key: bytes
    mark_key: bytes
    subject: int | str
    floor: int | str


def locate(text: str, *, prefix: str, n_partitions: int) -> Location:
    """Raises: InvalidKey (see `parse_key`)."""
    key = parse_key(text)
    partition = key.partition(n_partitions)
    redis, mark = redis_key(prefix, key, partition), mark_key(prefix, key.space, partition)
    if key.space is Space.GENERIC:
        return Location(key, partition, redis, mark, key.text, key.text)
    return Location(key, partition, redis, mark, key.subject, facet_floor(key.subject, key.facet))


def facet_floor(instrument: int, facet: int) -> int:
    """Under which a facet of an instrument (its hash) has its floor; two that share one only wait for each other.

    Their hashes differ in the last four bits alone then, and so do their facets, which every row tells.
    """
    return instrument ^ facet


def market_key(instrument: str, facet: int) -> str:
    """The key of one facet of an instrument, as people write it."""
    return f"{MARKET_NAMESPACE}:{instrument}:{FACETS[facet]}"


@lru_cache(maxsize=1024)
def stem(prefix: str, space: Space, partition: int) -> str:
    """What all Redis keys of one partition start with; the braces are Redis Cluster's hash tag."""
    return f"{prefix}{space.value}:{{p{partition}}}:"


def redis_key(prefix: str, key: Key, partition: int) -> bytes:
    """Where a key lies in Redis. Market keys drop their own `md:`, because the stem says it already."""
    name = key.text if key.space is Space.GENERIC else key.text[len(MARKET_NAMESPACE) + 1 :]
    return (stem(prefix, key.space, partition) + name).encode()


def facet_keys(prefix: str, instrument: str, partition: int) -> Sequence[bytes]:
    """The Redis keys of all 16 facets of an instrument, by facet number."""
    return tuple(facet_key(prefix, facet, instrument, partition) for facet in range(len(FACETS)))


def facet_key(prefix: str, facet: int, instrument: str, partition: int) -> bytes:
    """The Redis key of one facet of an instrument."""
    return f"{stem(prefix, Space.MARKET, partition)}{instrument}:{FACETS[facet]}".encode()


@lru_cache(maxsize=1024)  # one object a partition: each place has it
def mark_key(prefix: str, space: Space, partition: int) -> bytes:
    return (stem(prefix, space, partition) + MARK).encode()


def floors_key(prefix: str, partition: int) -> bytes:
    return (stem(prefix, Space.GENERIC, partition) + FLOORS).encode()
