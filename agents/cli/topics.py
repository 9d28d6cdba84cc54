"""`marketprism topics`: the project's topics as the broker has them, and making the missing ones."""

from __future__ import annotations

from typing import Any

import click

from agents.cli.output import echo_json, json_option, print_table, run
from streams.kafka.admin import describe_topics, ensure_topics, topic_configs, topic_offsets
from streams.settings import Settings, load_settings
from streams.topics import TOPICS

_CONFIGS = ("cleanup.policy", "retention.ms", "retention.bytes")


@click.command()
@click.option("--create", is_flag=True, help="Make the missing topics and check the others.")
@json_option
def topics(create: bool, as_json: bool) -> None:
    """List the topics with partitions, policy and rows; with --create make the missing ones first.

    Rows are what the broker still holds. Partitions never change in place.

    \b
    Examples:
      marketprism topics --create
      MARKETPRISM_TOPICS__PREFIX=run.1. marketprism topics --json
    """
    settings = load_settings()
    made, rows = run(_collect(settings, create=create))
    if as_json:
        echo_json({"prefix": settings.topics.prefix, "created": made, "topics": rows})
        return
    print_table(
        f"Topics at {settings.kafka.bootstrap}" + (f", {len(made)} made" if create else ""),
        ["topic", "#partitions", "policy", "#rows", "offsets"],
        [(r["name"], r["partitions"] or "-", _policy(r), r["rows"], _offsets(r)) for r in rows],
    )


async def _collect(settings: Settings, *, create: bool) -> tuple[list[str], list[dict[str, Any]]]:
    made = await ensure_topics(settings) if create else []
    names = [settings.topics.prefix + topic.name for topic in TOPICS]
    states = await describe_topics(settings, names)
    offsets = await topic_offsets(settings, states.values())
    configs = await topic_configs(settings, list(states), _CONFIGS)
    rows = []
    for name in names:
        state, config, spans = states.get(name), configs.get(name, {}), offsets.get(name, [])
        rows.append(
            {
                "name": name,
                "exists": state is not None,
                "id": state.id if state else None,
                "partitions": state.n_partitions if state else 0,
                "replication": state.replication if state else 0,
                "policy": config.get("cleanup.policy"),
                "retention_ms": int(config["retention.ms"]) if "retention.ms" in config else None,
                "retention_bytes": int(config["retention.bytes"]) if "retention.bytes" in config else None,
                "rows": sum(end - first for first, end in spans),
                "offsets": spans,
            }
        )
    return made, rows


def _policy(row: dict[str, Any]) -> str:
    if not row["exists"]:
        return "missing: --create"
    if row["policy"] == "compact":
        return "compact"
    size = f", {row['retention_bytes'] >> 30} GiB" if (row["retention_bytes"] or -1) > 0 else ""
    return f"{row['policy']} {row['retention_ms'] / 3_600_000:g} h{size}"


def _offsets(row: dict[str, Any]) -> str:
    return " ".join(f"{first}..{end}" if first else str(end) for first, end in row["offsets"])
