"""Instants on the command line: a date and a time, a time of the first day, or nanoseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time

import click

_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?")
_S = 10**9


class Instant(click.ParamType):
    """`2013-10-10T14:30`, `14:30:05.25` or ns since 1970, all UTC; `resolve` makes ns of what was given."""

    name = "instant"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            resolve(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no instant: give 2013-10-10T14:30, 14:30:05.25 or ns since 1970 (UTC)", param, ctx)
        return value


def resolve(text: str, first_ns: int) -> int:
    """ns UTC; a time without a date is one of the day of `first_ns`. Raises: ValueError."""
    if text.isdecimal():
        return int(text)
    if _CLOCK.fullmatch(text):
        day = datetime.fromtimestamp(first_ns // _S, UTC).date()
        at = datetime.combine(day, time.fromisoformat(text.rjust(len(text) + (text[1] == ":"), "0")))
    else:
        at = datetime.fromisoformat(text)
    at = at.replace(tzinfo=at.tzinfo or UTC)
    return int(at.replace(microsecond=0).timestamp()) * _S + at.microsecond * 1000
