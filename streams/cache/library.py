"""The function library on the server: its text is its version."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

NAME = "marketprism"


async def load_library(redis: Redis) -> bool:
    """Load `functions.lua` unless the server has just this text; whether it was loaded."""
    listed = await redis.function_list(NAME, withcode=True)
    if _code_of(listed) == source():
        return False
    await redis.function_load(source(), replace=True)
    return True


@cache
def source() -> str:
    return Path(__file__).with_name("functions.lua").read_text(encoding="utf-8")


def _code_of(listed: Any) -> str | None:
    """`library_code` of FUNCTION LIST's reply, a map in RESP3 and a flat list in RESP2."""
    if not listed:
        return None
    first = listed[0]
    fields: dict[Any, Any] = first if isinstance(first, dict) else dict(zip(first[::2], first[1::2], strict=True))
    code = fields.get(b"library_code")
    return code.decode() if isinstance(code, bytes) else code
