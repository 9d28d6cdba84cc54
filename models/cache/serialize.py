"""What a generic value looks like as bytes: msgpack, or one of other forms inside a msgpack extension.

A value as it always was, plain msgpack, stays what it is. Everything else is one msgpack extension of type 77, which
every msgpack library reads; its data is

`version u8 = 1 · form u8 · packing u8 · name length u8 · size u32 little-endian · name · [signature, 32 bytes] · body`

with form 0 msgpack, 1 JSON, 2 protobuf, 3 pickle; packing 0 none, 1 zstd; size = bytes of the body unpacked; name = the
full name of a protobuf message, else empty. Only a pickle has a signature: HMAC-SHA256 over all other bytes of it.
"""

from __future__ import annotations

import hmac
import pickle
import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple, Protocol

import cramjam
import msgspec

from models.errors import UnreadableValue, WriteRefused

Form = Literal["msgpack", "json", "protobuf", "pickle"]

EXTENSION = 77
VERSION = 1
_FORMS: tuple[Form, ...] = ("msgpack", "json", "protobuf", "pickle")  # by number
_PLAIN, _ZSTD = 0, 1
_HEAD = struct.Struct("<4BI")
_SIGNATURE_BYTES = 32
_LEAST_KEY_BYTES = 16
_ZSTD_LEVEL = 3
_EXTENSIONS = frozenset((*range(0xC7, 0xCA), *range(0xD4, 0xD9)))  # first bytes of msgpack's extensions
_NOT_CODED = (TypeError, ValueError, OverflowError, RecursionError)


class Message(Protocol):
    """A protobuf message class, as `protoc` makes it."""

    DESCRIPTOR: Any

    def SerializeToString(self) -> bytes: ...

    @classmethod
    def FromString(cls, data: bytes) -> Any: ...


class _Head(NamedTuple):
    form: Form
    packing: int
    size: int
    name: str
    end: int  # of the name


class Serializer:
    """Encodes values in one form and decodes those of all forms.

    Args:
        form: of what is encoded.
        compress_above: bodies larger than this many bytes are packed with zstd where that makes them smaller; None =
            never.
        messages: protobuf classes that may be met.
        pickle_keys: secrets of at least 16 bytes: the first signs, each may have signed. Without them pickles are
            neither written nor read: whoever can write into a cache could run code in its readers.
        max_bytes: no value is larger unpacked.

    Raises:
        ValueError: pickle without a key, a key that is too short, protobuf without messages.
    """

    def __init__(
        self,
        form: Form = "msgpack",
        *,
        compress_above: int | None = None,
        messages: Iterable[type[Message]] = (),
        pickle_keys: Sequence[bytes] = (),
        max_bytes: int = 16 << 20,
    ) -> None:
        if form == "pickle" and not pickle_keys:
            raise ValueError("pickle needs a signing key: pickle_keys=[secret]")
        if any(len(key) < _LEAST_KEY_BYTES for key in pickle_keys):
            raise ValueError(f"a signing key needs at least {_LEAST_KEY_BYTES} bytes")
        self._messages = {str(message.DESCRIPTOR.full_name): message for message in messages}
        if form == "protobuf" and not self._messages:
            raise ValueError("protobuf needs its message classes: messages=[Quote, ...]")
        self.form: Form = form
        self.compress_above = compress_above
        self.max_bytes = max_bytes
        self._keys = tuple(pickle_keys)

    def __repr__(self) -> str:
        return f"Serializer({self.form!r}, compress_above={self.compress_above})"

    def encode(self, value: Any) -> bytes:
        """msgpack bytes of a value.

        Raises:
            WriteRefused: the form has no bytes for it, or they are more than `max_bytes`.
        """
        name, body = self._body(value)
        size = len(body)
        if size > self.max_bytes:
            raise WriteRefused(f"value of {size} bytes is larger than {self.max_bytes}")
        packing = _PLAIN
        if self.compress_above is not None and size > self.compress_above:
            packed = bytes(cramjam.zstd.compress(body, _ZSTD_LEVEL))
            if len(packed) < size:
                packing, body = _ZSTD, packed
        if self.form == "msgpack" and packing == _PLAIN:
            return body
        encoded_name = name.encode()
        head = _HEAD.pack(VERSION, _FORMS.index(self.form), packing, len(encoded_name), size) + encoded_name
        signature = _sign(self._keys[0], head, body) if self.form == "pickle" else b""
        return msgspec.msgpack.encode(msgspec.msgpack.Ext(EXTENSION, head + signature + body))

    def decode(self, data: bytes) -> Any:
        """The value of such bytes, made anew: changing it changes nothing else.

        Raises:
            UnreadableValue: they are damaged, of a form or version this code or this serializer does not read, too
                large, or a pickle that nobody trusted has signed.
        """
        try:
            value = msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise UnreadableValue("bad_msgpack", str(exc)) from exc
        if data[0] in _EXTENSIONS and isinstance(value, msgspec.msgpack.Ext) and value.code == EXTENSION:
            return self._decode_form(bytes(value.data))
        return value

    def _body(self, value: Any) -> tuple[str, bytes]:
        try:
            match self.form:
                case "msgpack":
                    if isinstance(value, msgspec.msgpack.Ext) and value.code == EXTENSION:
                        raise WriteRefused(f"msgpack extension {EXTENSION} is this project's own")
                    return "", msgspec.msgpack.encode(value)
                case "json":
                    return "", msgspec.json.encode(value)
                case "pickle":
                    return "", pickle.dumps(value, protocol=5)
                case "protobuf":
                    name = str(value.DESCRIPTOR.full_name)
                    if name not in self._messages or len(name) > 255:
                        raise WriteRefused(f"message {name} is not among this serializer's messages")
                    body: bytes = value.SerializeToString()
                    return name, body
        except (*_NOT_CODED, AttributeError, pickle.PicklingError) as exc:
            raise WriteRefused(f"value cannot be encoded as {self.form}: {exc}") from exc

    def _decode_form(self, data: bytes) -> Any:
        head = _read_head(data)
        start = head.end
        if head.form == "pickle":
            signature, start = data[head.end : head.end + _SIGNATURE_BYTES], head.end + _SIGNATURE_BYTES
            self._check(signature, data[: head.end], data[start:])
        body = self._unpacked(head, data[start:])
        try:
            match head.form:
                case "msgpack":
                    return msgspec.msgpack.decode(body)
                case "json":
                    return msgspec.json.decode(body)
                case "pickle":
                    return pickle.loads(body)  # signed by a holder of a key
                case "protobuf":
                    message = self._messages.get(head.name)
                    if message is None:
                        raise UnreadableValue("unknown_message", f"no class was given for message {head.name!r}")
                    return message.FromString(body)
        except UnreadableValue:
            raise
        except Exception as exc:  # unpickling and protobuf's runtimes raise anything
            raise UnreadableValue("bad_body", f"{head.form}: {type(exc).__name__}: {exc}") from exc

    def _check(self, signature: bytes, head: bytes, body: bytes) -> None:
        if not self._keys:
            raise UnreadableValue("no_key", "a pickle, and this serializer has no key to trust one")
        if not any(hmac.compare_digest(signature, _sign(key, head, body)) for key in self._keys):
            raise UnreadableValue("bad_signature", "a pickle that no holder of a known key has signed")

    def _unpacked(self, head: _Head, body: bytes) -> bytes:
        if head.size > self.max_bytes:
            raise UnreadableValue("too_large", f"a value of {head.size} bytes; at most {self.max_bytes} are read")
        if head.packing == _ZSTD:
            room = bytearray(head.size)  # the most it may become, whatever the packed bytes say
            try:
                n_bytes = cramjam.zstd.decompress_into(body, room)
            except cramjam.DecompressionError as exc:
                raise UnreadableValue("bad_body", f"zstd: {exc}") from exc
            body = bytes(room[:n_bytes])
        if len(body) != head.size:
            raise UnreadableValue("bad_body", f"{len(body)} bytes, but the header says {head.size}")
        return body


def _read_head(data: bytes) -> _Head:
    if len(data) < _HEAD.size or data[0] != VERSION:
        raise UnreadableValue("unknown_version", f"a header of version {data[0] if data else None}, not {VERSION}")
    _, form, packing, n_name, size = _HEAD.unpack_from(data)
    end = _HEAD.size + n_name
    if form >= len(_FORMS) or packing > _ZSTD or len(data) < end:
        raise UnreadableValue("unknown_form", f"form {form}, packing {packing} of {len(data)} bytes")
    return _Head(_FORMS[form], packing, size, data[_HEAD.size : end].decode("utf-8", "replace"), end)


def _sign(key: bytes, head: bytes, body: bytes) -> bytes:
    return hmac.digest(key, head + body, sha256)
