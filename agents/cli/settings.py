"""`marketprism settings`: what holds in this process, and where each value came from."""

from __future__ import annotations

from pathlib import Path

import click

from agents.cli.output import echo_json, json_option, print_table
from streams.settings import Effective, effective_settings, settings_file


@click.command()
@click.option("--file", type=click.Path(path_type=Path), help="Settings file to read instead of the usual one.")
@json_option
def settings(file: Path | None, as_json: bool) -> None:
    """Effective settings and where each came from; secrets are masked.

    A default is overridden by the settings file (the one MARKETPRISM_FILE names, else ./marketprism.toml), and that by
    the environment.

    \b
    Examples:
      marketprism settings
      MARKETPRISM_KAFKA__PARTITIONS=8 marketprism settings --json
    """
    rows = effective_settings(file=file)
    path = settings_file(file=file)
    if as_json:
        shown = {row.name: {"value": row.shown, "origin": row.origin, "where": row.where} for row in rows}
        echo_json({"file": str(path) if path else None, "settings": shown})
        return
    title = f"Settings (file: {path or 'none'})"
    print_table(title, ["setting", "value", "origin"], [(row.name, row.shown, _origin(row)) for row in rows])


def _origin(row: Effective) -> str:
    return f"{row.origin} {row.where}".strip()
