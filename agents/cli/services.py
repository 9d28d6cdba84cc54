"""`marketprism up | down | status`: the local Kafka and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
from rich.console import Console

from agents.cli.output import echo_json, json_option, print_table
from models.errors import ServiceUnavailable
from streams.services import LocalSite, ServiceStatus
from streams.services.site import Say
from streams.settings import Settings, load_settings


@click.command()
@click.option("--fresh", is_flag=True, help="Stop them first and start with empty ones.")
@click.option("--fetch-only", is_flag=True, help="Download what a start needs, start nothing.")
@json_option
def up(fresh: bool, fetch_only: bool, as_json: bool) -> None:
    """Start a local Kafka and Redis as ordinary processes, without Docker and without root.

    The first start fetches Kafka (43 MB). Data stays in the state folder until --fresh; a second `up` is harmless.

    \b
    Example:
      marketprism up
      MARKETPRISM_SERVICES__REDIS_PORT=26379 marketprism up --json
    """
    settings = load_settings()
    with _progress(quiet=as_json) as say:
        site = LocalSite(settings.services, say=say)
        if fetch_only:
            jars = site.fetch()
        else:
            statuses = site.up(fresh=fresh)
    if fetch_only:
        echo_json({"jars": str(jars)}) if as_json else click.echo(f"Kafka is in {jars}")
        return
    if as_json:
        echo_json({**asdict(site.addresses), **_report(statuses)})
        return
    _print(statuses)
    click.echo(_next_step(settings, site))


@click.command()
@json_option
def down(as_json: bool) -> None:
    """Stop what `up` started, and nothing else; the data stays.

    \b
    Example:
      marketprism down
    """
    settings = load_settings()
    with _progress(quiet=as_json) as say:
        say("stopping")
        stopped = LocalSite(settings.services).down()
    if as_json:
        echo_json({"stopped": stopped})
    else:
        click.echo(f"stopped {' and '.join(stopped)}" if stopped else "nothing was running here")


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Say whether the local services answer; exit 1 when one does not.

    \b
    Example:
      marketprism status --json
    """
    statuses = LocalSite(load_settings().services).status()
    if as_json:
        echo_json(_report(statuses))
    else:
        _print(statuses)
    if silent := [service.name for service in statuses if not service.answers]:
        raise ServiceUnavailable(f"{' and '.join(silent)} did not answer; start with `marketprism up`")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Say]:
    """A spinner on a terminal, plain lines where stderr is a file, nothing for machines."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        yield lambda text: console.print(text, highlight=False)
        return
    with console.status("starting") as spinner:
        yield spinner.update


def _report(statuses: tuple[ServiceStatus, ...]) -> dict[str, object]:
    services = {service.name.lower(): asdict(service) for service in statuses}
    return {"ok": all(service.answers for service in statuses), **services}


def _print(statuses: tuple[ServiceStatus, ...]) -> None:
    rows = [
        (service.name, service.address, "yes" if service.answers else "no", service.pid or _whose(service))
        for service in statuses
    ]
    print_table("Local services", ("service", "address", "answers", "#pid"), rows)


def _whose(service: ServiceStatus) -> str:
    return "not started here" if service.answers else "-"


def _next_step(settings: Settings, site: LocalSite) -> str:
    """What to type now; with the variables that point the other commands here, where the settings point elsewhere."""
    wanted = {
        "MARKETPRISM_KAFKA__BOOTSTRAP": (settings.kafka.bootstrap, site.addresses.bootstrap),
        "MARKETPRISM_REDIS__URL": (settings.redis.url, site.addresses.redis_url),
    }
    moved = [f"{name}={here}" for name, (configured, here) in wanted.items() if configured != here]
    if moved:
        return f"next: export {' '.join(moved)}; marketprism worker   (stop the services with: marketprism down)"
    return "next: marketprism worker   (stop the services with: marketprism down)"
