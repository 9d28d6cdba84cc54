"""`marketprism bench`: one scenario a module of `agents.bench`, imported only when it runs."""

from __future__ import annotations

from importlib import import_module

import click

# scenario -> help; its module has the click command `command`
SCENARIOS = {
    "worker": "CPU of the worker per tick, out of a full log.",
    "latency": "From publishing a tick to another process's memory, paced.",
    "gateway": "CPU of the worker per JSON record, out of a full log.",
    "instruments": "What more instruments cost: CPU, changelog, disk, memory.",
    "recovery": "Seconds from `kill -9` of the worker until its successor serves.",
    "handover": "Seconds until another worker serves: after `kill -9`, after SIGTERM.",
    "soak": "Memory and event loop of a worker at full speed for long.",
    "peers": "Ticks per CPU second against Quix Streams and Bytewax.",
    "cache": "A hit beside other caches, Redis reads, tiers that agree.",
    "readers": "Late answers to thousands of open sessions, over memory and Redis.",
    "replay": "CPU of replaying a day at full speed, and lateness at a pace.",
}


class _Scenarios(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SCENARIOS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SCENARIOS:
            return None
        command: click.Command = import_module(f"agents.bench.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Scenarios"):
            formatter.write_dl(list(SCENARIOS.items()))


@click.group(cls=_Scenarios, subcommand_metavar="NAME [OPTIONS]")
def bench() -> None:
    """Measure, several times over, on services of its own; each scenario checks that the work was done right.

    \b
    Example:
      marketprism bench worker --runs 5 --json --out results
    """
