"""A key for a call: the arguments' types and contents in bytes that can be read in one way only, hashed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any
from uuid import UUID

from models.errors import UnkeyableArgument

_DIGEST_BYTES = 16  # of 2**64 calls some two share a key
_MAX_DEPTH = 32


def call_key(namespace: str, name: str, arguments: Mapping[str, Any]) -> str:
    """`namespace:name:digest`, the same in every process.

    Args:
        name: of the function.
        arguments: by parameter, all of them, defaults included: then `f(1)`, `f(x=1)` and keywords in any order are
            one call.

    Raises:
        UnkeyableArgument: an argument has neither a known type nor `__cache_key__()`; the message names it.
    """
    parts = []
    for parameter, value in sorted(arguments.items()):
        try:
            parts += [_text(parameter), encode(value)]
        except UnkeyableArgument as exc:
            raise UnkeyableArgument(f"{name}: argument {parameter!r}: {exc}") from exc
    digest = blake2b(_sized(b"call", [_text(name), *parts]), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{namespace}:{name}:{digest}"


def encode(value: Any, depth: int = 0) -> bytes:
    """Type and content: every part begins with its kind and its length, so nothing can be cut in another way.

    1, 1.0, True and "1" differ, and so do a list and a tuple, 0.0 and -0.0. Dicts and sets are equal in any order. An
    object of any other type may have `__cache_key__()`, which returns one of the types known here.

    Raises:
        UnkeyableArgument: a type that is not known, or more than 32 levels.
    """
    if depth > _MAX_DEPTH:
        raise UnkeyableArgument(f"it is nested more than {_MAX_DEPTH} levels deep")
    kind = type(value)
    if kind in _SIMPLE:
        return _sized(kind.__name__.encode(), [_SIMPLE[kind](value)])
    if kind in (list, tuple):
        return _sized(kind.__name__.encode(), [encode(item, depth + 1) for item in value])
    if kind in (set, frozenset):
        return _sized(b"set", sorted(encode(item, depth + 1) for item in value))
    if kind is dict:
        items = sorted((encode(key, depth + 1), encode(item, depth + 1)) for key, item in value.items())
        return _sized(b"dict", [part for item in items for part in item])
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, Enum):
        return _sized(b"enum", [_text(name), _text(value.name)])
    if (own := getattr(value, "__cache_key__", None)) is not None:
        return _sized(b"object", [_text(name), encode(own(), depth + 1)])
    raise UnkeyableArgument(
        f"a {name} has no key: pass plain values, give it `__cache_key__()`, or give `cached` a `key` function"
    )


def _sized(kind: bytes, parts: list[bytes]) -> bytes:
    body = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return struct.pack("<BQ", len(kind), len(parts)) + kind + body


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _instant(value: datetime | time) -> bytes:
    return f"{value.isoformat()}|{value.fold}".encode()


_SIMPLE: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"",
    bool: lambda value: b"\1" if value else b"\0",
    int: lambda value: str(value).encode(),
    float: lambda value: struct.pack("<d", value),
    complex: lambda value: struct.pack("<dd", value.real, value.imag),
    str: _text,
    bytes: bytes,
    Decimal: lambda value: str(value).encode(),
    UUID: lambda value: bytes(value.bytes),
    datetime: _instant,
    time: _instant,
    date: lambda value: value.isoformat().encode(),
    timedelta: lambda value: f"{value.days},{value.seconds},{value.microseconds}".encode(),
}
