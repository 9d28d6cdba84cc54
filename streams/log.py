"""Logs of a process: an event name and fields, a plain or a JSON line each, on stderr.

log = logging.getLogger(__name__)
event(log, "record_refused", partition=3, offset=17, reason="bad_frame")
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from streams.settings import LogSettings, masked_url

FIELDS = "marketprism_fields"  # the attribute of a LogRecord that holds the fields
# Narrower than the names that settings mask: here `key` is a cache key and `token` an owner's.
_SECRET = re.compile("password|passwd|secret|credential|api_?key|private_?key|bearer", re.IGNORECASE)
# Libraries that log each reconnection attempt or rebalance step: what matters of it arrives as our own event.
_TALKATIVE = ("aiokafka", "asyncio", "faust", "mode", "numba", "rocksdict", "urllib3")
# They call each topic that was just made an ERROR until its leader is known, and retry; what stays wrong is raised.
_CRIES_WOLF = ("aiokafka.cluster", "aiokafka.consumer.fetcher")


def event(log: logging.Logger, name: str, *, level: int = logging.INFO, exc_info: bool = False, **fields: Any) -> None:
    """Log `name` (lower_snake_case, the same for each occurrence) with fields; secrets among them are masked."""
    if log.isEnabledFor(level):
        extra = {FIELDS: {key: _shown(key, value) for key, value in fields.items()}}
        log.log(level, name, exc_info=exc_info, extra=extra, stacklevel=2)


def setup_logging(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send the process's logs to `stream` (stderr) in the format of `settings`; replaces handlers set up before.

    Also levels loggers that were left at DEBUG: building records that nobody reads cost 10 % of a worker's CPU.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING if settings.level == "INFO" else settings.level)
    for name in _CRIES_WOLF:
        logging.getLogger(name).setLevel(logging.CRITICAL)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts level logger event`, the fields, and `error` with the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in _fields(record).items() if key not in line}
        if record.exc_info:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(line, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


class PlainFormatter(logging.Formatter):
    """For people: `time level logger event key=value`, a traceback on the lines after it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{_timestamp(record)} {record.levelname:<7} {record.name} {record.getMessage()}{fields}"
        return line + ("\n" + "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else "")


def _shown(name: str, value: Any) -> Any:
    if _SECRET.search(name):
        return "***"
    return masked_url(value) if isinstance(value, str) else value


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, FIELDS, {})
    return fields


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
