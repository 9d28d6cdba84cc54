"""Instruments: `venue.market_type.BASE-QUOTE`, named on the wire by a 64-bit hash of that text."""

from __future__ import annotations

import re
import struct
from hashlib import blake2b

import msgspec
import numpy as np

from models.errors import InvalidInstrument

MARKET_TYPES = ("spot", "perpetual", "futures", "options")
DEFAULT_EXPONENT = -9
SMALL_PRICE_SIZE_EXPONENT = -2  # sizes of coins priced below 0.01 are huge: nine decimals would overflow int64
MONEY_EXPONENT = -2  # totals in money (open interest in USD)

# One entry of a frame's own list, as it is in memory; the rows' instrument_id is the index into it.
INSTRUMENT_REF = np.dtype([("hash", "<u8"), ("price_exp", "i1"), ("size_exp", "i1"), ("pad", "V6")])

_VENUE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PAIR = r"[A-Z0-9]{1,20}-[A-Z0-9]{1,12}"
_SYMBOL = {
    "spot": re.compile(_PAIR),
    "perpetual": re.compile(_PAIR),
    "futures": re.compile(_PAIR + r"(-[0-9]{6})?"),
    "options": re.compile(_PAIR + r"-[0-9]{6}-[0-9]{1,12}(\.[0-9]{1,9})?-[CP]"),
}
_FORM = {"futures": "BASE-QUOTE[-YYMMDD]", "options": "BASE-QUOTE-YYMMDD-STRIKE-C|P"}


class Instrument(msgspec.Struct, frozen=True):
    """One instrument's definition, the record of `md.instruments.v1` (JSON, key = `text`).

    Exponents never change for a text (protocol rule 7). `implicit` marks a definition made from the first tick seen.
    """

    venue: str
    market_type: str
    symbol: str
    price_exp: int = DEFAULT_EXPONENT
    size_exp: int = DEFAULT_EXPONENT
    tick: str | None = None  # price increment as a decimal string, None = unknown
    implicit: bool = False

    @property
    def text(self) -> str:
        return f"{self.venue}.{self.market_type}.{self.symbol}"

    @property
    def hash(self) -> int:
        return instrument_hash(self.text)


def instrument_hash(text: str) -> int:
    """Unsigned 64-bit name of an instrument: the first 8 bytes of BLAKE2b, little-endian (RFC 7693). Never 0."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def validate(venue: str, market_type: str, symbol: str) -> None:
    """Check the grammar of an instrument's three parts.

    Raises:
        InvalidInstrument: names the part and the form that is expected; `args[1]` is `bad_market` or `bad_symbol`.
    """
    if not _VENUE.fullmatch(venue):
        raise InvalidInstrument(f"venue {venue!r} must be lower-case letters, digits, - or _", "bad_market")
    if market_type not in _SYMBOL:
        raise InvalidInstrument(f"market type {market_type!r} is none of {', '.join(MARKET_TYPES)}", "bad_market")
    if not _SYMBOL[market_type].fullmatch(symbol):
        form = _FORM.get(market_type, "BASE-QUOTE")
        raise InvalidInstrument(f"symbol {symbol!r} is not {form} in upper case ({market_type})", "bad_symbol")


def parse(text: str) -> Instrument:
    """Split `venue.market_type.SYMBOL` (the symbol may hold dots) into an instrument with default exponents.

    Raises:
        InvalidInstrument: the text is not of that form.
    """
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise InvalidInstrument(f"instrument {text!r} is not venue.market_type.BASE-QUOTE", "bad_symbol")
    venue, market_type, symbol = parts
    validate(venue, market_type, symbol)
    return Instrument(venue, market_type, symbol)


def murmur2(data: bytes) -> int:
    """Unsigned 32-bit MurmurHash2 with Kafka's seed, as `org.apache.kafka.common.utils.Utils.murmur2`."""
    length, m, mask = len(data), 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ length) & mask
    whole = length & ~3
    for word in struct.unpack_from(f"<{whole // 4}I", data):
        k = word * m & mask
        h = (h * m & mask) ^ ((k ^ (k >> 24)) * m & mask)
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def partition_of(key: str | bytes, n_partitions: int) -> int:
    """Partition that Kafka's own default partitioner gives this key."""
    return (murmur2(key.encode() if isinstance(key, str) else key) & 0x7FFFFFFF) % n_partitions


def encode_definition(instrument: Instrument) -> bytes:
    return msgspec.json.encode(instrument)


def decode_definition(data: bytes) -> Instrument:
    """Raises: InvalidInstrument when the record is not a definition or breaks the grammar."""
    try:
        instrument = msgspec.json.decode(data, type=Instrument)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidInstrument(f"not an instrument definition: {exc}", "bad_symbol") from exc
    validate(instrument.venue, instrument.market_type, instrument.symbol)
    return instrument
