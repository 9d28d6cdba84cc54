"""Log lines: an event, its fields, nothing secret."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from streams.log import event, setup_logging
from streams.settings import LogSettings


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level


def test_a_json_line_holds_the_event_and_its_fields(out: io.StringIO) -> None:
    setup_logging(LogSettings(format="json"), out)
    event(logging.getLogger("streams.x"), "record_refused", level=logging.WARNING, partition=3, key="session:1")
    line = orjson.loads(out.getvalue())
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "streams.x",
        "event": "record_refused",
        "partition": 3,
        "key": "session:1",
    }


def test_a_plain_line_holds_the_event_and_its_fields(out: io.StringIO) -> None:
    setup_logging(LogSettings(), out)
    event(logging.getLogger("streams.x"), "record_refused", partition=3)
    assert out.getvalue().endswith("INFO    streams.x record_refused partition=3\n")


def test_secrets_are_masked(out: io.StringIO) -> None:
    setup_logging(LogSettings(format="json"), out)
    event(logging.getLogger("streams.x"), "connected", password="hunter2", url="redis://:hunter2@h:1", token=7)
    line = orjson.loads(out.getvalue())
    assert (line["password"], line["url"], line["token"]) == ("***", "redis://:***@h:1", 7)


def test_an_exception_comes_with_its_traceback_on_one_json_line(out: io.StringIO) -> None:
    setup_logging(LogSettings(format="json"), out)
    try:
        raise RuntimeError("lost")
    except RuntimeError:
        event(logging.getLogger("streams.x"), "failed", level=logging.ERROR, exc_info=True)
    assert out.getvalue().count("\n") == 1
    assert "RuntimeError: lost" in orjson.loads(out.getvalue())["error"]


def test_debug_records_are_not_even_built_also_in_libraries(out: io.StringIO) -> None:
    logging.getLogger("aiokafka").setLevel(logging.DEBUG)
    setup_logging(LogSettings(), out)
    assert not logging.getLogger("aiokafka.consumer").isEnabledFor(logging.INFO)
    assert not logging.getLogger("streams.x").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("streams.x").isEnabledFor(logging.INFO)
