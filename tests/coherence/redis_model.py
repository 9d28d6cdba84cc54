"""A Redis that keeps strings and hashes, drops what has expired, and runs the function library: `functions.lua` said
again in Python. `test_redis_model.py` holds the two against each other."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

ROW = 80
ZERO = bytes(8)
LAST, REWRITE = 1, 2

Value = bytes | dict[bytes, bytes]


class _Mark:
    """Numbers as 8 bytes, big-endian and not negative: they compare as bytes do."""

    __slots__ = ("floors", "token", "version", "watermark", "written")

    def __init__(self, data: bytes | None) -> None:
        if data is None or len(data) != 40:
            data = bytes(40)
        self.token, self.version, self.watermark, self.written, self.floors = (
            data[at : at + 8] for at in range(0, 40, 8)
        )

    def pack(self) -> bytes:
        return self.token + self.version + self.watermark + self.written + self.floors


class RedisModel:
    """Args: now_ms: the server's clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.values: dict[bytes, Value] = {}
        self.expires_ms: dict[bytes, int] = {}
        self.has_functions = False

    # -- what tests do to a server

    def snapshot(self) -> tuple[Any, ...]:
        return copy.deepcopy((self.values, self.expires_ms, self.has_functions))

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        self.values, self.expires_ms, self.has_functions = copy.deepcopy(snapshot)

    def lose_all(self) -> None:
        self.values, self.expires_ms, self.has_functions = {}, {}, False

    def live(self) -> dict[bytes, Value]:
        """Everything that has not expired."""
        for key in list(self.values):
            self._value(key)
        return self.values

    # -- commands

    def execute(self, command: Sequence[bytes]) -> Any:
        """The reply; an error reply is an exception as a value, as the client gives it."""
        name, *args = command
        try:
            match name.upper():
                case b"GET":
                    return self._string(args[0])
                case b"MGET":
                    return [value if isinstance(value := self._value(key), bytes) else None for key in args]
                case b"HGETALL":
                    return dict(self._hash(args[0]) or {})
                case b"SCAN":
                    return [0, sorted(self.live())]
                case b"FUNCTION":
                    self.has_functions = True
                    return None
                case b"FCALL":
                    if not self.has_functions:
                        return ResponseError("ERR Function not found")
                    n_keys = int(args[1])
                    return _FUNCTIONS[args[0]](self, args[2 : 2 + n_keys], args[2 + n_keys :])
        except ResponseError as exc:
            return exc
        raise AssertionError(f"the model has no {name!r}")

    def _value(self, key: bytes) -> Value | None:
        if key in self.expires_ms and self.expires_ms[key] <= self._now_ms():
            self.delete(key)
        return self.values.get(key)

    def _string(self, key: bytes) -> bytes | None:
        value = self._value(key)
        if isinstance(value, dict):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def _hash(self, key: bytes) -> dict[bytes, bytes] | None:
        value = self._value(key)
        if isinstance(value, bytes):
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        return value

    def set(self, key: bytes, value: Value, expires_ms: int | None = None) -> None:
        self.values[key] = value
        self.expires_ms.pop(key, None)
        if expires_ms is not None:
            self.expires_ms[key] = expires_ms
            self._value(key)

    def delete(self, key: bytes) -> int:
        self.expires_ms.pop(key, None)
        return 0 if self.values.pop(key, None) is None else 1

    # -- the function library

    def _apply(self, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        token, start, to, watermark, now, flags, rows = args[:7]
        last, rewrite = int(flags) % 2 == LAST, int(flags) >= REWRITE
        mark = _Mark(self._string(keys[0]))
        if token < mark.token:
            return [b"FENCED", mark.token]
        n_rows = len(rows) // ROW
        row_keys, update_keys, updates = keys[1 : 1 + n_rows], keys[1 + n_rows :], args[7:]
        save, answer = mark.token != token, None
        if rewrite:
            if to < mark.version:
                mark.version, mark.watermark, save = to, watermark, True
        elif not mark.version < to:
            answer = b"STALE"
        elif mark.version < start:
            answer = b"GAP"
        for key, update in zip(update_keys, updates, strict=True):
            if answer is None and update[:1] == b"B" and not self._book_fits(key, update, token, start):
                answer = b"GAP"
        if answer is not None:
            self._take_over(keys[0], mark, token)
            return [answer, mark.version]
        mark.token = token
        written, floors = 0, mark.floors
        for nth, key in enumerate(row_keys):
            written += self._put_newer(key, rows[nth * ROW : (nth + 1) * ROW])
        for key, update in zip(update_keys, updates, strict=True):
            written += self._update(key, update, mark)
        if last:
            mark.version, mark.watermark, mark.written = to, max(mark.watermark, watermark), now
        if last or save or mark.floors != floors:
            self.set(keys[0], mark.pack())
        return [b"OK", written]

    def _heartbeat(self, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        token, version, watermark, now = args
        mark = _Mark(self._string(keys[0]))
        if token < mark.token:
            return [b"FENCED", mark.token]
        if mark.version != version:
            self._take_over(keys[0], mark, token)
            return [b"GAP" if mark.version < version else b"STALE", mark.version]
        mark.token, mark.watermark, mark.written = token, max(mark.watermark, watermark), now
        self.set(keys[0], mark.pack())
        return [b"OK", 0]

    def _take(self, keys: Sequence[bytes], args: Sequence[bytes]) -> list[Any]:
        token, now, reset = args
        mark = _Mark(self._string(keys[0]))
        if token < mark.token:
            return [b"FENCED", mark.token]
        mark.token, mark.written = token, now
        if reset == b"1":
            mark.version = mark.watermark = ZERO
        self.set(keys[0], mark.pack())
        return [b"OK", mark.pack()]

    def _take_over(self, key: bytes, mark: _Mark, token: bytes) -> None:
        if mark.token != token:
            mark.token = token
            self.set(key, mark.pack())

    def _put_newer(self, key: bytes, value: bytes, expires_ms: int | None = None) -> int:
        stored = (self._string(key) or b"")[:8]
        if stored != b"" and not stored < value[:8]:
            return 0
        self.set(key, value, expires_ms)
        return 1

    def _update(self, key: bytes, update: bytes, mark: _Mark) -> int:
        match update[:1]:
            case b"S":
                return self._put_newer(key, update[1:])
            case b"P":
                return self._put_newer(key, update[9:], int.from_bytes(update[1:9], "big"))
            case b"D":
                value = self._value(key)
                stored = (value.get(b"h", b"") if isinstance(value, dict) else value or b"")[:8]
                return 0 if stored == b"" or update[1:9] < stored else self.delete(key)
            case b"B":
                return self._put_book(key, update, mark.token)
            case b"F":
                version, field = update[1:9], update[9:]
                fields = self._hash(key) or {}
                if field in fields and not fields[field] < version:
                    return 0
                self.set(key, fields | {field: version})
                mark.floors = max(mark.floors, version)
                return 1
        raise AssertionError(f"no update {update[:1]!r}")

    def _book_fits(self, key: bytes, update: bytes, token: bytes, start: bytes) -> bool:
        full, head, *_ = _book_parts(update)
        if full:
            return True
        stored = self._hash(key) or {}
        if b"h" not in stored:
            return False
        version = stored[b"h"][:8]
        return not version < head[:8] or (stored.get(b"o") == token and version < start)

    def _put_book(self, key: bytes, update: bytes, token: bytes) -> int:
        full, head, at, n_changed, n_dropped = _book_parts(update)
        fields = dict(self._hash(key) or {})
        stored, version = fields.get(b"h", b"")[:8], head[:8]
        if stored != b"" and (version < stored if full else not stored < version):
            return 0
        if full:
            fields = {}
        fields |= {b"h": head, b"o": token}
        for _ in range(n_changed):
            (n_bytes,) = struct.unpack_from("<I", update, at + 4)
            fields[update[at : at + 4]] = update[at + 8 : at + 8 + n_bytes]
            at += 8 + n_bytes
        for _ in range(n_dropped):
            fields.pop(update[at : at + 4], None)
            at += 4
        self.set(key, fields)
        return 1


def _book_parts(update: bytes) -> tuple[bool, bytes, int, int, int]:
    full, head_bytes, n_changed, n_dropped = struct.unpack_from("<B3I", update, 1)
    return full == 1, update[14 : 14 + head_bytes], 14 + head_bytes, n_changed, n_dropped


_FUNCTIONS: dict[bytes, Callable[[RedisModel, Sequence[bytes], Sequence[bytes]], list[Any]]] = {
    b"mp_apply": RedisModel._apply,
    b"mp_heartbeat": RedisModel._heartbeat,
    b"mp_take": RedisModel._take,
}
