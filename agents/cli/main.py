"""`marketprism`: one command a module, imported only when it is called, so that `--help` is instant."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

import click

from models.errors import MarketPrismError

# command -> (module, attribute, help); the module is loaded when the command runs
COMMANDS = {
    "demo": ("agents.cli.demo", "demo", "A generated market day through everything, with a table at the end."),
    "up": ("agents.cli.services", "up", "Start a local Kafka and Redis as ordinary processes."),
    "down": ("agents.cli.services", "down", "Stop what `up` started."),
    "status": ("agents.cli.services", "status", "Say whether the local services answer."),
    "worker": ("agents.cli.worker", "worker", "Run a worker: tables, Redis, invalidations."),
    "publish": ("agents.cli.publish", "publish", "Publish ticks from NDJSON, CSV or Parquet."),
    "invalidations": ("agents.cli.invalidations", "invalidations", "Follow what changes, gaps reported."),
    "get": ("agents.cli.cache", "get", "Read a key."),
    "put": ("agents.cli.cache", "put", "Write a generic key."),
    "watch": ("agents.cli.cache", "watch", "Print a key each time it changes."),
    "day": ("agents.cli.day", "day", "Import, generate, inspect and verify days."),
    "replay": ("agents.cli.replay", "replay", "Replay recorded days at any speed."),
    "simulate": ("agents.cli.simulate", "simulate_command", "Hit ratio of eviction policies on a recorded trace."),
    "dead": ("agents.cli.dead", "dead", "List refused records, or resubmit them."),
    "bench": ("agents.cli.bench", "bench", "Measure; each scenario prints a table or JSON."),
    "settings": ("agents.cli.settings", "settings", "Effective settings and where each came from."),
    "topics": ("agents.cli.topics", "topics", "List topics, or create the missing ones."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="marketprism")
def cli() -> None:
    """A market-data cache in which every value carries the Kafka offset that made it."""


def main() -> None:
    """Exit 0 done, 1 failed with one clear line on stderr, 2 wrong use."""
    # libraries tell each failed attempt to stderr where nobody set up logging; the one clear line is ours
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except MarketPrismError as exc:
        click.echo(f"marketprism: {exc}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
