"""What every command shares: one JSON object as the last line, tables, and running a coroutine."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
import uvloop
from rich.console import Console
from rich.table import Table

T = TypeVar("T")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine on uvloop."""
    return uvloop.run(coroutine)


def echo_json(value: object) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode())


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; columns whose name starts with `#` are right-aligned. Nothing is cut: long cells go on below."""
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name.lstrip("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def refuse_existing(out: Path) -> None:
    """Wrong use, before any work is done: something is where `--out` shall be."""
    if out.exists():
        raise click.BadParameter(f"{out} exists already; a day is never overwritten", param_hint="--out")
