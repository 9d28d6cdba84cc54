"""`cache.writes.v1`: one write to the generic namespaces, with the bounds that producer and worker both check."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from models.cache.keys import MARKET_NAMESPACE, Space, parse_key
from models.cache.version import NOTHING
from models.errors import InvalidKey, WriteRefused

MAX_VALUE_BYTES = 1 << 20
MAX_TAGS = 16
MAX_TAG_BYTES = 128
MAX_TTL_MS = 10 * 366 * 86_400_000  # ten years: an expiry instant stays far inside 53 bits, which Redis' Lua needs

MAX_COUNT = (1 << 63) - 1  # an incremented number stays within a signed 64-bit integer

Op = Literal["put", "delete", "delete_tag", "clear", "fill", "incr", "put_if"]
_OPS_OF_A_KEY = frozenset({"put", "delete", "fill", "incr", "put_if"})


class CacheWrite(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record; fields that an op does not use keep their defaults, which are left out on the wire.

    `put_if` is a put that counts only if the key has the version `base`; `fill` is a loader's put, dropped if anything
    newer than `base` touched the key, one of its tags or its namespace (rule 10); `incr` adds to a whole number.

    Attributes:
        op: `clear` with namespace None is flush-all.
        key: of all but delete_tag and clear.
        value: msgpack bytes of what put, fill and put_if write.
        ttl_ms: life from the record's log-append time, at least 1; None = no end (not for tagged entries). Of an incr:
            only if it creates the key; a number that is there keeps its life.
        tags: of put, fill and put_if.
        tag: of delete_tag.
        namespace: of clear.
        by: of incr; a signed 64-bit integer.
        base: of put_if: the version that the key must have, -1 = it must have none. Of fill: the version up to which
            the loader knew all writes when it began.
        reply: of incr and put_if: what became of it is left in Redis for a short while (docs/wire.md).
    """

    op: Op
    key: str = ""
    value: bytes = b""
    ttl_ms: int | None = None
    tags: tuple[str, ...] = ()
    tag: str = ""
    namespace: str | None = None
    by: int = 0
    base: int = NOTHING
    reply: bool = False

    @property
    def has_key(self) -> bool:
        """Whether it concerns one key, and so one partition."""
        return self.op in _OPS_OF_A_KEY


_DECODER = msgspec.msgpack.Decoder(CacheWrite)
_ENCODER = msgspec.msgpack.Encoder()


def encode_write(write: CacheWrite) -> bytes:
    """Raises: WriteRefused when the write breaks a bound (see `check`)."""
    check(write)
    return _ENCODER.encode(write)


def decode_write(data: bytes) -> CacheWrite:
    """Raises: WriteRefused (reason `bad_write`) when bytes are not a write, or it breaks a bound."""
    try:
        write = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise WriteRefused(f"not a cache write: {exc}") from exc
    check(write)
    return write


def check(write: CacheWrite) -> None:
    """The bounds of docs/wire.md.

    Raises:
        WriteRefused: the message names the field and its bound.
    """
    if write.has_key:
        _check_key(write.key)
    if write.op in ("put", "fill", "put_if"):
        _check_put(write)
    elif write.op == "incr":
        _check_incr(write)
    elif write.op == "delete_tag":
        _check_tag(write.tag)
    elif write.op == "clear" and write.namespace is not None:
        _check_key(write.namespace + ":*")


def encode_value(value: Any) -> bytes:
    """msgpack bytes of a user's value.

    Raises:
        WriteRefused: it is not made of msgpack's types.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise WriteRefused(f"value cannot be encoded as msgpack: {exc}") from exc


def _check_key(text: str) -> None:
    try:
        key = parse_key(text)
    except (InvalidKey, UnicodeEncodeError) as exc:
        raise WriteRefused(str(exc)) from exc
    if key.space is Space.MARKET:
        raise WriteRefused(f"key {text!r}: the namespace {MARKET_NAMESPACE} is written by the market alone")


def _check_put(write: CacheWrite) -> None:
    if not write.value:
        raise WriteRefused(f"a {write.op} needs a value: at least one byte of msgpack")
    if len(write.value) > MAX_VALUE_BYTES:
        raise WriteRefused(f"value of {len(write.value)} bytes is larger than {MAX_VALUE_BYTES}")
    if write.base < NOTHING:
        raise WriteRefused(f"base {write.base} is neither a version nor {NOTHING}")
    _check_ttl(write.ttl_ms)
    if len(write.tags) > MAX_TAGS:
        raise WriteRefused(f"{len(write.tags)} tags are more than {MAX_TAGS}")
    if write.tags and write.ttl_ms is None:
        # Rule 13: a tag's floor lives as long as the longest entry that carries it.
        raise WriteRefused("a tagged entry needs a ttl_ms")
    for tag in write.tags:
        _check_tag(tag)


def _check_incr(write: CacheWrite) -> None:
    if not -MAX_COUNT - 1 <= write.by <= MAX_COUNT:
        raise WriteRefused(f"an incr by {write.by} is not a signed 64-bit integer")
    _check_ttl(write.ttl_ms)


def _check_ttl(ttl_ms: int | None) -> None:
    if ttl_ms is not None and not 1 <= ttl_ms <= MAX_TTL_MS:
        raise WriteRefused(f"ttl_ms {ttl_ms} is not between 1 and {MAX_TTL_MS}")


def _check_tag(tag: str) -> None:
    if not 1 <= len(tag.encode("utf-8", "replace")) <= MAX_TAG_BYTES or not tag.isprintable():
        raise WriteRefused(f"tag {tag[:40]!r} is not 1 to {MAX_TAG_BYTES} printable bytes")
