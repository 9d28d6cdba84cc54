"""Every command explains itself and ends with the exit codes it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import orjson
import pytest
from click.testing import CliRunner, Result

from agents.cli.main import COMMANDS, cli

NOBODY = {"MARKETPRISM_KAFKA__BOOTSTRAP": "127.0.0.1:1", "MARKETPRISM_REDIS__URL": "redis://127.0.0.1:1/0"}


def command_of(name: str) -> click.Command:
    if find_spec(COMMANDS[name][0]) is None:
        pytest.skip(f"the module of `marketprism {name}` is not there yet")
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


def commands_below(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
    """The command and, for a group, each of its commands, by full name."""
    below = [(name, command)]
    if isinstance(command, click.Group):
        for part, child in command.commands.items():
            below += commands_below(f"{name} {part}", child)
    return below


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="marketprism")


def process(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it: exit codes are made in `main`, around click."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MARKETPRISM_")}
    return subprocess.run(
        [sys.executable, "-c", "from agents.cli.main import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=clean | environment,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_says_what_it_does_and_shows_an_example(name: str) -> None:
    for full_name, command in commands_below(name, command_of(name)):
        result = invoke(*full_name.split(), "--help")
        assert result.exit_code == 0, result.output
        assert command.help, f"`{full_name}` says nothing about itself"
        assert "example" in result.output.lower(), f"`{full_name} --help` has no example"
        assert f"marketprism {full_name}" in result.output.split("xample", 1)[1], f"`{full_name}`: example of another"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_wrong_use(name: str) -> None:
    command_of(name)
    result = invoke(name, "--no-such-option")
    assert result.exit_code == 2
    assert "no-such-option" in result.output


def test_the_overview_lists_every_command_without_loading_it() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.output


def test_an_unknown_command_is_wrong_use() -> None:
    assert invoke("no-such-command").exit_code == 2


@pytest.mark.parametrize("arguments", [["settings", "extra"], ["invalidations", "--from", "yesterday"], ["nothing"]])
def test_wrong_use_exits_2_with_usage_on_stderr(arguments: list[str], tmp_path: Path) -> None:
    done = process(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: " in done.stderr


@pytest.mark.parametrize("arguments", [["topics"], ["topics", "--create", "--json"], ["invalidations", "--json"]])
def test_a_failure_exits_1_with_one_line_that_says_what_to_do(arguments: list[str], tmp_path: Path) -> None:
    done = process(*arguments, folder=tmp_path, **NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("marketprism: ") and done.stderr.count("\n") == 1
    assert "127.0.0.1:1 " in done.stderr and "marketprism up" in done.stderr


def test_settings_shows_values_origins_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / "marketprism.toml").write_text("[kafka]\npartitions = 8\n")
    url = "redis://:hunter2@127.0.0.1:1/0"
    done = process("settings", "--json", folder=tmp_path, MARKETPRISM_REDIS__URL=url)
    assert done.returncode == 0, done.stderr
    shown = orjson.loads(done.stdout.splitlines()[-1])
    assert shown["file"] == "marketprism.toml"
    assert shown["settings"]["kafka.partitions"] == {"value": 8, "origin": "file", "where": "marketprism.toml"}
    assert shown["settings"]["redis.url"]["value"] == "redis://:***@127.0.0.1:1/0"
    assert shown["settings"]["redis.url"]["origin"] == "environment"
    assert shown["settings"]["kafka.bootstrap"]["origin"] == "default"
    assert "hunter2" not in process("settings", folder=tmp_path, MARKETPRISM_REDIS__URL=url).stdout


def test_a_wrong_setting_stops_a_command_with_one_line(tmp_path: Path) -> None:
    done = process("topics", folder=tmp_path, MARKETPRISM_KAFKA__PARTITONS="8")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "did you mean MARKETPRISM_KAFKA__PARTITIONS?" in done.stderr
